//! Where the GPU comes from.

use std::env::var_os;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Set where a test is to run without cuBLASLt, on the products of our own.
pub(crate) const WITHOUT_CUBLASLT: &str = "TUNESMITH_TEST_WITHOUT_CUBLASLT";

/// The libraries of the emulated GPU, or `None` for the machine's own. The emulated one always looks at bounds, and with `all`
/// also for races and for what was not written before it is read, which takes eight times as long; `CUDA_EMULATOR_CHECK` goes
/// before `checks`.
pub(crate) fn folder(checks: &str) -> Option<PathBuf> {
    static EMULATED: OnceLock<bool> = OnceLock::new();
    let with_products = var_os(WITHOUT_CUBLASLT).is_none();
    let load = if with_products { cuda_emulator::load } else { cuda_emulator::load_without_blas };
    let emulated = *EMULATED.get_or_init(|| match load() {
        Ok(emulator) => {
            if var_os("CUDA_EMULATOR_CHECK").is_none() {
                emulator.set("CHECK", checks).expect("the checks");
            }
            true
        }
        Err(cuda_emulator::LoadError::RealGpu) => false,
        Err(error) => panic!("{error}"),
    });
    match (emulated, with_products) {
        (true, true) => Some(cuda_emulator::library_dir().to_owned()),
        (true, false) => Some(cuda_emulator::library_dir_without_blas().to_owned()),
        (false, true) => None,
        (false, false) => Some(no_cublaslt()),
    }
}

/// A folder whose cuBLASLt can't be opened: where a folder has a library, no other is looked for.
fn no_cublaslt() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tunesmith-no-cublaslt-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    std::fs::write(folder.join("libcublasLt.so"), "").expect("a file in it");
    folder
}
