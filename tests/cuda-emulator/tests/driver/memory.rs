//! Allocations, copies, memsets, and the buffers that are carved from an allocation.

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUresult};

use crate::common::*;

#[test]
fn slices_of_cudarc_work() {
    let gpu = Gpu::new();
    let stream = &gpu.stream;
    let x = random(100, 1);
    let first = stream.clone_htod(&x).unwrap();
    let mut second = stream.alloc_zeros::<f32>(100).unwrap();
    stream.memcpy_dtod(&first.slice(10..60), &mut second.slice_mut(50..)).unwrap();
    let expected: Vec<_> = [[0.0; 50].as_slice(), &x[10..60]].concat();
    assert_eq!(stream.clone_dtoh(&second).unwrap(), expected);
}

#[test]
fn memory_is_set_in_units_of_one_two_and_four_bytes() {
    let gpu = Gpu::new();
    let x = gpu.upload(&[7u32; 6]);
    // SAFETY: the buffer has 24 bytes.
    unsafe {
        sys::cuMemsetD32_v2(x.address, 0x0102_0304, 2).result().unwrap();
        sys::cuMemsetD16_v2(x.address + 8, 0x0506, 4).result().unwrap();
        result::memset_d8_sync(x.address + 16, 9, 4).unwrap();
    }
    assert_eq!(x.download(), [0x0102_0304, 0x0102_0304, 0x0506_0506, 0x0506_0506, 0x0909_0909, 7]);
}

#[test]
fn memory_ends() {
    in_process("memory::memory_ends", &[("CUDA_EMULATOR_MEMORY", "1000000")], || {
        let gpu = Gpu::new();
        assert_eq!(gpu.context.total_mem().unwrap(), 1_000_000);
        let x = gpu.allocate::<u8>(600_000);
        assert_eq!(gpu.context.mem_get_info().unwrap(), (400_000, 1_000_000));
        // SAFETY: nothing is done with it.
        let refused = unsafe { result::malloc_sync(400_001) }.unwrap_err();
        assert_eq!(refused.0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert!(message(&refused).contains("only 400000 of 1000000 are free"), "{refused:?}");
        // SAFETY: freed once.
        unsafe { result::free_sync(x.address) }.unwrap();
        assert_eq!(gpu.context.mem_get_info().unwrap(), (1_000_000, 1_000_000));
        let counters = gpu.emulator.counters();
        assert_eq!(
            (counters.allocations.count, counters.allocations.bytes, counters.peak_bytes),
            (1, 600_000, 600_000)
        );
    });
}

/// Six gigabytes are there, without a value, and cost nothing until they are touched.
#[test]
fn large_allocations_cost_what_is_touched() {
    in_process("memory::large_allocations_cost_what_is_touched", &[("CUDA_EMULATOR_CHECK", "all")], || {
        let gpu = Gpu::new();
        let bytes = 6 << 30;
        let large = gpu.allocate::<u8>(bytes);
        gpu.emulator.carve(large.address + 512, bytes - 1024, "large").unwrap();
        for offset in [512, 5_000_000, bytes as u64 - 516] {
            let x = Buffer::<f32>::at(large.address + offset, 1);
            assert_eq!(x.download()[0].to_bits(), u32::MAX);
            // SAFETY: one number inside of the buffer.
            unsafe { result::memcpy_htod_sync(x.address, &[offset as f32]) }.unwrap();
            gpu.kernel(VECTORS, "scale").run(&gpu, 1, 1, &[&x, &2.0f32, &1]);
            assert_eq!(x.download(), [2.0 * offset as f32]);
        }
        assert!(resident_pages() < 25_000, "6 GB of device memory cost {} pages", resident_pages());
    });
}

#[test]
fn copies_stay_in_their_buffer() {
    let gpu = Gpu::new();
    let x = gpu.upload(&[1.0f32; 100]);
    // SAFETY: refused.
    let refused = unsafe { result::memcpy_htod_sync(x.address + 4, &[0.0f32; 100]) }.unwrap_err();
    assert_eq!(refused.0, CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(message(&refused).contains("copy from the host: 400 bytes at byte 4 of allocation #"), "{refused:?}");
    // SAFETY: refused too, but for the last.
    unsafe {
        assert_status(result::memset_d8_sync(x.address, 0, 401), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_status(result::free_sync(x.address + 4), CUresult::CUDA_ERROR_INVALID_VALUE);
        result::free_sync(x.address).unwrap();
        assert_status(result::free_sync(x.address), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_status(result::memset_d8_sync(x.address, 0, 4), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
}

#[test]
fn buffers_are_carved_from_an_allocation() {
    let gpu = Gpu::new();
    let arena = gpu.allocate::<u8>(4096);
    gpu.emulator.carve(arena.address, 1000, "first").unwrap();
    gpu.emulator.carve(arena.address + 1024, 1000, "second").unwrap();
    let overlapping = gpu.emulator.carve(arena.address + 999, 2, "third").unwrap_err();
    assert!(overlapping.to_string().contains("`third` is carved from bytes that belong to `first`"), "{overlapping}");
    let outside = gpu.emulator.carve(arena.address + 4090, 7, "fourth").unwrap_err();
    assert!(outside.to_string().contains("`fourth` is carved from memory that is not allocated"), "{outside}");
    // SAFETY: within the allocation, whatever the driver says to it.
    unsafe {
        result::memset_d8_sync(arena.address, 0, 1000).unwrap();
        let between = result::memset_d8_sync(arena.address, 0, 1001).unwrap_err();
        assert!(message(&between).contains("memset: 1001 bytes at byte 0 of `first` (1000 bytes)"), "{between:?}");
        gpu.emulator.uncarve_all(arena.address).unwrap();
        result::memset_d8_sync(arena.address, 0, 4096).unwrap();
    }
}
