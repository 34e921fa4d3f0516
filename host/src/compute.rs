//! What computes: the device that was named, or the best that is here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use trainer_cuda::config::Precision;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::cuda::{self, Cuda, CudaOptions};
use trainer_cuda::device::Device;

use crate::config::{self, ComputeOptions, ConfigError};
use crate::error::HostError;
use crate::memory::{Memory, MemoryLimit};

/// `auto`, `cpu`, `cuda` or `cuda:1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceName {
    /// The first GPU that will do, else the CPU.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of that number.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(ordinal))) => Ok(Self::Cuda(ordinal)),
            _ => Err(format!("`{text}` is no device: use `auto`, `cpu`, `cuda`, or `cuda:1` for the second GPU")),
        }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

/// What may compute, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeConfig {
    /// What was asked for.
    pub device: DeviceName,
    /// How frozen weights are held; none means the device's own way.
    pub precision: Option<Precision>,
    /// Threads of the processor; none means all that the process may run on.
    pub threads: Option<usize>,
    /// A folder with NVIDIA's libraries.
    pub cuda_libs: Option<PathBuf>,
    /// Whether each operation of a GPU is waited for.
    pub cuda_wait: bool,
}

/// A device that is open.
pub enum Opened {
    /// The processor.
    Cpu(Cpu),
    /// A GPU.
    Cuda(Box<Cuda>),
}

impl ComputeConfig {
    /// Fills in the defaults.
    pub fn new(options: &ComputeOptions, precision: Option<config::Precision>) -> Self {
        Self {
            device: options.device.unwrap_or_default(),
            precision: precision.map(Into::into),
            threads: options.threads.map(|threads| threads.get() as usize),
            cuda_libs: options.cuda_libs.clone(),
            cuda_wait: options.cuda_wait.unwrap_or(false),
        }
    }

    /// How a GPU is used.
    pub fn cuda_options(&self) -> CudaOptions {
        CudaOptions { libraries: self.cuda_libs.clone(), graphs: !self.cuda_wait, wait_for_each: self.cuda_wait }
    }

    /// Opens the device, and says why it is this one where `auto` chose.
    ///
    /// # Errors
    /// Those of [`Cuda::open`], where a GPU was asked for.
    pub fn open(&self) -> Result<(Opened, Option<String>), HostError> {
        let cpu = || Opened::Cpu(Cpu::new(self.threads));
        let gpu = |ordinal| Ok::<_, HostError>(Opened::Cuda(Box::new(Cuda::open(ordinal, self.cuda_options())?)));
        match self.device {
            DeviceName::Cpu => Ok((cpu(), None)),
            DeviceName::Cuda(ordinal) => Ok((gpu(ordinal)?, None)),
            DeviceName::Auto if self.precision == Some(Precision::F32) => {
                Ok((cpu(), Some("`precision` is f32, and a GPU computes in bf16".to_owned())))
            }
            DeviceName::Auto => match self.first_gpu() {
                Ok((ordinal, name)) => Ok((gpu(ordinal)?, Some(format!("it is the first GPU that will do, {name}")))),
                Err(why) => Ok((cpu(), Some(why))),
            },
        }
    }

    /// Number and name of the first GPU that can train, or why there is none.
    fn first_gpu(&self) -> Result<(usize, String), String> {
        let cuda::Report { gpus, problem, .. } = cuda::report(&self.cuda_options());
        if let Some(problem) = problem {
            return Err(problem.what);
        }
        let mut refused = Vec::new();
        for gpu in gpus {
            match gpu.refused {
                None => return Ok((gpu.ordinal, gpu.name)),
                Some(why) => refused.push(format!("cuda:{}, {}, has {why}", gpu.ordinal, gpu.name)),
            }
        }
        Err(if refused.is_empty() { "the NVIDIA driver finds no GPU".to_owned() } else { refused.join("; ") })
    }

    /// How frozen weights are held on `device`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] where it can't hold them so.
    pub fn precision_on(&self, device: &Opened) -> Result<Precision, HostError> {
        match (device, self.precision) {
            (Opened::Cpu(_), given) => Ok(given.unwrap_or(Precision::F32)),
            (Opened::Cuda(_), Some(Precision::F32)) => Err(ConfigError::Invalid {
                key: "training.precision",
                value: "\"f32\"".to_owned(),
                want: "a GPU computes in bf16; use `bf16` or `quantized`, or `--device cpu`".to_owned(),
            }
            .into()),
            (Opened::Cuda(_), given) => Ok(given.unwrap_or(Precision::Bf16)),
        }
    }
}

impl Opened {
    /// `cuda:0 (NVIDIA H100 80GB HBM3, sm_90, CUDA 13.0, cuBLASLt)`
    pub fn describe(&self) -> String {
        match self {
            Self::Cpu(cpu) => cpu.describe(),
            Self::Cuda(cuda) => cuda.describe(),
        }
    }

    /// Whose memory a training takes.
    pub fn memory(&self) -> Memory {
        match self {
            Self::Cpu(_) => Memory::Cpu,
            Self::Cuda(_) => Memory::Cuda,
        }
    }

    /// What a training must stay within: the configured limit, or what is free; none where neither is known.
    ///
    /// # Errors
    /// The driver's.
    pub fn memory_limit(&self, configured: Option<u64>) -> Result<Option<MemoryLimit>, HostError> {
        match (self, configured) {
            (_, Some(bytes)) => Ok(Some(MemoryLimit::Configured(bytes))),
            (Self::Cpu(_), None) => Ok(crate::memory::available().map(MemoryLimit::Available)),
            (Self::Cuda(cuda), None) => Ok(Some(MemoryLimit::Available(cuda.free_bytes()?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        let name = |text: &str| text.parse::<DeviceName>();
        assert_eq!(name("auto"), Ok(DeviceName::Auto));
        assert_eq!(name("cpu"), Ok(DeviceName::Cpu));
        assert_eq!((name("cuda"), name("cuda:3")), (Ok(DeviceName::Cuda(0)), Ok(DeviceName::Cuda(3))));
        for wrong in ["gpu", "cuda:", "cuda:x", "CPU", ""] {
            let want = format!("`{wrong}` is no device: use `auto`, `cpu`, `cuda`, or `cuda:1` for the second GPU");
            assert_eq!(name(wrong), Err(want));
        }
        assert_eq!(DeviceName::Cuda(1).to_string(), "cuda:1");
    }
}
