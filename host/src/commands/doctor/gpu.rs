//! The GPU, its driver, and the library for products: what is found, where, and where to get the rest.

use std::path::Path;

use trainer_cuda::cuda::libraries::Found;
use trainer_cuda::cuda::{self, Report};

use super::{Finding, note, ok};
use crate::compute::ComputeConfig;
use crate::memory::human;

pub(super) fn findings(compute: &ComputeConfig, root: &Path) -> Vec<Finding> {
    tell(&cuda::report(&compute.cuda_options()), root)
}

fn tell(report: &Report, root: &Path) -> Vec<Finding> {
    let Report { driver, driver_version, products, gpus, problem } = report;
    let mut findings = Vec::new();
    if let (Found { path: Some(path), .. }, Some((major, minor))) = (driver, driver_version) {
        findings.push(ok("NVIDIA driver", format!("CUDA {major}.{minor}, {}", path.display())));
    }
    if let Some(problem) = problem {
        findings.push(note("GPU", problem.what.clone(), traces(root).unwrap_or_else(|| problem.remedy.clone())));
        return findings;
    }
    for gpu in gpus {
        let (major, minor) = gpu.compute_capability;
        let found = format!("cuda:{} {}, sm_{major}{minor}, {}", gpu.ordinal, gpu.name, human(gpu.total_bytes));
        findings.push(match &gpu.refused {
            None => ok("GPU", found),
            Some(why) => note("GPU", format!("{found}: {why}"), "it is not used"),
        });
    }
    findings.push(match (&products.path, &products.error) {
        (Some(path), _) => ok("cuBLASLt", path.display().to_string()),
        (None, error) => note(
            "cuBLASLt",
            error.clone().unwrap_or_else(|| "not found: our own products serve, which are slower".to_owned()),
            "`pip install nvidia-cublas` has it, as has the CUDA toolkit; name its folder with `--cuda-libs`",
        ),
    });
    findings
}

/// What to do, where the system shows traces of a GPU that the driver's library does not.
fn traces(root: &Path) -> Option<String> {
    let device = ["dev/nvidia0", "dev/nvhost-gpu"].iter().any(|path| root.join(path).exists());
    let module = std::fs::read_to_string(root.join("proc/driver/nvidia/version")).ok();
    let version = module.as_deref().and_then(|text| text.lines().next()).and_then(version_in);
    match (device, version) {
        (true, Some(version)) => Some(format!(
            "there is a device, and the kernel module of driver {version}: install `libcuda` of the same version \
             (`libnvidia-compute` on Ubuntu), or name its folder with `--cuda-libs`"
        )),
        (true, None) => Some("there is a device, but no kernel module: load `nvidia` (`modprobe nvidia`)".to_owned()),
        (false, Some(version)) => Some(format!(
            "the kernel module of driver {version} is loaded, but there is no device file: in a container, pass the GPU \
             in (`--gpus all`)"
        )),
        (false, None) => None,
    }
}

/// The version in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 ...`.
fn version_in(line: &str) -> Option<&str> {
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    line.split_whitespace().find(is_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn traces_of_a_gpu_have_each_their_own_remedy() {
        let version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC version: 12\n";
        let module = ("proc/driver/nvidia/version", version);
        let remedy = |files: &[(&str, &str)]| traces(root(files).path());
        assert!(remedy(&[module, ("dev/nvidia0", "")]).unwrap().contains("driver 550.54.14: install `libcuda`"));
        assert!(remedy(&[("dev/nvhost-gpu", "")]).unwrap().contains("modprobe nvidia"));
        assert!(remedy(&[module]).unwrap().contains("--gpus all"));
        assert_eq!(remedy(&[]), None);
    }
}
