//! NVIDIA's libraries: where they are found, and what to do where they are not.
//!
//! They are opened by path before the bindings ask for them by name, which then finds them open: no `LD_LIBRARY_PATH` is
//! needed, and what is reported is what is used.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use serde::Serialize;
use std::error::Error;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The driver's library, the one for matrix products, and the one that joins several GPUs.
const DRIVER: &str = "libcuda";
const PRODUCTS: &str = "libcublasLt";
const RANKS: &str = "libnccl";
/// How a library's file goes on: the driver's in 1, NCCL's in 2, the other's in CUDA's version.
const SUFFIXES: [&str; 5] = ["so.1", "so.13", "so.12", "so.2", "so"];

/// Where systems and packages put them, beside the places that the loader knows.
const FOLDERS: [&str; 10] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/nvidia",
    "/usr/lib/aarch64-linux-gnu/tegra",
    "/usr/lib64",
    "/usr/lib/wsl/lib",
    "/usr/local/cuda/lib64",
    "/usr/local/cuda/targets/x86_64-linux/lib",
    "/usr/local/cuda/targets/aarch64-linux/lib",
    "/opt/cuda/lib64",
];

/// A library that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// `libcublasLt`
    pub name: &'static str,
    /// The file that is open; `None` where there is none that can be opened.
    pub path: Option<PathBuf>,
    /// Why one that is there can't be opened.
    pub error: Option<String>,
}

/// What is open in this process. The first call decides.
pub(super) struct Libraries {
    pub(super) driver: Found,
    pub(super) products: Found,
    driver_handle: Option<Library>,
    /// Held, so that the bindings find it open.
    _products_handle: Option<Library>,
}

static OPEN: OnceLock<Libraries> = OnceLock::new();

/// Opens both, from `folder` where it has them.
pub(super) fn open(folder: Option<&Path>) -> &'static Libraries {
    OPEN.get_or_init(|| {
        let (driver, driver_handle) = open_one(DRIVER, folder);
        // Without a driver the other is of no use, and it is 500 MB.
        let (products, products_handle) = match driver_handle {
            Some(_) => open_one(PRODUCTS, folder),
            None => (Found { name: PRODUCTS, path: None, error: None }, None),
        };
        Libraries { driver, products, driver_handle, _products_handle: products_handle }
    })
}

/// Opens NCCL, which only a run of several ranks needs.
pub(super) fn open_nccl(folder: Option<&Path>) -> (Found, Option<Library>) {
    open_one(RANKS, folder)
}

/// The address of a symbol of the driver, where a driver is open and has it.
pub(super) fn symbol(name: &str) -> Option<*mut c_void> {
    let library = OPEN.get()?.driver_handle.as_ref()?;
    // SAFETY: the symbol is looked up, not used.
    unsafe { library.get::<*mut c_void>(name.as_bytes()).ok() }.map(|symbol| symbol.into_raw())
}

fn open_one(name: &'static str, folder: Option<&Path>) -> (Found, Option<Library>) {
    let mut error = None;
    for path in candidates(name, folder) {
        // SAFETY: initialisers of NVIDIA's libraries run, as in any program that uses them.
        match unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => {
                let path = if path.is_absolute() { path } else { path_of_loaded(name).unwrap_or(path) };
                return (Found { name, path: Some(path), error: None }, Some(library));
            }
            Err(failed) if path.is_file() => {
                // The error itself says no more than that dlopen failed.
                let reason = failed.source().unwrap_or(&failed);
                error.get_or_insert(format!("{} can't be opened: {reason}", path.display()));
            }
            Err(_) => {}
        }
    }
    (Found { name, path: None, error }, None)
}

/// Files to try, in order. Where a folder is given that has the library, only that.
fn candidates(name: &str, folder: Option<&Path>) -> Vec<PathBuf> {
    let named = folder.map_or(Vec::new(), |folder| files_of(name, folder));
    if !named.is_empty() {
        return named;
    }
    // The loader's own places, LD_LIBRARY_PATH among them.
    let by_name = SUFFIXES.map(|suffix| PathBuf::from(format!("{name}.{suffix}")));
    let folders = FOLDERS.map(PathBuf::from).into_iter().chain(python_packages());
    by_name.into_iter().chain(folders.flat_map(|folder| files_of(name, &folder))).collect()
}

/// `libcublasLt.so`, `libcublasLt.so.12`: those that are asked for by name.
fn files_of(name: &str, folder: &Path) -> Vec<PathBuf> {
    let files = SUFFIXES.map(|suffix| folder.join(format!("{name}.{suffix}")));
    files.into_iter().filter(|file| file.is_file()).collect()
}

/// Where `pip install nvidia-cublas` and its like put them for the user or the system.
fn python_packages() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/lib"));
    let roots = home.into_iter().chain(["/usr/local/lib", "/usr/lib"].map(PathBuf::from));
    let pythons = roots.filter_map(|root| std::fs::read_dir(root).ok()).flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        path.file_name()?.to_str()?.starts_with("python3").then_some(path)
    });
    let packages = pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages)));
    packages
        .flat_map(|packages| ["cu13", "cublas", "nccl"].map(|part| packages.join("nvidia").join(part).join("lib")))
        .collect()
}

/// The file behind a library that the loader found by name.
fn path_of_loaded(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| {
        path.rsplit('/').next().is_some_and(|file| file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".so")))
    })?;
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_has_the_library_is_the_only_place_to_look() {
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["libcublasLt.so.12", "libcublasLt.so.12.8.4", "libcublas.so.12"] {
            std::fs::write(folder.path().join(file), "").expect("a file");
        }
        assert_eq!(candidates(PRODUCTS, Some(folder.path())), [folder.path().join("libcublasLt.so.12")]);
        assert!(candidates(DRIVER, Some(folder.path())).len() >= 4, "the usual places, where it has none");
    }
}
