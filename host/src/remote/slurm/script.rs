//! What `sbatch` gets: its arguments, and the script that the first machine runs.

use std::path::{Path, PathBuf};

use super::command::quoted;
use crate::config::SlurmOptions;
use crate::job::{JOB_FILE, PROGRAM};
use crate::remote::{GRACE, Resources, Submission};

/// What a job sees of our environment, beside SLURM_...: never the secrets in it.
const ENVIRONMENT: &str = "PATH,HOME,USER,LOGNAME,LANG";

/// A job's folder, by the path that all machines have for it.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    pub(super) fn out(&self) -> PathBuf {
        self.0.join("out")
    }

    pub(super) fn log(&self, attempt: u32) -> PathBuf {
        self.0.join(format!("log-{attempt}.txt"))
    }
}

/// The machines that are asked for.
pub(super) fn machines(options: &SlurmOptions, resources: &Resources) -> Vec<String> {
    let ranks = resources.ranks_per_node();
    let mut args = vec![
        format!("--nodes={}", resources.nodes),
        format!("--ntasks-per-node={ranks}"),
        format!("--cpus-per-task={}", cpus_per_rank(resources)),
        format!("--mem={}M", resources.memory_mib),
    ];
    if let Some(gpu) = &resources.gpu {
        let gres = options.gres.as_deref().unwrap_or("gpu:{gpu}:{count}");
        let gres = gres.replace("{gpu}", &gpu.to_ascii_lowercase()).replace("{count}", &ranks.to_string());
        args.push(format!("--gres={gres}"));
    }
    for (name, value) in [("partition", &options.partition), ("account", &options.account), ("qos", &options.qos)] {
        args.extend(value.as_ref().map(|value| format!("--{name}={value}")));
    }
    args.extend(options.sbatch_args.iter().cloned());
    args
}

/// All of `sbatch`'s arguments; the script comes by its standard input.
pub(super) fn arguments(options: &SlurmOptions, attempt: &Submission<'_>, folder: &Folder) -> Vec<String> {
    // Slurm may send the signal a minute early, and counts in minutes.
    let minutes = (attempt.timeout + GRACE).as_secs().div_ceil(60) + 1;
    // A batch of one process is that process; with more, they are the step's, and the script's own is `srun`.
    let whom = if attempt.resources.world_size() == 1 { "B:" } else { "" };
    let mut args = vec![
        "--parsable".to_owned(),
        format!("--job-name={}", attempt.id),
        format!("--comment={}", attempt.bundle.digest),
        format!("--chdir={}", folder.bundle().display()),
        format!("--output={}", folder.log(attempt.id.attempt).display().to_string().replace('%', "%%")),
        "--open-mode=append".to_owned(),
        // A lost machine is ours to see: Slurm would start the same attempt again, beside what is left of the first.
        "--no-requeue".to_owned(),
        // Should it be handed in twice, the second waits for the first, and then finds its result.
        "--dependency=singleton".to_owned(),
        format!("--export={ENVIRONMENT}"),
        format!("--time={minutes}"),
        format!("--signal={whom}TERM@{}", GRACE.as_secs()),
    ];
    args.extend(machines(options, attempt.resources));
    args
}

/// The script of the first machine.
pub(super) fn script(options: &SlurmOptions, attempt: &Submission<'_>, folder: &Folder) -> String {
    let setup = options.setup.as_deref().unwrap_or_default().trim_end();
    let launcher = if attempt.resources.world_size() == 1 {
        String::new()
    } else {
        // Since 22.05 `srun` takes the cores of a task from nobody else. SLURM_PROCID and the like tell the ranks who they are.
        format!("srun --kill-on-bad-exit=1 --export=ALL --cpus-per-task={} ", cpus_per_rank(attempt.resources))
    };
    let path = |path: &Path| quoted(&path.display().to_string());
    format!(
        "#!/bin/bash\n{setup}\n\
         address=$(scontrol show node \"$SLURMD_NODENAME\" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')\n\
         export MASTER_ADDR=\"${{address:-$(hostname)}}\" MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))\n\
         exec {launcher}{} train --job {} --out {} --attempt {}\n",
        path(&folder.bundle().join(PROGRAM)),
        path(&folder.bundle().join(JOB_FILE)),
        path(&folder.out()),
        attempt.id.attempt,
    )
}

fn cpus_per_rank(resources: &Resources) -> u32 {
    (resources.cpu / resources.ranks_per_node()).max(1)
}
