//! Streams and events, done at once or as late as possible.

use cudarc::driver::sys::{CUevent_flags, CUresult};
use cudarc::driver::{PinnedHostSlice, result};

use crate::common::*;

#[test]
fn events_measure_time() {
    let gpu = Gpu::new();
    let start = gpu.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(3));
    let end = gpu.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    let elapsed = start.elapsed_ms(&end).unwrap();
    assert!((3.0..500.0).contains(&elapsed), "{elapsed} ms");
    let without_time = gpu.stream.record_event(None).unwrap();
    assert_status(start.elapsed_ms(&without_time), CUresult::CUDA_ERROR_INVALID_HANDLE);
}

/// With lazy streams, work is done when something waits for it; with a wait between two streams nothing is lost.
#[test]
fn lazy_streams_show_a_missing_wait() {
    in_process("streams::lazy_streams_show_a_missing_wait", &[("CUDA_EMULATOR_STREAMS", "lazy")], || {
        let gpu = Gpu::new();
        let kernel = gpu.kernel(VECTORS, "scale");
        let other = gpu.context.new_stream().unwrap();
        let run = |waits: bool| {
            let x = gpu.upload(&[1.0f32; 64]);
            kernel.launch(&gpu.stream, 1, 64, 0, &[&x, &2.0f32, &64]).unwrap();
            if waits {
                other.join(&gpu.stream).unwrap();
            }
            let mut seen = vec![0.0f32; 64];
            // SAFETY: the values are as many as the buffer's.
            unsafe { result::memcpy_dtoh_async(&mut seen, x.address, other.cu_stream()) }.unwrap();
            other.synchronize().unwrap();
            gpu.synchronize().unwrap();
            assert_eq!(x.download(), [2.0; 64]);
            seen[0]
        };
        assert_eq!(run(true), 2.0);
        assert_eq!(run(false), 1.0, "the copy did not wait for the kernel");
    });
}

#[test]
fn lazy_copies_to_pinned_memory_arrive_late() {
    in_process("streams::lazy_copies_to_pinned_memory_arrive_late", &[("CUDA_EMULATOR_STREAMS", "lazy")], || {
        let gpu = Gpu::new();
        let x = gpu.upload(&[3.0f32; 16]);
        // SAFETY: zeroed right here.
        let mut pinned: PinnedHostSlice<f32> = unsafe { gpu.context.alloc_pinned(16) }.unwrap();
        let host = pinned.as_mut_ptr().unwrap();
        // SAFETY: the slice has 16 numbers, and the stream is waited for before it goes.
        unsafe {
            host.write_bytes(0, 16);
            result::memcpy_dtoh_async(std::slice::from_raw_parts_mut(host, 16), x.address, gpu.stream.cu_stream())
                .unwrap();
            assert_eq!(*host, 0.0);
            let event = gpu.stream.record_event(None).unwrap();
            assert!(!event.is_complete());
            event.synchronize().unwrap();
            assert_eq!(*host, 3.0);
        }
    });
}

#[test]
fn the_host_is_called_in_order() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel(VECTORS, "scale");
    let x = gpu.upload(&[1.0f32; 64]);
    kernel.launch(&gpu.stream, 1, 64, 0, &[&x, &2.0f32, &64]).unwrap();
    let mut seen = (x.address as *const f32, 0.0f32);
    unsafe extern "C" fn read(argument: *mut std::ffi::c_void) {
        // SAFETY: the pair lives until the stream is waited for. Emulated device memory is memory of the process, and nothing
        // runs on it now.
        unsafe {
            let seen = argument.cast::<(*const f32, f32)>();
            (*seen).1 = *(*seen).0;
        }
    }
    // SAFETY: as said there.
    unsafe { result::stream::launch_host_function(gpu.stream.cu_stream(), read, (&raw mut seen).cast()) }.unwrap();
    gpu.synchronize().unwrap();
    assert_eq!(seen.1, 2.0);
}
