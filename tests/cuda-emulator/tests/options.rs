//! The options that have no test elsewhere: what they change, and that a misspelt one is refused.
//!
//! `CHECK`, `BUDGET`: bugs.rs. `COMPUTE_CAPABILITY`, `DRIVER_VERSION`, `DEVICES`, `MEMORY`: driver/. `STREAMS`: driver/streams.rs
//! and graphs.rs. `THREADS`: kernels/main.rs.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

mod common;

use std::fs;

use common::*;
use cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, result};

const WARPS: &str = include_str!("../kernels/warps.ptx");

#[test]
fn nothing_is_executed_but_all_is_counted() {
    let variables = [("CUDA_EMULATOR_EXECUTE", "0"), ("CUDA_EMULATOR_MEMORY", "300000000000")];
    in_process("nothing_is_executed_but_all_is_counted", &variables, || {
        let gpu = Gpu::new();
        let kernel = gpu.kernel(VECTORS, "scale");
        let side = 100_000;
        let arena = gpu.allocate::<f32>(2 * side * side + 256);
        let x = Buffer::<f32>::at(arena.address, 64);
        kernel.launch(&gpu.stream, 2_000_000, 128, 0, &[&x, &2.0f32, &256_000_000]).unwrap();
        // A launch that would be refused is refused.
        assert!(kernel.launch(&gpu.stream, 1, 256, 0, &[&x, &2.0f32, &64]).is_err());
        // SAFETY: within the allocation.
        unsafe { result::memset_d8_sync(arena.address, 1, 4 * side * side) }.unwrap();
        assert_eq!(x.download(), [0.0; 64], "what is read back is zero");

        let blas = CudaBlasLT::new(gpu.stream.clone()).unwrap();
        // SAFETY: within the arena; none of them frees it.
        let [a, mut c] = [0, side * side].map(|start| unsafe {
            let address = arena.address + 4 * start as u64;
            std::mem::ManuallyDrop::new(gpu.stream.upgrade_device_ptr::<f32>(address, side * side))
        });
        let config = MatmulConfig {
            transa: false,
            transb: false,
            transc: false,
            m: side as u64,
            n: side as u64,
            k: side as u64,
            alpha: 1.0,
            lda: side as i64,
            ldb: side as i64,
            beta: 0.0,
            ldc: side as i64,
            stride_a: None,
            stride_b: None,
            stride_c: None,
            stride_bias: None,
            batch_size: None,
        };
        // SAFETY: the operands are as large as the configuration says.
        unsafe { blas.matmul(config, &*a, &*a, &mut *c, None, None) }.unwrap();
        gpu.synchronize().unwrap();

        let counters = gpu.emulator.counters();
        assert_eq!(counters.kernels["scale"].launches, 1);
        assert_eq!(counters.kernels["scale"].flops, 0);
        assert_eq!((counters.blas.calls, counters.blas.flops), (1, 2 * 10u64.pow(15)));
        assert_eq!((counters.memsets.count, counters.memsets.bytes), (1, 40_000_000_000));
        assert_eq!((counters.device_to_host.count, counters.device_to_host.bytes), (1, 256));
        assert!(resident_pages() < 25_000, "80 GB of device memory cost {} pages", resident_pages());
    });
}

/// The order in which two blocks of 64 threads come.
fn arrivals(order: &str) -> Vec<i32> {
    let out = in_process("threads_come_in_the_order_that_is_asked_for", &[("CUDA_EMULATOR_ORDER", order)], || {
        let gpu = Gpu::new();
        let (threads, count) = (gpu.zeros::<i32>(128), gpu.zeros::<i32>(1));
        gpu.kernel(WARPS, "arrivals").run(&gpu, 2, 64, &[&threads, &count]);
        println!("arrivals {:?} end", threads.download());
    });
    let list = out.split_once("arrivals [").unwrap().1.split_once("] end").unwrap().0;
    list.split(", ").map(|thread| thread.parse().unwrap()).collect()
}

#[test]
fn threads_come_in_the_order_that_is_asked_for() {
    let natural = arrivals("natural");
    assert!(natural.iter().copied().eq(0..128));
    assert!(arrivals("reverse").into_iter().eq((0..128).rev()));
    let (first, second) = (arrivals("random:1"), arrivals("random:2"));
    assert_eq!(first, arrivals("random:1"));
    assert!(first != second && first != natural);
    let mut sorted = first;
    sorted.sort_unstable();
    assert_eq!(sorted, natural);
}

/// The third launch fails, as the second node of a graph, and everything behind it.
fn lost(test: &str, option: &str, code: CUresult) {
    in_process(test, &[("CUDA_EMULATOR_FAIL_LAUNCH", option)], || {
        let gpu = Gpu::new();
        let kernel = gpu.kernel(VECTORS, "scale");
        let x = gpu.upload(&[1.0f32; 64]);
        let launch = || kernel.launch(&gpu.stream, 1, 64, 0, &[&x, &2.0f32, &64]);
        launch().unwrap();
        gpu.synchronize().unwrap();
        gpu.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        launch().unwrap();
        launch().unwrap();
        let graph = gpu.stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        graph.launch().unwrap();
        assert_status(gpu.synchronize(), code);
        assert_status(launch(), code);
        assert_status(x.try_download(), code);
        assert_status(gpu.module(VECTORS).map(drop), code);
    });
}

#[test]
fn a_device_is_lost_in_the_middle() {
    lost("a_device_is_lost_in_the_middle", "3", CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

#[test]
fn a_device_is_lost_with_another_code() {
    lost("a_device_is_lost_with_another_code", "3:700", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn a_launch_is_left_out() {
    in_process("a_launch_is_left_out", &[("CUDA_EMULATOR_SKIP_LAUNCH", "scale")], || {
        let gpu = Gpu::new();
        let x = gpu.upload(&[1.0f32; 64]);
        gpu.kernel(VECTORS, "scale").run(&gpu, 1, 64, &[&x, &2.0f32, &64]);
        assert_eq!(x.download(), [1.0; 64]);
        assert_eq!(gpu.emulator.counters().kernels["scale"].launches, 1);
    });
}

#[test]
fn two_arguments_are_swapped() {
    in_process("two_arguments_are_swapped", &[("CUDA_EMULATOR_SWAP_ARGS", "vector_add:0:1")], || {
        let gpu = Gpu::new();
        let (sum, a, b) = (gpu.upload(&[1.0f32; 64]), gpu.upload(&[2.0f32; 64]), gpu.upload(&[3.0f32; 64]));
        gpu.kernel(VECTORS, "vector_add").run(&gpu, 1, 64, &[&sum, &a, &b, &64]);
        assert_eq!((sum.download(), a.download()), (vec![1.0; 64], vec![4.0; 64]));
        // Other kernels keep theirs.
        gpu.kernel(VECTORS, "scale").run(&gpu, 1, 64, &[&sum, &2.0f32, &64]);
        assert_eq!(sum.download(), [2.0; 64]);
    });
}

#[test]
fn a_module_is_replaced_by_a_mutant() {
    let folder = std::env::temp_dir().join(format!("cuda-emulator-mutants-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mutant = VECTORS.replace("mul.f32", "add.f32");
    assert_ne!(mutant, VECTORS);
    fs::write(folder.join("vectors.ptx"), mutant).unwrap();
    in_process("a_module_is_replaced_by_a_mutant", &[("CUDA_EMULATOR_OVERRIDE", folder.to_str().unwrap())], || {
        let gpu = Gpu::new();
        let x = gpu.upload(&[1.0f32; 64]);
        gpu.kernel(VECTORS, "scale").run(&gpu, 1, 64, &[&x, &2.0f32, &64]);
        assert_eq!(x.download(), [3.0; 64]);
        // Modules that have no file there are as they are.
        gpu.module(REDUCTIONS).unwrap();
    });
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_misspelt_is_refused() {
    for (option, value, expected) in [
        ("CUDA_EMULATOR_CHEKC", "all", "there is no option CUDA_EMULATOR_CHEKC"),
        ("CUDA_EMULATOR_CHECK", "al", "option CUDA_EMULATOR_CHECK is `al`: it must be `all`, or of `memory`, `races`"),
        ("CUDA_EMULATOR_EXECUTE", "no", "option CUDA_EMULATOR_EXECUTE is `no`: it must be `0` or `1`"),
        ("CUDA_EMULATOR_ORDER", "random", "it must be `natural`, `reverse` or `random:SEED`"),
        ("CUDA_EMULATOR_THREADS", "0", "it must be a number from 1 to 256"),
        ("CUDA_EMULATOR_SWAP_ARGS", "scale:1", "it must be `KERNEL:I:J`"),
    ] {
        let out = in_process("what_is_misspelt_is_refused", &[(option, value)], || {
            cuda_emulator::load().unwrap();
            let refused = CudaContext::new(0).unwrap_err();
            assert_eq!(refused.0, CUresult::CUDA_ERROR_INVALID_VALUE);
            println!("{}", message(&refused));
        });
        assert!(out.contains(expected), "{out}");
    }
}

#[test]
fn options_change_while_the_process_runs() {
    in_process("options_change_while_the_process_runs", &[], || {
        let gpu = Gpu::new();
        let kernel = gpu.kernel(VECTORS, "scale");
        let x = gpu.upload(&[1.0f32; 64]);
        let run = || kernel.run(&gpu, 1, 64, &[&x, &2.0f32, &64]);
        gpu.emulator.set("SKIP_LAUNCH", "scale").unwrap();
        run();
        assert_eq!(x.download(), [1.0; 64]);
        gpu.emulator.set("SKIP_LAUNCH", "").unwrap();
        run();
        assert_eq!(x.download(), [2.0; 64]);
        let refused = gpu.emulator.set("SKIP", "scale").unwrap_err();
        assert!(refused.to_string().contains("there is no option CUDA_EMULATOR_SKIP"), "{refused}");

        // Memory that was allocated without checks has none; what comes later has.
        gpu.emulator.set("CHECK", "initialised").unwrap();
        run();
        let unset = gpu.allocate::<f32>(64);
        kernel.launch(&gpu.stream, 1, 64, 0, &[&unset, &2.0f32, &64]).unwrap();
        let error = gpu.synchronize().unwrap_err();
        assert!(message(&error).contains("read of uninitialised memory"), "{error:?}");
    });
}
