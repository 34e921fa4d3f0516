//! Operations that multiply, on a machine without cuBLASLt.

use crate::child::run;
use crate::libraries::WITHOUT_CUBLASLT;
use crate::support::gpu;
use trainer_cuda::device::Device;

#[test]
fn the_products_are_ours() {
    let asked = std::env::var_os(WITHOUT_CUBLASLT).is_some();
    assert!(!asked || gpu(&[], &[]).describe().contains("own products"));
}

#[test]
fn operations_agree_without_cublaslt() {
    let (passed, output) = run(
        &["the_products_are_ours", "linear::", "rows::projections", "cross_entropies_agree"],
        &[(WITHOUT_CUBLASLT, "1")],
    );
    assert!(passed, "{output}");
}
