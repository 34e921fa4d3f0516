//! Which devices there are, and what they say about themselves.

use std::ffi::CStr;

use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, result};

use crate::common::*;

#[test]
fn the_device_is_a_hopper() {
    in_process("devices::the_device_is_a_hopper", &[], || {
        let gpu = Gpu::new();
        let attribute = |attribute| gpu.context.attribute(attribute).unwrap();
        assert_eq!(gpu.context.compute_capability().unwrap(), (9, 0));
        assert_eq!(gpu.context.name().unwrap(), "emulated CUDA device");
        let shared = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
        assert_eq!(shared, 227 * 1024);
        assert_eq!(gpu.context.mem_get_info().unwrap(), (8 << 30, 8 << 30));
        let mut version = 0;
        // SAFETY: writes one number.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().unwrap();
        assert_eq!(version, 13000);
    });
}

fn is(test: &str, capability: (i32, i32), shared_kib: i32, body: fn(&Gpu)) {
    let option = (10 * capability.0 + capability.1).to_string();
    in_process(&format!("devices::{test}"), &[("CUDA_EMULATOR_COMPUTE_CAPABILITY", &option)], || {
        let gpu = Gpu::new();
        assert_eq!(gpu.context.compute_capability().unwrap(), capability);
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        assert_eq!(gpu.context.attribute(attribute).unwrap(), shared_kib * 1024);
        body(&gpu);
    });
}

#[test]
fn an_ampere_has_less_shared_memory() {
    is("an_ampere_has_less_shared_memory", (8, 0), 163, |gpu| assert!(gpu.module(VECTORS).is_ok()));
}

#[test]
fn a_small_ampere_has_even_less() {
    is("a_small_ampere_has_even_less", (8, 6), 99, |gpu| assert!(gpu.module(VECTORS).is_ok()));
}

#[test]
fn a_turing_is_too_old() {
    is("a_turing_is_too_old", (7, 5), 64, |gpu| {
        let refused = gpu.module(VECTORS).err().unwrap();
        assert_eq!(refused.0, CUresult::CUDA_ERROR_INVALID_PTX);
        assert!(message(&refused).contains("for sm_80 or later, the device is sm_75"), "{refused:?}");
    });
}

#[test]
fn older_drivers_know_less_ptx() {
    in_process("devices::older_drivers_know_less_ptx", &[("CUDA_EMULATOR_DRIVER_VERSION", "12040")], || {
        let gpu = Gpu::new();
        let refused = gpu.module(VECTORS).err().unwrap();
        assert_eq!(refused.0, CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        assert!(message(&refused).contains("PTX 8.7, but a driver of version 12040 knows it up to 8.4"), "{refused:?}");
    });
}

#[test]
fn there_may_be_no_device() {
    for visible in ["", "-1"] {
        in_process("devices::there_may_be_no_device", &[("CUDA_VISIBLE_DEVICES", visible)], || {
            cuda_emulator::load().unwrap();
            assert_status(result::init(), CUresult::CUDA_ERROR_NO_DEVICE);
            assert_status(CudaContext::new(0), CUresult::CUDA_ERROR_NO_DEVICE);
        });
    }
}

#[test]
fn there_may_be_several_devices() {
    let variables = [("CUDA_EMULATOR_DEVICES", "3"), ("CUDA_VISIBLE_DEVICES", "0,1")];
    in_process("devices::there_may_be_several_devices", &variables, || {
        cuda_emulator::load().unwrap();
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        let (first, second) = (CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap());
        assert_status(CudaContext::new(2), CUresult::CUDA_ERROR_INVALID_DEVICE);
        let slice = first.default_stream().clone_htod(&[1.0f32; 4]).unwrap();
        assert_eq!(first.mem_get_info().unwrap().0, (8 << 30) - 16);
        assert_eq!(second.mem_get_info().unwrap().0, 8 << 30);
        drop(slice);
    });
}

#[test]
fn calls_need_a_context() {
    in_process("devices::calls_need_a_context", &[], || {
        cuda_emulator::load().unwrap();
        // SAFETY: refused.
        assert_status(unsafe { result::malloc_sync(4) }, CUresult::CUDA_ERROR_NOT_INITIALIZED);
        result::init().unwrap();
        // SAFETY: refused.
        assert_status(unsafe { result::malloc_sync(4) }, CUresult::CUDA_ERROR_INVALID_CONTEXT);
    });
}

#[test]
fn codes_have_the_drivers_names() {
    let _gpu = Gpu::new();
    let mut name = std::ptr::null();
    // SAFETY: puts a text there that lives as long as the process.
    let name = unsafe {
        sys::cuGetErrorName(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, &mut name).result().unwrap();
        CStr::from_ptr(name)
    };
    assert_eq!(name, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED");
}
