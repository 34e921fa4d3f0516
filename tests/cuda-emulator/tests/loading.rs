//! How the emulated driver takes the place of the real one.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

mod common;

use std::path::Path;

use common::in_process;
use cuda_emulator::LoadError;
use cudarc::driver::CudaContext;

#[test]
fn libraries_are_where_it_says() {
    assert!(cuda_emulator::library_dir().join("libcuda.so").is_file());
    assert!(cuda_emulator::library_dir().join("libcublasLt.so").is_file());
    let without_blas = cuda_emulator::library_dir_without_blas();
    assert!(without_blas.join("libcuda.so").is_file());
    assert!(!without_blas.join("libcublasLt.so").exists());
    assert_ne!(without_blas, cuda_emulator::library_dir());
}

#[test]
fn cudarc_finds_both_libraries() {
    in_process("cudarc_finds_both_libraries", &[], || {
        cuda_emulator::load().unwrap();
        // Loading again is the same.
        cuda_emulator::load().unwrap();
        // SAFETY: they open the libraries and look no further.
        assert!(unsafe { cudarc::driver::sys::is_culib_present() && cudarc::cublaslt::sys::is_culib_present() });
        assert_eq!(CudaContext::new(0).unwrap().name().unwrap(), "emulated CUDA device");
    });
}

#[test]
fn there_may_be_no_cublaslt() {
    in_process("there_may_be_no_cublaslt", &[], || {
        cuda_emulator::load_without_blas().unwrap();
        // SAFETY: opens a library and looks no further.
        assert!(unsafe { cudarc::driver::sys::is_culib_present() });
        CudaContext::new(0).unwrap();
        let elsewhere =
            ["/usr/lib", "/usr/lib64", "/usr/local/cuda/lib64"].map(|folder| Path::new(folder).join("libcublasLt.so"));
        if !elsewhere.iter().any(|path| path.exists()) {
            // SAFETY: likewise.
            assert!(!unsafe { cudarc::cublaslt::sys::is_culib_present() });
        }
    });
}

#[test]
fn an_executable_that_was_taken_elsewhere_is_told_where_they_are() {
    let elsewhere = cuda_emulator::library_dir_without_blas().to_str().unwrap();
    in_process(
        "an_executable_that_was_taken_elsewhere_is_told_where_they_are",
        &[("TUNESMITH_EMULATOR", elsewhere)],
        || assert_eq!(cuda_emulator::library_dir(), cuda_emulator::library_dir_without_blas()),
    );
}

#[test]
fn the_real_gpu_may_be_asked_for() {
    in_process("the_real_gpu_may_be_asked_for", &[("TUNESMITH_REAL_GPU", "1")], || {
        assert!(matches!(cuda_emulator::load(), Err(LoadError::RealGpu)));
    });
}
