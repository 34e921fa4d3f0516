//! What is loaded as a module, and what is refused.

use cudarc::driver::sys::{CUfunction_attribute, CUresult};
use cudarc::driver::{DriverError, result};

use crate::common::*;

/// A kernel with these statements, in PTX that begins at line 1.
fn kernel(body: &str) -> String {
    format!(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n{body}\nret;\n}}\n")
}

fn refusal(ptx: &str) -> DriverError {
    Gpu::new().module(ptx).err().expect("this is no module")
}

#[test]
fn unknown_ptx_is_named_with_its_line() {
    for (body, expected) in [
        ("wgmma.fence.sync.aligned;", "PTX line 6: unknown instruction, in `wgmma.fence.sync.aligned` of kernel `k`"),
        (".reg .f32 %f<2>;\nadd.rounded.f32 %f1, %f1, %f1;", "PTX line 7: `.rounded` is unknown, in `add.rounded.f32`"),
        (".reg .b32 %r<2>;\n\nlop3.and.b32 %r1, %r1, %r1, %r1, 0x80;", "PTX line 8: `.and` is unknown"),
        (".reg .pred %p<2>;\nadd.pred %p1, %p1, %p1;", "PTX line 7: it is unknown for this type"),
        (".reg .b32 %r<2>;\nmov.b32 %r1, %r7;", "PTX line 7: unknown register `%r7`"),
        (".reg .b64 %rd<2>;\nmov.b32 %rd1, 5;", "PTX line 7: `%rd1` is too wide, in `mov.b32`"),
        ("bra NOWHERE;", "PTX line 6: there is no label `NOWHERE`"),
        (".reg .b32 %r<2>;\nld.shared.b32 %r1, [absent];", "PTX line 7: there is no variable `absent`"),
        ("call absent;", "PTX line 6: call of `absent`, which is no function of this module"),
        ("{", "PTX line 9: expected a name, found ``"),
        (
            ".shared .align 4 .b8 large[50000];",
            "kernel `k` has 50000 bytes of static shared memory; at most 49152 are allowed",
        ),
    ] {
        let refused = refusal(&kernel(body));
        assert_eq!(refused.0, CUresult::CUDA_ERROR_INVALID_PTX, "{body}");
        assert!(message(&refused).contains(expected), "{body}: {refused:?}");
    }
}

#[test]
fn a_function_that_calls_itself_is_refused() {
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.func f() { call f; ret; }\n.entry k() { call f; ret; }";
    assert!(message(&refusal(ptx)).contains("function `f` calls itself"));
}

#[test]
fn only_ptx_is_loaded() {
    assert_status(Gpu::new().module("\u{7f}ELF"), CUresult::CUDA_ERROR_INVALID_IMAGE);
    assert_status(Gpu::new().module("// nothing"), CUresult::CUDA_ERROR_INVALID_PTX);
}

#[test]
fn kernels_have_attributes() {
    let gpu = Gpu::new();
    let module = gpu.module(MATRICES).unwrap();
    let attribute = |kernel: &str, attribute| {
        // SAFETY: the function is one of a loaded module.
        unsafe { result::function::get_function_attribute(module.kernel(kernel).0, attribute) }.unwrap()
    };
    let threads = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
    let shared = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
    assert_eq!(attribute("matmul_bf16", threads), 128);
    assert_eq!(attribute("matmul_tiled", threads), 1024);
    assert_eq!(attribute("matmul_bf16", shared), 2 * 64 * 40 * 2 + 2 * 32 * 40 * 2);
}

#[test]
fn a_module_is_unloaded_with_its_variables() {
    let gpu = Gpu::new();
    let before = gpu.context.mem_get_info().unwrap().0;
    let module = gpu.module(include_str!("../../kernels/language.ptx")).unwrap();
    assert!(gpu.context.mem_get_info().unwrap().0 <= before);
    // SAFETY: none of its kernels is used later.
    unsafe { result::module::unload(module.0) }.unwrap();
    // SAFETY: refused.
    assert_status(unsafe { result::module::unload(module.0) }, CUresult::CUDA_ERROR_INVALID_HANDLE);
}
