use serde::{Deserialize, Serialize};

/// `[remote.slurm]`: a Slurm cluster, by its programs (`sbatch`, `squeue`, `scontrol`, `scancel`, `sinfo`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmOptions {
    /// Login node that the programs are run on, as `ssh` takes it: `user@login` [default: they are run here]. Keys, ports and
    /// known hosts are those of `ssh`'s own configuration; it is never asked for a password.
    pub ssh: Option<String>,
    /// What `ssh` gets before that: `["-F", "/etc/tunesmith/ssh_config"]`.
    pub ssh_args: Vec<String>,
    /// Partition [default: the cluster's].
    pub partition: Option<String>,
    /// Account that pays [default: the user's].
    pub account: Option<String>,
    /// Quality of service [default: the account's].
    pub qos: Option<String>,
    /// What a machine's GPUs are asked for by; `{gpu}` is `gpu` in lower case, `{count}` is `gpu_count`
    /// [default: `gpu:{gpu}:{count}`; where the cluster has one kind: `gpu:{count}`].
    pub gres: Option<String>,
    /// What else `sbatch` gets: `["--constraint=nvme"]`.
    pub sbatch_args: Vec<String>,
    /// Lines of `bash` that come before the training: `module load cuda`.
    pub setup: Option<String>,
}
