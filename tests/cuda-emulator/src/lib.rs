//! A CUDA driver that runs PTX on the CPU, for tests of CUDA code on machines without a GPU.
//!
//! [`load`] puts it in the place of `libcuda.so` and `libcublasLt.so` for this process; code on cudarc runs on it as it is.
//! What it is made of and which options it has is said in `README.md`.
//!
//! ```no_run
//! let emulator = cuda_emulator::load()?;
//! // ... cudarc::driver::CudaContext::new(0) ...
//! assert_eq!(emulator.counters().kernels["rms_norm_forward"].launches, 1);
//! # Ok::<(), cuda_emulator::LoadError>(())
//! ```

mod counters;
#[cfg_attr(not(emulates), path = "no_library.rs")]
mod library;

use std::ffi::{CString, c_char, c_int};
use std::path::Path;
use std::{env, error, fmt};

pub use counters::{Counters, Kernel, MatrixProducts, Transfers};

/// Why there is no emulated driver.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The tests are meant for the real driver.
    #[error("`TUNESMITH_REAL_GPU` is set: the machine's own CUDA driver is used")]
    RealGpu,
    /// The emulator was not built here.
    #[error("the emulated CUDA driver is built on x86-64 Linux only")]
    Platform,
    /// The processor lacks what the emulator is built for.
    #[error("the emulated CUDA driver needs a processor with AVX2, FMA and F16C")]
    Processor,
    /// The library was built, but cannot be opened.
    #[error("cannot open the emulated CUDA driver: {0}")]
    Open(String),
}

/// A call that the emulated driver refused, with the driver's text.
#[derive(Debug, Clone)]
pub struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for Refused {}

/// The emulated driver of this process.
#[derive(Debug, Clone, Copy)]
pub struct Emulator {
    symbols: &'static Symbols,
}

/// The functions that only the emulated driver has, and the driver's own for error texts.
#[derive(Debug)]
struct Symbols {
    counters: unsafe extern "C" fn() -> *const c_char,
    reset_counters: unsafe extern "C" fn(),
    set: unsafe extern "C" fn(*const c_char, *const c_char) -> c_int,
    carve: unsafe extern "C" fn(u64, usize, *const c_char) -> c_int,
    uncarve_all: unsafe extern "C" fn(u64) -> c_int,
    error_string: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
}

/// Loads the emulated driver and cuBLASLt, once per process: whoever opens `libcuda.so` later gets it.
///
/// Must come before the first call of cudarc. Options in the environment are read at `cuInit`.
///
/// # Errors
/// Where it cannot run, and with [`LoadError::RealGpu`] if `TUNESMITH_REAL_GPU=1` asks for the machine's own driver.
pub fn load() -> Result<Emulator, LoadError> {
    load_from(library::folder, &["libcuda.so", "libcublasLt.so"])
}

/// Like [`load`], for a machine that has a driver but no cuBLASLt.
///
/// # Errors
/// Like [`load`].
pub fn load_without_blas() -> Result<Emulator, LoadError> {
    load_from(library::folder_without_blas, &["libcuda.so"])
}

fn load_from(folder: fn() -> Option<&'static Path>, libraries: &[&str]) -> Result<Emulator, LoadError> {
    if env::var_os("TUNESMITH_REAL_GPU").is_some_and(|value| value == "1") {
        return Err(LoadError::RealGpu);
    }
    let folder = folder().ok_or(LoadError::Platform)?;
    Ok(Emulator { symbols: library::open(folder, libraries)? })
}

/// The folder with `libcuda.so` and `libcublasLt.so`, for programs that are told where to find them: the one that
/// `TUNESMITH_EMULATOR` names, else that of the build.
///
/// # Panics
/// Where the emulator is not built: see [`LoadError::Platform`].
#[must_use]
pub fn library_dir() -> &'static Path {
    library::folder().expect("the emulated CUDA driver is built on x86-64 Linux only")
}

/// A folder with `libcuda.so` alone.
///
/// # Panics
/// Like [`library_dir`].
#[must_use]
pub fn library_dir_without_blas() -> &'static Path {
    library::folder_without_blas().expect("the emulated CUDA driver is built on x86-64 Linux only")
}

impl Emulator {
    /// What the process has asked of its devices since the start or the last reset.
    ///
    /// # Panics
    /// If the library's text is not what this crate was built with.
    #[must_use]
    pub fn counters(&self) -> Counters {
        // SAFETY: the library returns a text that is this thread's until it asks again.
        let text = unsafe { std::ffi::CStr::from_ptr((self.symbols.counters)()) };
        serde_json::from_slice(text.to_bytes()).expect("the library and this crate agree on the counters")
    }

    /// Sets all counters to zero.
    pub fn reset_counters(&self) {
        // SAFETY: takes nothing and touches the library's own state under its lock.
        unsafe { (self.symbols.reset_counters)() }
    }

    /// Sets an option of the running process by its name without `CUDA_EMULATOR_`. Checks must be on before memory is
    /// allocated: what was allocated without them is not checked.
    ///
    /// # Errors
    /// For an option or a value that does not exist.
    pub fn set(&self, option: &str, value: &str) -> Result<(), Refused> {
        let (option, value) = (c_text(option), c_text(value));
        // SAFETY: both texts end with a zero byte and live through the call.
        self.result(unsafe { (self.symbols.set)(option.as_ptr(), value.as_ptr()) })
    }

    /// Makes a part of an allocation a buffer of its own, which messages call by its name. Its bytes have no value then; what
    /// lies between carved buffers is out of bounds.
    ///
    /// # Errors
    /// If the bytes are not allocated, or belong to another carved buffer.
    pub fn carve(&self, address: u64, bytes: usize, name: &str) -> Result<(), Refused> {
        let name = c_text(name);
        // SAFETY: the name ends with a zero byte; the library checks the address before it uses it.
        self.result(unsafe { (self.symbols.carve)(address, bytes, name.as_ptr()) })
    }

    /// Makes an allocation one buffer again.
    ///
    /// # Errors
    /// If there is no such allocation.
    pub fn uncarve_all(&self, allocation: u64) -> Result<(), Refused> {
        // SAFETY: the library checks the address before it uses it.
        self.result(unsafe { (self.symbols.uncarve_all)(allocation) })
    }

    fn result(&self, status: c_int) -> Result<(), Refused> {
        if status == 0 {
            return Ok(());
        }
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: the library puts a text there that is valid until this thread's next refused call.
        let text = unsafe {
            (self.symbols.error_string)(status, &raw mut text);
            std::ffi::CStr::from_ptr(text)
        };
        Err(Refused(text.to_string_lossy().into_owned()))
    }
}

fn c_text(text: &str) -> CString {
    CString::new(text).expect("a name has no zero byte")
}
