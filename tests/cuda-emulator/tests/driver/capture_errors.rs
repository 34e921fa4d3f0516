//! Calls that a capture does not allow: the codes of the driver's manual, and a capture that is lost.

use cudarc::driver::DriverError;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode, CUstreamCaptureStatus};

use crate::common::*;

const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;

/// In a capture of a stream of its own process, `call` fails with 900; the capture goes on until it is ended, and has no graph.
fn refuses(test: &str, call: fn(&Gpu, &Buffer<f32>) -> Result<(), DriverError>) {
    in_process(&format!("capture_errors::{test}"), &[], || {
        let gpu = Gpu::new();
        let kernel = gpu.kernel(VECTORS, "scale");
        let x = gpu.zeros::<f32>(64);
        gpu.stream.begin_capture(GLOBAL).unwrap();
        assert_status(call(&gpu, &x), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        let status = gpu.stream.capture_status().unwrap();
        assert_eq!(status, CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
        let launch = kernel.launch(&gpu.stream, 1, 64, 0, &[&x, &2.0f32, &64]);
        assert_status(launch, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        let ended = gpu.stream.end_capture(CUgraphInstantiate_flags(0));
        assert_status(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        // The stream is as good as new.
        kernel.launch(&gpu.stream, 1, 64, 0, &[&x, &2.0f32, &64]).unwrap();
        gpu.synchronize().unwrap();
    });
}

#[test]
fn allocating() {
    // SAFETY: refused.
    refuses("allocating", |_, _| unsafe { cudarc::driver::result::malloc_sync(16) }.map(drop));
}

#[test]
fn allocating_in_order() {
    refuses("allocating_in_order", |gpu, _| gpu.stream.alloc_zeros::<f32>(4).map(std::mem::forget));
}

#[test]
fn synchronising_the_stream() {
    refuses("synchronising_the_stream", |gpu, _| gpu.stream.synchronize());
}

#[test]
fn synchronising_the_context() {
    refuses("synchronising_the_context", |gpu, _| gpu.context.synchronize());
}

#[test]
fn copying_at_once() {
    refuses("copying_at_once", |gpu, x| gpu.copy_at_once(x));
}

#[test]
fn loading_a_module() {
    refuses("loading_a_module", |gpu, _| gpu.module(VECTORS).map(drop));
}

#[test]
fn allocating_pinned_memory() {
    // SAFETY: refused.
    refuses("allocating_pinned_memory", |gpu, _| unsafe { gpu.context.alloc_pinned::<f32>(4) }.map(std::mem::forget));
}

#[test]
fn the_null_stream_is_not_captured() {
    let gpu = Gpu::new();
    let stream = gpu.context.default_stream();
    assert_status(stream.begin_capture(GLOBAL), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

/// Begins a capture and gives what `body` makes of it, and what its end says.
fn broken(test: &str, body: fn(&Gpu) -> Result<(), DriverError>, expected: CUresult, ended: CUresult) {
    in_process(&format!("capture_errors::{test}"), &[], || {
        let gpu = Gpu::new();
        gpu.stream.begin_capture(GLOBAL).unwrap();
        assert_status(body(&gpu), expected);
        assert_status(gpu.stream.end_capture(CUgraphInstantiate_flags(0)), ended);
    });
}

#[test]
fn waiting_for_what_is_not_captured() {
    broken(
        "waiting_for_what_is_not_captured",
        |gpu| {
            let other = gpu.context.new_stream()?;
            let event = other.record_event(None)?;
            gpu.stream.wait(&event)
        },
        CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
    );
}

#[test]
fn waiting_for_another_capture() {
    broken(
        "waiting_for_another_capture",
        |gpu| {
            let other = gpu.context.new_stream()?;
            other.begin_capture(GLOBAL)?;
            gpu.stream.wait(&other.record_event(None)?)
        },
        CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE,
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
    );
}

#[test]
fn a_stream_that_does_not_come_back() {
    in_process("capture_errors::a_stream_that_does_not_come_back", &[], || {
        let gpu = Gpu::new();
        let kernel = gpu.kernel(VECTORS, "scale");
        let x = gpu.zeros::<f32>(64);
        let side = gpu.context.new_stream().unwrap();
        gpu.stream.begin_capture(GLOBAL).unwrap();
        side.join(&gpu.stream).unwrap();
        kernel.launch(&side, 1, 64, 0, &[&x, &2.0f32, &64]).unwrap();
        let unmatched = side.end_capture(CUgraphInstantiate_flags(0));
        assert_status(unmatched, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        let ended = gpu.stream.end_capture(CUgraphInstantiate_flags(0));
        assert_status(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        gpu.stream.begin_capture(GLOBAL).unwrap();
        side.join(&gpu.stream).unwrap();
        kernel.launch(&side, 1, 64, 0, &[&x, &2.0f32, &64]).unwrap();
        let ended = gpu.stream.end_capture(CUgraphInstantiate_flags(0));
        assert_status(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    });
}

#[test]
fn asking_a_captured_event() {
    in_process("capture_errors::asking_a_captured_event", &[], || {
        let gpu = Gpu::new();
        let event = gpu.context.new_event(None).unwrap();
        gpu.stream.begin_capture(GLOBAL).unwrap();
        event.record(&gpu.stream).unwrap();
        assert_status(event.synchronize(), CUresult::CUDA_ERROR_CAPTURED_EVENT);
        assert!(gpu.stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().is_some());
    });
}

#[test]
fn ending_on_another_thread() {
    in_process("capture_errors::ending_on_another_thread", &[], || {
        let gpu = Gpu::new();
        gpu.stream.begin_capture(GLOBAL).unwrap();
        let stream = gpu.stream.clone();
        let ended =
            std::thread::spawn(move || stream.end_capture(CUgraphInstantiate_flags(0)).map(drop)).join().unwrap();
        assert_status(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        assert!(gpu.stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().is_some());
    });
}

#[test]
fn ending_what_was_not_begun() {
    let gpu = Gpu::new();
    let ended = gpu.stream.end_capture(CUgraphInstantiate_flags(0));
    assert_status(ended, CUresult::CUDA_ERROR_ILLEGAL_STATE);
}
