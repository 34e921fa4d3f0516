//! The CUDA device: bf16 weights and activations, f32 sums and optimiser state, custom kernels.
//!
//! Read in this order: [`layout`] (how things lie in memory), `memory.rs` (buffers and the way to the host), `launch.rs`
//! (kernels), then any operation, a file each with its kernel's name. `device.rs` lists them all.

mod adamw;
mod arena;
mod attention;
mod cross_entropy;
mod device;
mod elementwise;
mod embedding;
mod failure;
mod graph;
mod launch;
pub mod layout;
pub mod libraries;
mod linear;
mod losses;
mod low_rank;
mod memory;
mod nccl;
mod nccl_library;
mod norms;
mod pool;
mod products;
mod rows;
mod weights;

pub use launch::Launches;
pub use memory::{Act, Buffer, Mask};
pub use weights::{Optimizer, Packed, Weight};

use crate::{Result, TrainerError};
use cudarc::driver::{CudaContext, CudaStream, sys};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use arena::Arena;
use failure::{Failure, message};
use graph::Graphs;
use launch::Kernels;
use libraries::Found;
use memory::Staging;
use products::CublasLt;
use weights::Trained;

/// The least version of CUDA that the driver must know: the PTX that ships is of 12.8.
const DRIVER_VERSION: i32 = 12_080;
/// The least compute capability: bf16 tensor cores and asynchronous copies.
const COMPUTE_CAPABILITY: (i32, i32) = (8, 0);

/// How the device is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaOptions {
    /// A folder with NVIDIA's libraries, looked at before the places that are usual.
    pub libraries: Option<PathBuf>,
    /// Whether steps are recorded and replayed as one launch.
    pub graphs: bool,
    /// Waits for each operation, so that a failure names the one that failed; slow.
    pub wait_for_each: bool,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self { libraries: None, graphs: true, wait_for_each: false }
    }
}

/// A GPU.
pub struct Cuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    options: CudaOptions,
    /// What it is, for people.
    description: String,
    cublas_lt: Option<CublasLt>,
    kernels: Kernels,
    graphs: Graphs,
    recording: Cell<bool>,
    launches: Cell<Launches>,
    failure: Failure,
    staging: Staging,
    arena: RefCell<Option<Rc<Arena>>>,
    trained: RefCell<Option<Trained>>,
    /// Parts of the arena that operations share: none of them needs one after it has ended.
    workspace: Cell<u64>,
    counters: Cell<u64>,
    staged: Cell<u64>,
    dequantized: Cell<u64>,
}

/// A GPU, as the driver tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// The number in `cuda:0`.
    pub ordinal: usize,
    /// `NVIDIA H100 80GB HBM3`
    pub name: String,
    /// `9.0`
    pub compute_capability: (i32, i32),
    /// Of memory, in bytes.
    pub total_bytes: u64,
    /// Why this build can't train on it.
    pub refused: Option<String>,
}

/// What of NVIDIA's software and hardware was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `libcuda`
    pub driver: Found,
    /// CUDA's version that the driver knows, as `(12, 8)`.
    pub driver_version: Option<(i32, i32)>,
    /// `libcublasLt`
    pub products: Found,
    /// All that are visible.
    pub gpus: Vec<Gpu>,
    /// Why none can be used.
    pub problem: Option<Problem>,
}

/// What is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `no GPU is visible: ...`
    pub what: String,
    /// `unset it or ...`
    pub remedy: String,
}

impl From<Problem> for TrainerError {
    fn from(Problem { what, remedy }: Problem) -> Self {
        Self::NoGpu { what, remedy }
    }
}

/// Looks for GPUs.
pub fn report(options: &CudaOptions) -> Report {
    let libraries = libraries::open(options.libraries.as_deref());
    let mut report = Report {
        driver: libraries.driver.clone(),
        driver_version: None,
        products: libraries.products.clone(),
        gpus: Vec::new(),
        problem: None,
    };
    match driver_version(libraries) {
        Err(problem) => report.problem = Some(problem),
        Ok(version) => {
            report.driver_version = Some((version / 1000, version % 1000 / 10));
            match CudaContext::device_count() {
                Ok(count) => report.gpus = (0..count as usize).filter_map(gpu).collect(),
                Err(error) => report.problem = Some(no_device(error)),
            }
        }
    }
    report
}

/// The version of CUDA that the driver knows: 12080 is 12.8.
fn driver_version(libraries: &libraries::Libraries) -> Result<i32, Problem> {
    let missing = |what: String, remedy: &str| Err(Problem { what, remedy: remedy.to_owned() });
    if libraries.driver.path.is_none() {
        let what = libraries
            .driver
            .error
            .clone()
            .unwrap_or_else(|| "there is no NVIDIA driver: `libcuda.so.1` is not found".into());
        return missing(
            what,
            "install the driver (570 or newer), or name the folder of its library with `--cuda-libs`; `--device cpu` trains \
             without a GPU",
        );
    }
    let mut version = 0;
    // SAFETY: the library is open; the call needs no initialisation.
    match unsafe { sys::cuDriverGetVersion(&raw mut version) }.result() {
        Err(error) => missing(format!("the NVIDIA driver does not answer: {}", message(error)), "restart the machine"),
        Ok(()) if version < DRIVER_VERSION => missing(
            format!(
                "the NVIDIA driver knows CUDA {}.{}, and this build needs 12.8",
                version / 1000,
                version % 1000 / 10
            ),
            "install driver 570 or newer; `--device cpu` trains without a GPU",
        ),
        Ok(()) => Ok(version),
    }
}

/// The driver is there, and shows no device.
fn no_device(error: cudarc::driver::DriverError) -> Problem {
    let (what, remedy) = match (error.0, std::env::var("CUDA_VISIBLE_DEVICES")) {
        (sys::CUresult::CUDA_ERROR_NO_DEVICE, Ok(visible)) => (
            format!("no GPU is visible: `CUDA_VISIBLE_DEVICES` is {visible:?}"),
            "unset it or name a GPU in it; `--device cpu` trains without a GPU",
        ),
        (sys::CUresult::CUDA_ERROR_NO_DEVICE, Err(_)) => (
            "the NVIDIA driver finds no GPU".to_owned(),
            "in a container, pass the GPU in (`--gpus all`); `--device cpu` trains without a GPU",
        ),
        _ => (
            format!("the NVIDIA driver does not start: {}", message(error)),
            "look at `nvidia-smi`; `--device cpu` trains without a GPU",
        ),
    };
    Problem { what, remedy: remedy.to_owned() }
}

fn gpu(ordinal: usize) -> Option<Gpu> {
    use cudarc::driver::result::device;
    let handle = device::get(ordinal as i32).ok()?;
    // SAFETY: a device that the driver gave.
    let attribute = |which| unsafe { device::get_attribute(handle, which) }.ok();
    let major = attribute(sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // SAFETY: as above.
    let total_bytes = unsafe { device::total_mem(handle) }.ok()? as u64;
    let compute_capability = (major, minor);
    let refused = (compute_capability < COMPUTE_CAPABILITY)
        .then(|| format!("compute capability {major}.{minor}, and this build needs 8.0 (Ampere) or newer"));
    Some(Gpu { ordinal, name: device::get_name(handle).ok()?, compute_capability, total_bytes, refused })
}

impl Cuda {
    /// The GPU of that number.
    ///
    /// # Errors
    /// [`TrainerError::NoGpu`], with what to do; [`TrainerError::Cuda`].
    pub fn open(ordinal: usize, options: CudaOptions) -> Result<Self> {
        let libraries = libraries::open(options.libraries.as_deref());
        let version = driver_version(libraries)?;
        let count = CudaContext::device_count().map_err(no_device)? as usize;
        let refuse = |what: String, remedy: &str| Err(TrainerError::NoGpu { what, remedy: remedy.to_owned() });
        let Some(gpu) = (ordinal < count).then(|| gpu(ordinal)).flatten() else {
            let visible = if count == 1 { "1 GPU is visible".to_owned() } else { format!("{count} GPUs are visible") };
            return refuse(format!("there is no `cuda:{ordinal}`: {visible}"), "name another");
        };
        if let Some(refused) = gpu.refused {
            return refuse(
                format!("`cuda:{ordinal}`, {}, has {refused}", gpu.name),
                "use another GPU; `--device cpu` trains without one",
            );
        }
        let failed = |operation: &str| {
            let operation = operation.to_owned();
            move |error| TrainerError::Cuda { operation, message: message(error) }
        };
        let context = CudaContext::new(ordinal).map_err(failed("opening the GPU"))?;
        // SAFETY: all work is on one stream, in the order in which it is handed over; there is nothing to track.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("opening the GPU"))?;
        let staging = Staging::new().map_err(failed("taking pinned memory"))?;
        let cublas_lt = match &libraries.products.path {
            Some(_) => Some(CublasLt::new().map_err(|error| TrainerError::Cuda {
                operation: "opening cuBLASLt".to_owned(),
                message: format!("{:?}", error.0),
            })?),
            None => None,
        };
        let products = match &cublas_lt {
            Some(_) => "cuBLASLt",
            None => "own products, as cuBLASLt is not found: slower",
        };
        let (major, minor) = gpu.compute_capability;
        let driver = format!("CUDA {}.{}", version / 1000, version % 1000 / 10);
        let description = format!("cuda:{ordinal} ({}, sm_{major}{minor}, {driver}, {products})", gpu.name);
        Ok(Self {
            context,
            stream,
            options,
            description,
            cublas_lt,
            kernels: Kernels::default(),
            graphs: Graphs::default(),
            recording: Cell::new(false),
            launches: Cell::default(),
            failure: Failure::default(),
            staging,
            arena: RefCell::new(None),
            trained: RefCell::new(None),
            workspace: Cell::new(0),
            counters: Cell::new(0),
            staged: Cell::new(0),
            dequantized: Cell::new(0),
        })
    }

    /// Bytes free on the device.
    ///
    /// # Errors
    /// [`TrainerError::Cuda`].
    pub fn free_bytes(&self) -> Result<u64> {
        let (free, _) = self.context.mem_get_info().map_err(|error| TrainerError::Cuda {
            operation: "the memory's size".to_owned(),
            message: message(error),
        })?;
        Ok(free as u64)
    }

    /// Bytes of the arena that were taken, and all of them: equal, once everything that the plan lists is there.
    pub fn arena_usage(&self) -> (usize, usize) {
        self.arena.borrow().as_ref().map_or((0, 0), |arena| arena.usage())
    }

    /// What was launched so far.
    pub fn launches(&self) -> Launches {
        self.launches.get()
    }

    /// With the option to: waits for `operation`.
    fn wait_if_asked(&self, operation: &str) {
        if self.options.wait_for_each && !self.recording.get() {
            self.failure.catch(operation, self.stream.synchronize());
        }
    }
}
