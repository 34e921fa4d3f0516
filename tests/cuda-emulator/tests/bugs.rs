//! Kernels of bugs.cu that are wrong, and what the emulated device says about them: each in a process of its own, since the
//! error of a device stays.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

mod common;

use common::*;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

const PTX: &str = include_str!("../kernels/bugs.ptx");
const SOURCE: &str = include_str!("../kernels/bugs.cu");

const BOUNDS: CUresult = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
const FAILED: CUresult = CUresult::CUDA_ERROR_LAUNCH_FAILED;
const TIMEOUT: CUresult = CUresult::CUDA_ERROR_LAUNCH_TIMEOUT;

/// The line of bugs.cu in the kernel that has this code: "bugs.cu:6".
fn place(kernel: &str, code: &str) -> String {
    let function = SOURCE.find(&format!(" {kernel}(")).expect(kernel);
    let at = function + SOURCE[function..].find(code).expect(code);
    format!("bugs.cu:{}", 1 + SOURCE[..at].matches('\n').count())
}

/// What is to be found: a thread (with its block, where that is not the first one), a place in the source, and a message.
struct Bug {
    code: CUresult,
    thread: &'static str,
    place: String,
    message: &'static str,
}

fn bug(code: CUresult, thread: &'static str, place: String, message: &'static str) -> Bug {
    Bug { code, thread, place, message }
}

/// Runs a kernel with these checks, and compares the error with what is expected.
#[track_caller]
fn finds(kernel: &str, checks: &str, expected: &Bug, run: impl FnOnce(&Gpu, &Kernel) -> Result<(), DriverError>) {
    in_process(kernel, &[("CUDA_EMULATOR_CHECK", checks)], || {
        let gpu = Gpu::new();
        let error =
            run(&gpu, &gpu.kernel(PTX, kernel)).and_then(|()| gpu.synchronize()).expect_err("nothing was found");
        let (block, thread) = expected.thread.split_once(' ').unwrap_or(("(0,0,0)", expected.thread));
        let expected_message =
            format!("kernel `{kernel}`, block {block}, thread {thread}, {}: {}", expected.place, expected.message);
        assert_eq!(message(&error), expected_message);
        assert_eq!(error.0, expected.code);
        // The error stays.
        assert_status(gpu.context.mem_get_info(), expected.code);
    });
}

/// Finds nothing.
#[track_caller]
fn accepts(kernel: &str, run: impl FnOnce(&Gpu, &Kernel) -> Result<(), DriverError>) {
    in_process(kernel, &[("CUDA_EMULATOR_CHECK", "all")], || {
        let gpu = Gpu::new();
        run(&gpu, &gpu.kernel(PTX, kernel)).and_then(|()| gpu.synchronize()).unwrap();
    });
}

// ---- bounds, which are always checked

#[test]
fn writes_one_too_many() {
    let place = place("writes_one_too_many", "x[i] = 1.0f");
    let expected = bug(
        BOUNDS,
        "(3,0,0) (232,0,0)",
        place,
        "out-of-bounds write of 4 bytes: byte 4000 of allocation #0 (4000 bytes)",
    );
    finds("writes_one_too_many", "memory", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 4, 256, 0, &[&gpu.zeros::<f32>(1000), &1000])
    });
}

#[test]
fn reads_before_its_buffer() {
    let place = place("reads_before_its_buffer", "y[threadIdx.x]");
    let expected =
        bug(BOUNDS, "(0,0,0)", place, "out-of-bounds read of 4 bytes: 4 bytes before allocation #1 (128 bytes)");
    finds("reads_before_its_buffer", "memory", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<f32>(32), &gpu.zeros::<f32>(32)])
    });
}

#[test]
fn overruns_shared() {
    let place = place("overruns_shared", "tile[threadIdx.x + 1]");
    let expected =
        bug(BOUNDS, "(63,0,0)", place, "out-of-bounds write of 4 bytes: byte 256 of shared `tile` (256 bytes)");
    finds("overruns_shared", "memory", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 64, 0, &[&gpu.zeros::<f32>(64)])
    });
}

#[test]
fn overruns_dynamic_shared() {
    let place = place("overruns_dynamic_shared", "buffer[threadIdx.x + 1]");
    let expected =
        bug(BOUNDS, "(63,0,0)", place, "out-of-bounds write of 4 bytes: byte 256 of dynamic shared memory (256 bytes)");
    finds("overruns_dynamic_shared", "memory", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 64, 256, &[&gpu.zeros::<f32>(64)])
    });
}

#[test]
fn overruns_local() {
    let place = place("overruns_local", "values[i] = i");
    let expected = bug(
        BOUNDS,
        "(0,0,0)",
        place,
        "out-of-bounds write of 4 bytes: byte 16 of the thread's local memory (16 bytes)",
    );
    finds("overruns_local", "memory", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<f32>(32), &5])
    });
}

#[test]
fn is_misaligned() {
    let place = place("is_misaligned", "*(float4*)");
    let code = CUresult::CUDA_ERROR_MISALIGNED_ADDRESS;
    let expected = bug(code, "(0,0,0)", place, "misaligned write of 16 bytes: byte 4 of allocation #0 (128 bytes)");
    finds("is_misaligned", "memory", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 1, 0, &[&gpu.zeros::<f32>(32)])
    });
}

#[test]
fn reads_null() {
    let expected =
        bug(BOUNDS, "(0,0,0)", place("reads_null", "x[threadIdx.x]"), "out-of-bounds read of 4 bytes: a null pointer");
    finds("reads_null", "memory", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<f32>(32), &0u64])
    });
}

#[test]
fn a_freed_buffer_is_used() {
    in_process("a_freed_buffer_is_used", &[], || {
        let gpu = Gpu::new();
        let (x, y) = (gpu.zeros::<f32>(64), gpu.zeros::<f32>(64));
        // SAFETY: what is done with it later is the point.
        unsafe { cudarc::driver::result::free_sync(x.address) }.unwrap();
        gpu.kernel(PTX, "reads_null").launch(&gpu.stream, 1, 32, 0, &[&y, &x]).unwrap();
        let error = gpu.synchronize().unwrap_err();
        assert!(message(&error).ends_with("out-of-bounds read of 4 bytes: byte 0 of freed allocation #0 (256 bytes)"));
    });
}

#[test]
fn a_carved_buffer_is_overrun() {
    in_process("a_carved_buffer_is_overrun", &[], || {
        let gpu = Gpu::new();
        let arena = gpu.allocate::<u8>(8192);
        gpu.emulator.carve(arena.address, 4000, "d_hidden").unwrap();
        gpu.emulator.carve(arena.address + 4096, 4000, "d_logits").unwrap();
        gpu.kernel(PTX, "writes_one_too_many").launch(&gpu.stream, 4, 256, 0, &[&arena, &1000]).unwrap();
        let error = gpu.synchronize().unwrap_err();
        let expected = "out-of-bounds write of 4 bytes: byte 4000 of `d_hidden` (4000 bytes)";
        assert!(message(&error).ends_with(expected), "{error:?}");
    });
}

// ---- races

#[test]
fn lacks_a_barrier() {
    let expected = bug(
        FAILED,
        "(32,0,0)",
        place("lacks_a_barrier", "tile[threadIdx.x] ="),
        "data race: byte 128 of shared `tile` (1024 bytes) is written, and thread (0,0,0) read it, with nothing between that \
         orders them",
    );
    finds("lacks_a_barrier", "races", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 256, 0, &[&gpu.zeros::<f32>(256)])
    });
}

#[test]
fn lacks_the_second_barrier() {
    let expected = bug(
        FAILED,
        "(0,0,0)",
        place("lacks_the_second_barrier", "sum += tile"),
        "data race: byte 1020 of shared `tile` (1024 bytes) is read, and thread (255,0,0) wrote it, with nothing between that \
         orders them",
    );
    finds("lacks_the_second_barrier", "races", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 256, 0, &[&gpu.zeros::<f32>(256)])
    });
}

const LANE_31_WROTE: &str = "data race: byte 124 of shared `tile` (128 bytes) is read, and thread (31,0,0) wrote it, with \
                             nothing between that orders them";

#[test]
fn lacks_syncwarp() {
    let expected = bug(FAILED, "(0,0,0)", place("lacks_syncwarp", "= tile["), LANE_31_WROTE);
    finds("lacks_syncwarp", "races", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<f32>(32)])
    });
}

#[test]
fn takes_a_shuffle_for_syncwarp() {
    let expected = bug(FAILED, "(0,0,0)", place("takes_a_shuffle_for_syncwarp", "= tile["), LANE_31_WROTE);
    finds("takes_a_shuffle_for_syncwarp", "races", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<f32>(32)])
    });
}

#[test]
fn adds_without_atomics() {
    let expected = bug(
        FAILED,
        "(0,0,0)",
        place("adds_without_atomics", "*x +="),
        "data race: byte 0 of allocation #0 (4 bytes) is written, and several lanes of warp 0 read it, with nothing between \
         that orders them",
    );
    finds("adds_without_atomics", "races", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<f32>(1)])
    });
}

#[test]
fn blocks_share_a_sum() {
    let expected = bug(
        FAILED,
        "(1,0,0) (0,0,0)",
        place("blocks_share_a_sum", "*x +="),
        "data race: byte 0 of allocation #0 (4 bytes) is read, and block (0,0,0) wrote it, with nothing between that orders \
         them",
    );
    finds("blocks_share_a_sum", "races", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 2, 32, 0, &[&gpu.zeros::<f32>(1)])
    });
}

#[test]
fn lanes_write_different_values() {
    let expected = bug(
        FAILED,
        "(1,0,0)",
        place("lanes_write_different_values", "*x ="),
        "data race: byte 0 of allocation #0 (4 bytes) is written, and thread (0,0,0) wrote it, with nothing between that \
         orders them",
    );
    finds("lanes_write_different_values", "races", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<i32>(1)])
    });
}

#[test]
fn lanes_write_one_value() {
    accepts("lanes_write_one_value", |gpu, kernel| kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<i32>(1)]));
}

fn last_block(gpu: &Gpu, kernel: &Kernel) -> Result<(), DriverError> {
    kernel.launch(&gpu.stream, 5, 64, 0, &[&gpu.zeros::<f32>(1), &gpu.allocate::<f32>(5), &gpu.zeros::<u32>(1)])
}

/// The last block reads what the first one wrote, and something is missing between.
fn unordered_partial_sum() -> Bug {
    bug(
        FAILED,
        "(4,0,0) (0,0,0)",
        place("last_block", "total += partial"),
        "data race: byte 0 of allocation #1 (20 bytes) is read, and block (0,0,0) wrote it, with nothing between that orders \
         them",
    )
}

#[test]
fn last_block_is_right() {
    accepts("last_block_is_right", last_block);
}

#[test]
fn last_block_does_not_release() {
    finds("last_block_does_not_release", "races", &unordered_partial_sum(), last_block);
}

#[test]
fn last_block_does_not_count() {
    finds("last_block_does_not_count", "races", &unordered_partial_sum(), last_block);
}

#[test]
fn last_block_does_not_acquire() {
    finds("last_block_does_not_acquire", "races", &unordered_partial_sum(), last_block);
}

// ---- cp.async

fn copy(gpu: &Gpu, kernel: &Kernel) -> Result<(), DriverError> {
    kernel.launch(&gpu.stream, 1, 64, 0, &[&gpu.zeros::<f32>(256), &gpu.zeros::<f32>(256)])
}

#[test]
fn copies_rightly() {
    accepts("copies_rightly", copy);
}

#[test]
fn does_not_wait_for_a_copy() {
    let message = "byte 496 of shared `tile` (1024 bytes) is touched while a cp.async to it is not waited for";
    let expected = bug(FAILED, "(32,0,0)", place("copy", "= tile[63"), message);
    finds("does_not_wait_for_a_copy", "races", &expected, copy);
}

#[test]
fn waits_but_lacks_a_barrier() {
    let expected = bug(
        FAILED,
        "(32,0,0)",
        place("copy", "asm volatile"),
        "data race: byte 512 of shared `tile` (1024 bytes) is written, and thread (31,0,0) read it, with nothing between that \
         orders them",
    );
    finds("waits_but_lacks_a_barrier", "races", &expected, copy);
}

// ---- values that are not there

#[test]
fn reads_unset_shared() {
    let message = "read of uninitialised memory: byte 240 of shared `tile` (256 bytes)";
    let expected = bug(FAILED, "(60,0,0)", place("reads_unset_shared", "= tile[threadIdx.x]"), message);
    finds("reads_unset_shared", "initialised", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 64, 0, &[&gpu.zeros::<f32>(64)])
    });
}

#[test]
fn unset_global_memory_is_read() {
    in_process("unset_global_memory_is_read", &[("CUDA_EMULATOR_CHECK", "initialised")], || {
        let gpu = Gpu::new();
        let (y, x) = (gpu.zeros::<f32>(32), gpu.zeros::<f32>(64));
        // What is carved has no value any more, until it gets one.
        gpu.emulator.carve(x.address, 128, "rstd").unwrap();
        // SAFETY: within the buffer.
        unsafe { cudarc::driver::result::memcpy_htod_sync(x.address, &[1.0f32; 10]) }.unwrap();
        gpu.kernel(PTX, "reads_null").launch(&gpu.stream, 1, 32, 0, &[&y, &x]).unwrap();
        let error = gpu.synchronize().unwrap_err();
        let place = place("reads_null", "x[threadIdx.x]");
        let expected = format!("thread (10,0,0), {place}: read of uninitialised memory: byte 40 of `rstd` (128 bytes)");
        assert!(message(&error).ends_with(&expected), "{error:?}");
    });
}

// ---- barriers and warps

#[test]
fn parts_at_a_barrier() {
    in_process("parts_at_a_barrier", &[], || {
        let gpu = Gpu::new();
        gpu.kernel(PTX, "parts_at_a_barrier").launch(&gpu.stream, 1, 64, 0, &[&gpu.zeros::<f32>(64)]).unwrap();
        let error = message(&gpu.synchronize().unwrap_err());
        let [first, second] = ["= 1.0f", "= 2.0f"].map(|code| {
            let (file, line) =
                place("parts_at_a_barrier", code).split_once(':').map(|(f, l)| (f.to_owned(), l.to_owned())).unwrap();
            format!("{file}:{}", line.parse::<u32>().unwrap() + 1)
        });
        let expected = format!(
            "thread (32,0,0), {second}: divergent barrier: this thread waits here, others of its block at {first}"
        );
        assert!(error.ends_with(&expected), "{error}");
    });
}

#[test]
fn does_not_come_to_the_barrier() {
    let message =
        "deadlock: no thread of the block can go on; 64 wait at barriers, 0 in warp collectives, 0 have exited";
    let expected = bug(TIMEOUT, "(0,0,0)", place("does_not_come_to_the_barrier", "__syncthreads"), message);
    finds("does_not_come_to_the_barrier", "memory", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 64, 0, &[&gpu.zeros::<i32>(64)])
    });
}

#[test]
fn shuffles_with_lanes_that_left() {
    in_process("shuffles_with_lanes_that_left", &[], || {
        let gpu = Gpu::new();
        let kernel = gpu.kernel(PTX, "shuffles_with_lanes_that_left");
        kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<f32>(32)]).unwrap();
        let error = message(&gpu.synchronize().unwrap_err());
        let shuffle = place("shuffles_with_lanes_that_left", "__shfl");
        let expected = format!("the thread exits while others of its warp wait for it at {shuffle} (mask ffffffff)");
        assert!(error.contains("thread (16,0,0)") && error.ends_with(&expected), "{error}");
    });
}

#[test]
fn shuffles_without_itself() {
    let message = "the mask 0000ffff of a warp collective lacks the thread's own lane";
    let expected = bug(FAILED, "(16,0,0)", place("shuffles_without_itself", "__shfl"), message);
    finds("shuffles_without_itself", "memory", &expected, |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<f32>(32)])
    });
}

#[test]
fn shuffles_in_two_branches() {
    in_process("shuffles_in_two_branches", &[], || {
        let gpu = Gpu::new();
        let kernel = gpu.kernel(PTX, "shuffles_in_two_branches");
        kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<f32>(32)]).unwrap();
        let error = message(&gpu.synchronize().unwrap_err());
        let [odd, even] =
            ["x[threadIdx.x], 2)", "x[threadIdx.x], 4)"].map(|code| place("shuffles_in_two_branches", code));
        let disagree = |here: &str, lane: u32, there: &str| {
            format!(
                "{here}: the lanes of a warp disagree: this one is in a collective with mask ffffffff, lane {lane} in one with \
                 mask ffffffff at {there}"
            )
        };
        assert!(error.ends_with(&disagree(&odd, 0, &even)) || error.ends_with(&disagree(&even, 1, &odd)), "{error}");
    });
}

#[test]
fn loops_for_ever() {
    in_process("loops_for_ever", &[("CUDA_EMULATOR_BUDGET", "100000")], || {
        let gpu = Gpu::new();
        gpu.kernel(PTX, "loops_for_ever").launch(&gpu.stream, 1, 32, 0, &[&gpu.zeros::<i32>(1)]).unwrap();
        let error = gpu.synchronize().unwrap_err();
        assert_eq!(error.0, TIMEOUT);
        assert!(
            message(&error).contains("the block has run 100000 instructions and is not done: does it loop for ever?")
        );
    });
}

// ---- what a kernel finds out by itself

#[test]
fn asserts() {
    in_process("asserts", &[], || {
        let gpu = Gpu::new();
        let x = gpu.upload(&(0..32).collect::<Vec<i32>>());
        gpu.kernel(PTX, "asserts").launch(&gpu.stream, 1, 32, 0, &[&x]).unwrap();
        let error = gpu.synchronize().unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_ASSERT);
        let place = place("asserts", "assert(");
        let expected = format!("thread (10,0,0), {place}: assertion `x[threadIdx.x] < 10` failed at {place}");
        assert!(message(&error).ends_with(&expected), "{error:?}");
    });
}

#[test]
fn traps() {
    finds("traps", "memory", &bug(FAILED, "(11,0,0)", place("traps", "asm volatile"), "trap"), |gpu, kernel| {
        kernel.launch(&gpu.stream, 1, 32, 0, &[&gpu.upload(&(0..32).collect::<Vec<i32>>())])
    });
}

// ---- launches that are refused before anything runs

#[test]
fn launches_have_limits() {
    let gpu = Gpu::new();
    let x = gpu.zeros::<f32>(64);
    let scale = gpu.kernel(VECTORS, "scale");
    let refusal = |grid: (u32, u32, u32), block: (u32, u32, u32), shared_bytes: u32| {
        let error = scale.launch(&gpu.stream, grid, block, shared_bytes, &[&x, &1.0f32, &64]).unwrap_err();
        (error.0, message(&error))
    };
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    for (grid, block, shared_bytes, code, expected) in [
        (
            (1, 1, 1),
            (1025, 1, 1),
            0,
            invalid,
            "the block (1025, 1, 1) has more than 1024 threads, or more than 64 in z",
        ),
        ((1, 1, 1), (1, 1, 65), 0, invalid, "the block (1, 1, 65) has more than 1024 threads, or more than 64 in z"),
        ((1, 1, 1), (0, 1, 1), 0, invalid, "a dimension is zero"),
        ((1, 65536, 1), (1, 1, 1), 0, invalid, "the grid (1, 65536, 1) is larger than (2147483647, 65535, 65535)"),
        ((1, 1, 1), (1, 1, 1), 49153, invalid, "49153 bytes of dynamic shared memory, but only 49152 are allowed"),
        (
            (1, 1, 1),
            (160, 1, 1),
            0,
            CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            "160 threads, but its __launch_bounds__ allows 128",
        ),
    ] {
        let (found, text) = refusal(grid, block, shared_bytes);
        assert_eq!(found, code, "{text}");
        assert!(text.contains(&format!("launch of `scale` refused: {expected}")), "{text}");
    }
    let swapped = scale.launch(&gpu.stream, 1, 64, 0, &[&64u64, &1.0f32, &64]).unwrap_err();
    let expected = "launch of `scale` refused: argument 0 is used as a pointer, but 0x40 is no device address";
    assert!(message(&swapped).contains(expected), "{swapped:?}");
    // None of that is an error of the device.
    gpu.synchronize().unwrap();
}
