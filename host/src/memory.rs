//! How much memory there is, and the error of a training that needs more.

use std::fs;
use std::path::Path;

use trainer_cuda::estimate::{Estimate, Group};

/// The buffers of a training do not fit. The first words are those that users of the Python system know of a GPU.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} out of memory. Tried to allocate {} ({}), and {}; {remedy}",
    .memory.name(), human(*.needed), parts(*.memory, .groups), .limit.describe()
)]
pub struct OutOfMemory {
    /// Whose memory.
    pub memory: Memory,
    /// Bytes of the plan.
    pub needed: u64,
    /// What they are for.
    pub groups: Vec<Group>,
    /// What they must stay within.
    pub limit: MemoryLimit,
    /// What would fit.
    pub remedy: String,
}

/// Whose memory a training takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// The machine's.
    Cpu,
    /// A GPU's.
    Cuda,
}

impl Memory {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Cuda => "CUDA",
        }
    }

    /// Bytes of a part.
    pub fn of_group(self, group: &Group) -> u64 {
        match self {
            Self::Cpu => group.cpu_bytes,
            Self::Cuda => group.gpu_bytes,
        }
    }

    /// Bytes of all of it.
    pub fn of(self, estimate: &Estimate) -> u64 {
        match self {
            Self::Cpu => estimate.cpu_bytes(),
            Self::Cuda => estimate.gpu_bytes(),
        }
    }
}

/// What the memory plan must stay within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// `training.memory_limit`, in bytes.
    Configured(u64),
    /// What is free, in bytes.
    Available(u64),
}

impl MemoryLimit {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Configured(bytes) | Self::Available(bytes) => bytes,
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Configured(bytes) => format!("`training.memory_limit` is {}", human(bytes)),
            Self::Available(bytes) => format!("{} are available", human(bytes)),
        }
    }
}

/// Bytes that this process may still take: what the machine has available, or less where a control group limits it.
/// None where the system does not say.
pub fn available() -> Option<u64> {
    available_under(Path::new("/"))
}

fn available_under(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse().ok());
    let of_machine: u64 = kib.map(|kib: u64| kib << 10)?;
    Some(of_control_group(root).map_or(of_machine, |bytes| bytes.min(of_machine)))
}

/// The least that any control group above this process leaves. Page cache counts as free: the kernel gives it back.
fn of_control_group(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounted = root.join("sys/fs/cgroup");
    let own = mounted.join(own);
    let above = own.ancestors().take_while(|folder| folder.starts_with(&mounted));
    let free = |folder: &Path| {
        let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
        let (most, taken) = (number("memory.max")?, number("memory.current")?);
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let cache = stat.lines().find_map(|line| line.strip_prefix("file ")?.parse().ok()).unwrap_or(0);
        Some(most.saturating_sub(taken.saturating_sub(cache)))
    };
    above.filter_map(free).min()
}

/// `12.00 GiB`, as PyTorch writes it.
pub fn human(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.2} {unit}", bytes as f64 / size as f64),
        None => format!("{bytes} bytes"),
    }
}

fn parts(memory: Memory, groups: &[Group]) -> String {
    let part = |group: &Group| format!("{} {}", group.name, human(memory.of_group(group)));
    groups.iter().map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal: 999999 kB\nMemAvailable:   2048 kB\n");

    #[test]
    fn without_a_control_groups_limit_the_machines_memory_counts() {
        let free = |files: &[(&str, &str)]| available_under(root(files).path());
        assert_eq!(free(&[MEMINFO]), Some(2 << 20));
        let group = ("proc/self/cgroup", "0::/\n");
        assert_eq!(free(&[MEMINFO, group, ("sys/fs/cgroup/memory.max", "max\n")]), Some(2 << 20));
        assert_eq!(free(&[]), None);
    }

    #[test]
    fn a_control_group_above_limits_what_is_available_less_what_is_taken_but_for_the_page_cache() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/box/run\n"),
            ("sys/fs/cgroup/box/memory.max", "1000000\n"),
            ("sys/fs/cgroup/box/memory.current", "700000\n"),
            ("sys/fs/cgroup/box/memory.stat", "anon 500000\nfile 200000\n"),
            ("sys/fs/cgroup/box/run/memory.max", "max\n"),
        ];
        assert_eq!(available_under(root(&files).path()), Some(500_000));
    }

    #[test]
    fn sizes_are_written_as_pytorch_writes_them() {
        assert_eq!(human(12 << 30), "12.00 GiB");
        assert_eq!(human((20 << 20) + (1 << 19)), "20.50 MiB");
        assert_eq!((human(2048), human(7)), ("2.00 KiB".to_owned(), "7 bytes".to_owned()));
    }
}
