//! What a stream records is done when the graph is launched, with the arguments of then and the memory of now.

use std::sync::Arc;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream, PinnedHostSlice, result};

use crate::common::*;

/// Records what `body` asks of the stream. Of one thread, since other tests allocate at the same time.
pub(crate) fn capture(stream: &Arc<CudaStream>, body: impl FnOnce()) -> CudaGraph {
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    body();
    stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap()
}

#[test]
fn a_graph_is_replayed_with_other_inputs() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel(VECTORS, "vector_add");
    let n = 300;
    let (sum, a, b) = (gpu.zeros::<f32>(n), gpu.upload(&random(n, 1)), gpu.upload(&random(n, 2)));
    let graph = capture(&gpu.stream, || {
        let count = n as i32;
        kernel.launch(&gpu.stream, 2, 256, 0, &[&sum, &a, &b, &count]).unwrap();
        // The sum of the first becomes an operand of the second: nodes run in order.
        kernel.launch(&gpu.stream, 2, 256, 0, &[&a, &sum, &b, &count]).unwrap();
    });
    assert_eq!(sum.download(), vec![0.0; n], "nothing runs while it is recorded");

    let mut a_now = a.download();
    for round in 0..3 {
        if round == 1 {
            a_now = random(n, 5);
            // SAFETY: the buffer is as large as the values.
            unsafe { result::memcpy_htod_sync(a.address, &a_now) }.unwrap();
        }
        graph.launch().unwrap();
        gpu.synchronize().unwrap();
        let b_now = b.download();
        let expected: Vec<_> = a_now.iter().zip(&b_now).map(|(a, b)| a + b).collect();
        assert_close(&sum.download(), &expected, 0.0);
        a_now = expected.iter().zip(&b_now).map(|(a, b)| a + b).collect();
        assert_close(&a.download(), &a_now, 0.0);
    }
}

#[test]
fn a_graph_copies_and_sets_memory() {
    let gpu = Gpu::new();
    // SAFETY: written below before it is read.
    let mut from: PinnedHostSlice<f32> = unsafe { gpu.context.alloc_pinned(8) }.unwrap();
    // SAFETY: likewise.
    let mut to: PinnedHostSlice<f32> = unsafe { gpu.context.alloc_pinned(8) }.unwrap();
    from.as_mut_slice().unwrap().copy_from_slice(&[1.0; 8]);
    let mut first = gpu.stream.alloc_zeros::<f32>(8).unwrap();
    let mut second = gpu.stream.alloc_zeros::<f32>(8).unwrap();
    gpu.synchronize().unwrap();
    // SAFETY: the pinned slices have as many numbers and live longer than the graph. Their pointers are asked for here, since
    // cudarc waits for an event then.
    let (from_slice, to_slice) = unsafe {
        let (from, to) = (from.as_ptr().unwrap(), to.as_mut_ptr().unwrap());
        (std::slice::from_raw_parts(from, 8), std::slice::from_raw_parts_mut(to, 8))
    };
    let (first, second) = (address(&mut first, &gpu.stream), address(&mut second, &gpu.stream));
    let graph = capture(&gpu.stream, || {
        let stream = gpu.stream.cu_stream();
        // SAFETY: the buffers have eight numbers each.
        unsafe {
            result::memcpy_htod_async(first, from_slice, stream).unwrap();
            result::memcpy_dtod_async(second, first, 32, stream).unwrap();
            result::memset_d8_async(second, 0, 8, stream).unwrap();
            result::memcpy_dtoh_async(to_slice, second, stream).unwrap();
        }
    });
    for value in [1.0, 2.0] {
        from.as_mut_slice().unwrap().copy_from_slice(&[value; 8]);
        graph.launch().unwrap();
        gpu.synchronize().unwrap();
        assert_eq!(to.as_slice().unwrap(), [0.0, 0.0, value, value, value, value, value, value]);
    }
}

fn address(slice: &mut cudarc::driver::CudaSlice<f32>, stream: &CudaStream) -> u64 {
    use cudarc::driver::DevicePtrMut;
    slice.device_ptr_mut(stream).0
}

#[test]
fn streams_join_a_capture_and_come_back() {
    // Lazy streams replay a graph in the last order that its nodes allow.
    for streams in ["eager", "lazy"] {
        in_process("graphs::streams_join_a_capture_and_come_back", &[("CUDA_EMULATOR_STREAMS", streams)], || {
            let gpu = Gpu::new();
            let kernel = gpu.kernel(VECTORS, "scale");
            let (a, b) = (gpu.upload(&[1.0f32; 64]), gpu.upload(&[1.0f32; 64]));
            let sum = gpu.zeros::<f32>(64);
            let add = gpu.kernel(VECTORS, "vector_add");
            let side = gpu.context.new_stream().unwrap();
            let graph = capture(&gpu.stream, || {
                kernel.launch(&gpu.stream, 1, 64, 0, &[&a, &2.0f32, &64]).unwrap();
                side.join(&gpu.stream).unwrap();
                kernel.launch(&side, 1, 64, 0, &[&b, &3.0f32, &64]).unwrap();
                kernel.launch(&side, 1, 64, 0, &[&b, &5.0f32, &64]).unwrap();
                kernel.launch(&gpu.stream, 1, 64, 0, &[&a, &7.0f32, &64]).unwrap();
                gpu.stream.join(&side).unwrap();
                add.launch(&gpu.stream, 1, 64, 0, &[&sum, &a, &b, &64]).unwrap();
            });
            graph.upload().unwrap();
            for round in 1..3 {
                graph.launch().unwrap();
                gpu.synchronize().unwrap();
                assert_eq!(sum.download(), [14f32.powi(round) + 15f32.powi(round); 64]);
            }
        });
    }
}

#[test]
fn launches_in_graphs_are_counted_apart() {
    in_process("graphs::launches_in_graphs_are_counted_apart", &[], || {
        let gpu = Gpu::new();
        let kernel = gpu.kernel(VECTORS, "scale");
        let x = gpu.zeros::<f32>(64);
        let launch = || kernel.launch(&gpu.stream, 1, 64, 0, &[&x, &2.0f32, &64]).unwrap();
        let graph = capture(&gpu.stream, || {
            launch();
            launch();
        });
        launch();
        gpu.emulator.reset_counters();
        launch();
        graph.launch().unwrap();
        graph.launch().unwrap();
        gpu.synchronize().unwrap();
        let counters = gpu.emulator.counters();
        assert_eq!(counters.graph_launches, 2);
        assert_eq!(counters.synchronisations, 1);
        let scale = counters.kernels["scale"];
        assert_eq!((scale.launches, scale.graph_launches), (1, 4));
        assert_eq!(scale.flops, 5 * 64);
        assert_eq!((scale.global_read_bytes, scale.global_written_bytes), (5 * 256, 5 * 256));
    });
}
