//! What this machine has, and whether a job fits.

use trainer_cuda::cuda::{self, CudaOptions};

use crate::remote::Resources;
use crate::remote::worker::contract::{VERSION, WorkerInfo};

/// What a worker can give a job.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    gpus: Vec<String>,
    cpu: u32,
    memory_mib: u64,
}

impl Machine {
    /// This one.
    pub(super) fn here() -> Self {
        let gpus = cuda::report(&CudaOptions::default()).gpus;
        let usable = gpus.into_iter().filter(|gpu| gpu.refused.is_none()).map(|gpu| gpu.name).collect();
        let cpu = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Self { gpus: usable, cpu, memory_mib: memory_mib().unwrap_or(u64::MAX) }
    }

    /// Why a job can't have that here, by the names of its settings.
    pub(super) fn refuses(&self, resources: &Resources) -> Option<String> {
        let Resources { gpu, gpu_count, nodes, cpu, memory_mib } = resources;
        if *nodes > 1 {
            return Some(format!("a worker is one machine, and `remote.nodes` is {nodes}"));
        }
        match gpu {
            Some(_) if *gpu_count > 1 => {
                return Some(format!("a worker trains on one GPU, and `gpu_count` is {gpu_count}"));
            }
            Some(kind) if self.gpus.is_empty() => {
                return Some(format!("it has no GPU, and `gpu` is `{kind}` (`none` trains on the processor)"));
            }
            Some(kind) if !self.gpus.iter().any(|name| is_of_kind(name, kind)) => {
                return Some(format!("its GPU is `{}`, and `gpu` is `{kind}`", self.gpus.join("`, `")));
            }
            _ => {}
        }
        if *cpu > self.cpu {
            return Some(format!("it has {} processor cores, and `cpu` is {cpu}", self.cpu));
        }
        if *memory_mib > self.memory_mib {
            return Some(format!("it has {} MiB of memory, and `memory` is {memory_mib}", self.memory_mib));
        }
        None
    }

    /// As a client is told.
    pub(super) fn info(&self, running: Option<String>) -> WorkerInfo {
        WorkerInfo {
            contract: VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            gpus: self.gpus.clone(),
            cpu: self.cpu,
            memory_mib: self.memory_mib,
            running,
        }
    }
}

/// `A100-80GB` is an `NVIDIA A100-SXM4-80GB`, and an `A10` is no `A100`.
fn is_of_kind(name: &str, kind: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_ascii_lowercase).collect()
    };
    let name = words(name);
    words(kind).iter().all(|word| name.contains(word))
}

fn memory_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    Some(kib? >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_does_not_fit_is_told_which_setting_is_too_much() {
        let machine = Machine { gpus: vec!["NVIDIA A100-SXM4-80GB".to_owned()], cpu: 8, memory_mib: 32000 };
        let fits = Resources { gpu: Some("A100-80GB".to_owned()), gpu_count: 1, nodes: 1, cpu: 8, memory_mib: 32000 };
        let refuses = |change: &dyn Fn(&mut Resources)| {
            let mut resources = fits.clone();
            change(&mut resources);
            machine.refuses(&resources)
        };
        let told = |text: &str| Some(text.to_owned());
        assert_eq!(refuses(&|_| ()), None);
        assert_eq!(refuses(&|it| it.gpu = None), None);
        assert_eq!(refuses(&|it| it.nodes = 2), told("a worker is one machine, and `remote.nodes` is 2"));
        assert_eq!(refuses(&|it| it.gpu_count = 4), told("a worker trains on one GPU, and `gpu_count` is 4"));
        assert_eq!(
            refuses(&|it| it.gpu = Some("A10".to_owned())),
            told("its GPU is `NVIDIA A100-SXM4-80GB`, and `gpu` is `A10`")
        );
        assert_eq!(refuses(&|it| it.cpu = 9), told("it has 8 processor cores, and `cpu` is 9"));
        assert_eq!(refuses(&|it| it.memory_mib = 64000), told("it has 32000 MiB of memory, and `memory` is 64000"));
        let none = Machine { gpus: Vec::new(), ..machine };
        assert_eq!(
            none.refuses(&fits),
            told("it has no GPU, and `gpu` is `A100-80GB` (`none` trains on the processor)")
        );
    }
}
