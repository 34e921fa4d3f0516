//! `tunesmith sagemaker-entrypoint`: between what SageMaker gives a container and what `tunesmith train` wants.
//!
//! ```text
//!  /opt/ml/input/config/hyperparameters.json   the attempt, processes of each machine
//!  /opt/ml/input/config/resourceconfig.json    the machines: ranks follow from them
//!  /opt/ml/input/data/bundle/                  the job
//!  /opt/ml/checkpoints/                        its output, which SageMaker keeps in step with S3
//!  /opt/ml/model/                              a copy of the adapter, for SageMaker's own use
//!  /opt/ml/output/failure                      why it failed: SageMaker tells its first 1,024 characters
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Answer, interrupt};
use crate::error::HostError;
use crate::job::{ADAPTER_DIR, FAILURE_FILE, Failure, FailureKind, JOB_FILE, METRICS_FILE, PROGRAM, RESULT_FILE};
use crate::remote::sagemaker::CHANNEL;

/// Nobody chooses it: a program is run from there.
const ROOT: &str = "/opt/ml";
/// What SageMaker reads of a failure.
const FAILURE_CHARACTERS: usize = 1024;
/// Where the ranks meet, on the first machine.
const PORT: &str = "29500";
/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn run() -> Result<Answer, HostError> {
    let stop = interrupt::watch();
    let root = Path::new(ROOT);
    let code = match train(root, stop) {
        Ok(code) => code,
        Err(failure) => {
            leave_failure(root, &failure);
            eprintln!("error: {}", failure.message);
            failure.kind.exit_code().into()
        }
    };
    let mut answer =
        Answer::new(format!("the training ended with exit code {code}"), &serde_json::json!({ "exit_code": code }));
    // A signal's is told as shells do, so that it never looks like none.
    answer.exit_code = u8::try_from(code).unwrap_or(1);
    Ok(answer)
}

/// Of text alone: SageMaker knows no numbers here.
#[derive(Deserialize)]
struct HyperParameters {
    attempt: String,
    #[serde(default)]
    ranks_per_node: Option<String>,
}

#[derive(Deserialize)]
struct ResourceConfig {
    current_host: String,
    hosts: Vec<String>,
}

fn train(root: &Path, stop: &AtomicBool) -> Result<i32, Failure> {
    let config = root.join("input/config");
    let parameters: HyperParameters = read(&config.join("hyperparameters.json"))?;
    let machines: ResourceConfig = read(&config.join("resourceconfig.json"))?;
    let out = root.join("checkpoints");
    // A channel keeps no modes, and may be mounted so that nothing in it can be changed.
    let program = own_copy(&root.join("input/data").join(CHANNEL).join(PROGRAM))?;
    let of_node = parameters.ranks_per_node.as_deref().map_or(Ok(1), str::parse::<usize>);
    let of_node = of_node.map_err(|error| setup(format!("hyperparameter `ranks_per_node`: {error}")))?.max(1);
    let ranks = ranks(&machines, of_node)?;
    let mut processes = Vec::with_capacity(ranks.len());
    for rank in &ranks {
        let mut command = Command::new(&program);
        command.arg("train").arg("--job").arg(root.join("input/data").join(CHANNEL).join(JOB_FILE));
        command.arg("--out").arg(&out).arg("--attempt").arg(&parameters.attempt);
        match command.envs(rank.iter().cloned()).spawn() {
            Ok(process) => processes.push(process),
            Err(error) => {
                end(&mut processes);
                return Err(setup(format!("cannot run `{}`: {error}", program.display())));
            }
        }
    }
    let code = wait(processes, stop);
    if code != 0 {
        let told = fs::read(out.join(FAILURE_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        leave_failure(root, &told.unwrap_or_else(|| Failure::of_exit_code(code, "the trainer left no word")));
    } else if machines.hosts.first() == Some(&machines.current_host) {
        // The result is in the checkpoints already: a copy that fails costs nobody an adapter.
        if let Err(error) = copy_result(&out, &root.join("model")) {
            eprintln!("warning: the adapter was not copied to `{}`: {error}", root.join("model").display());
        }
    }
    Ok(code)
}

/// The variables of each process on this machine; none where there is one process alone.
fn ranks(machines: &ResourceConfig, of_node: usize) -> Result<Vec<Vec<(String, String)>>, Failure> {
    let world = machines.hosts.len() * of_node;
    if world <= 1 {
        return Ok(vec![Vec::new()]);
    }
    let mut hosts = machines.hosts.clone();
    hosts.sort_by_key(|host| (host.len(), host.clone())); // `algo-2` before `algo-10`
    let Some(node) = hosts.iter().position(|host| *host == machines.current_host) else {
        return Err(setup(format!("this machine, `{}`, is not among the job's", machines.current_host)));
    };
    let variables = |local: usize| {
        let of_rank = [
            ("RANK", (node * of_node + local).to_string()),
            ("LOCAL_RANK", local.to_string()),
            ("WORLD_SIZE", world.to_string()),
            ("LOCAL_WORLD_SIZE", of_node.to_string()),
            ("MASTER_ADDR", hosts[0].clone()),
            ("MASTER_PORT", PORT.to_owned()),
        ];
        of_rank.map(|(name, value)| (name.to_owned(), value)).to_vec()
    };
    Ok((0..of_node).map(variables).collect())
}

/// Until all have ended: the first that fails ends the others, and a signal to this process is one to them.
fn wait(mut processes: Vec<Child>, stop: &AtomicBool) -> i32 {
    let (mut code, mut told) = (0, false);
    while !processes.is_empty() {
        processes.retain_mut(|process| match process.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                use std::os::unix::process::ExitStatusExt;
                let ended = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
                code = if code == 0 { ended } else { code };
                false
            }
            Err(_) => false,
        });
        if (stop.load(Ordering::Relaxed) || code != 0) && !told {
            end(&mut processes);
            told = true;
        }
        if !processes.is_empty() {
            thread::sleep(LOOK);
        }
    }
    code
}

fn end(processes: &mut [Child]) {
    for process in processes {
        // SAFETY: the process is a child that was not waited for yet, so its id is its own.
        unsafe { libc::kill(process.id() as libc::pid_t, libc::SIGTERM) };
    }
}

fn own_copy(program: &Path) -> Result<PathBuf, Failure> {
    let copy = std::env::temp_dir().join(format!("tunesmith-{}", std::process::id()));
    let made = fs::copy(program, &copy).and_then(|_| fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)));
    made.map_err(|error| setup(format!("cannot copy `{}`: {error}", program.display())))?;
    Ok(copy)
}

fn copy_result(out: &Path, model: &Path) -> std::io::Result<()> {
    fs::create_dir_all(model)?;
    for entry in fs::read_dir(out.join(ADAPTER_DIR))? {
        let entry = entry?;
        fs::copy(entry.path(), model.join(entry.file_name()))?;
    }
    for name in [METRICS_FILE, RESULT_FILE] {
        fs::copy(out.join(name), model.join(name))?;
    }
    Ok(())
}

fn leave_failure(root: &Path, failure: &Failure) {
    let text: String =
        format!("{}: {}", failure.kind.name(), failure.message).chars().take(FAILURE_CHARACTERS).collect();
    let folder = root.join("output");
    if let Err(error) = fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join("failure"), text)) {
        eprintln!("warning: cannot write `{}`: {error}", folder.join("failure").display());
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = fs::read(path).map_err(|error| {
        setup(format!("cannot read `{}`: {error}; is this a container of SageMaker's?", path.display()))
    })?;
    serde_json::from_slice(&text).map_err(|error| setup(format!("`{}`: {error}", path.display())))
}

fn setup(message: String) -> Failure {
    Failure { kind: FailureKind::SetUp, exit_code: None, message }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard};

    use super::*;

    /// One at a time: they share the place of the program's copy, and a file that is open for writing in a process that another test
    /// starts can't be run.
    static ONE: Mutex<()> = Mutex::new(());

    struct Container {
        root: tempfile::TempDir,
        _one: MutexGuard<'static, ()>,
    }

    impl Container {
        fn path(&self) -> &Path {
            self.root.path()
        }
    }

    /// A container whose program is a script.
    fn container(script: &str, hosts: &[&str], ranks_per_node: &str) -> Container {
        let one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let parameters =
            serde_json::json!({ "attempt": "3", "ranks_per_node": ranks_per_node, "job": "acme-01", "digest": "01" });
        write("input/config/hyperparameters.json", &parameters.to_string());
        let machines = serde_json::json!({ "current_host": hosts[hosts.len() - 1], "hosts": hosts, "network_interface_name": "eth0" });
        write("input/config/resourceconfig.json", &machines.to_string());
        write("input/data/bundle/tunesmith", script);
        write("input/data/bundle/job.json", "{}");
        fs::create_dir_all(root.path().join("checkpoints")).unwrap();
        Container { root, _one: one }
    }

    const TRAINS: &str = "#!/bin/sh
echo \"$@\" > \"$5/arguments\"
mkdir -p \"$5/adapter\"
echo weights > \"$5/adapter/adapter_model.safetensors\"
echo '{}' > \"$5/metrics.jsonl\"
echo '{}' > \"$5/result.json\"
";

    #[test]
    fn what_the_container_is_given_is_what_train_is_given() {
        let root = container(TRAINS, &["algo-1"], "1");
        assert_eq!(train(root.path(), &AtomicBool::new(false)).unwrap(), 0);
        let at = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        let ml = root.path().display();
        assert_eq!(
            at("checkpoints/arguments"),
            format!("train --job {ml}/input/data/bundle/job.json --out {ml}/checkpoints --attempt 3\n")
        );
        assert_eq!(at("model/adapter_model.safetensors"), "weights\n");
        assert!(root.path().join("model/result.json").is_file());
        assert!(!root.path().join("output/failure").exists());
    }

    #[test]
    fn a_failure_is_told_in_the_trainers_words_and_in_no_more_than_sagemaker_reads() {
        let failure = serde_json::json!({ "kind": "bad_input", "exit_code": 65, "message": "é".repeat(3000) });
        let script = format!("#!/bin/sh\necho '{failure}' > \"$5/failure.json\"\nexit 65\n");
        let root = container(&script, &["algo-1"], "1");
        assert_eq!(train(root.path(), &AtomicBool::new(false)).unwrap(), 65);
        let told = fs::read_to_string(root.path().join("output/failure")).unwrap();
        assert!(told.starts_with("bad input: éé"), "{told}");
        assert_eq!(told.chars().count(), 1024);
        assert!(!root.path().join("model").exists());
    }

    #[test]
    fn a_killed_trainer_has_its_signals_exit_code_and_is_said_to_have_left_no_word() {
        let root = container("#!/bin/sh\nkill -9 $$\n", &["algo-1"], "1");
        assert_eq!(train(root.path(), &AtomicBool::new(false)).unwrap(), 137);
        assert_eq!(
            fs::read_to_string(root.path().join("output/failure")).unwrap(),
            "machine lost: the trainer left no word"
        );
    }

    #[test]
    fn a_signal_reaches_the_trainer() {
        let script = "#!/bin/sh\ntrap 'exit 75' TERM\n: > \"$5/listens\"\nwhile :; do sleep 0.1; done\n";
        let root = container(script, &["algo-1"], "1");
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !root.path().join("checkpoints/listens").exists() {
                    thread::sleep(LOOK);
                }
                stop.store(true, Ordering::Relaxed);
            });
            assert_eq!(train(root.path(), &stop).unwrap(), 75);
        });
    }

    #[test]
    fn each_process_knows_its_rank_and_one_that_fails_ends_the_others() {
        let script = "#!/bin/sh
echo \"$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT\" > \"$5/rank-$RANK\"
[ $LOCAL_RANK = 0 ] || { until [ -s \"$5/rank-2\" ]; do sleep 0.05; done; exit 76; }
trap 'exit 75' TERM
while :; do sleep 0.1; done
";
        let root = container(script, &["algo-1", "algo-2"], "2");
        assert_eq!(train(root.path(), &AtomicBool::new(false)).unwrap(), 76);
        let at = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!(at("checkpoints/rank-2"), "2 0 4 2 algo-1 29500\n");
        assert_eq!(at("checkpoints/rank-3"), "3 1 4 2 algo-1 29500\n");
    }

    #[test]
    fn a_machine_that_is_no_container_of_sagemakers_is_told_so() {
        let root = tempfile::tempdir().unwrap();
        let failure = train(root.path(), &AtomicBool::new(false)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::SetUp);
        assert!(failure.message.contains("is this a container of SageMaker's?"), "{}", failure.message);
    }
}
