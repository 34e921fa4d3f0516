//! The shared libraries that the build script made, and how they are opened.

use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{LoadError, Symbols};

pub(crate) fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let as_built = || concat!(env!("OUT_DIR"), "/libraries").into();
    Some(FOLDER.get_or_init(|| std::env::var_os("TUNESMITH_EMULATOR").map_or_else(as_built, PathBuf::from)))
}

pub(crate) fn folder_without_blas() -> Option<&'static Path> {
    Some(Path::new(concat!(env!("OUT_DIR"), "/libraries-without-blas")))
}

/// Opens the libraries for the whole process, the driver first; the first call decides which.
pub(crate) fn open(folder: &Path, libraries: &[&str]) -> Result<&'static Symbols, LoadError> {
    static SYMBOLS: OnceLock<Result<Symbols, LoadError>> = OnceLock::new();
    let opened = SYMBOLS.get_or_init(|| {
        if !has_what_it_is_built_for() {
            return Err(LoadError::Processor);
        }
        let handles: Vec<_> =
            libraries.iter().map(|library| open_globally(&folder.join(library))).collect::<Result<_, _>>()?;
        let driver = handles[0];
        // SAFETY: these are the functions of extensions.cpp and device.cpp, with the signatures of `Symbols`.
        unsafe {
            Ok(Symbols {
                counters: symbol(driver, c"cuda_emulator_counters")?,
                reset_counters: symbol(driver, c"cuda_emulator_reset_counters")?,
                set: symbol(driver, c"cuda_emulator_set")?,
                carve: symbol(driver, c"cuda_emulator_carve")?,
                uncarve_all: symbol(driver, c"cuda_emulator_uncarve_all")?,
                error_string: symbol(driver, c"cuGetErrorString")?,
            })
        }
    });
    opened.as_ref().map_err(Clone::clone)
}

/// A later `dlopen` by name finds a library that is open already by its soname.
fn open_globally(path: &Path) -> Result<*mut c_void, LoadError> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path has no zero byte");
    // SAFETY: the path ends with a zero byte; the library's initialisers only construct its own objects.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() { Err(last_error()) } else { Ok(handle) }
}

/// A function of a library.
///
/// # Safety
/// `F` is the type of a pointer to the function of that name.
unsafe fn symbol<F: Copy>(library: *mut c_void, name: &CStr) -> Result<F, LoadError> {
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: the library is open, and the name ends with a zero byte.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    if address.is_null() {
        return Err(last_error());
    }
    // SAFETY: a pointer of this size to what the caller says that it is.
    Ok(unsafe { std::mem::transmute_copy(&address) })
}

fn last_error() -> LoadError {
    // SAFETY: dlerror returns null or a text that is valid until this thread's next call of its kind.
    let text = unsafe {
        let text = libc::dlerror();
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    LoadError::Open(text)
}

fn has_what_it_is_built_for() -> bool {
    std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
        && std::is_x86_feature_detected!("bmi2")
}
