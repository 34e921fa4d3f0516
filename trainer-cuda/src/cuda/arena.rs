//! The memory of a run: one allocation, from which every buffer is cut as it is asked for.

use super::failure::message;
use super::layout::{self, aligned};
use crate::{Result, TrainerError};
use cudarc::driver::{CudaContext, result};
use std::cell::Cell;
use std::sync::Arc;

/// One allocation. What is cut from it keeps it alive, and none of that is given back before all of it is.
pub(super) struct Arena {
    context: Arc<CudaContext>,
    address: u64,
    bytes: usize,
    used: Cell<usize>,
    /// Tells an emulated device where buffers begin and end, so that it finds what reaches past one.
    carve: Option<Carve>,
}

type Carve = unsafe extern "C" fn(address: u64, bytes: usize, name: *const std::ffi::c_char);

impl Arena {
    /// `bytes` of the device's memory, as it is.
    pub(super) fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        let failed = |operation: &str| {
            let operation = operation.to_owned();
            move |error| TrainerError::Cuda { operation, message: message(error) }
        };
        let (free, total) = context.mem_get_info().map_err(failed("the memory's size"))?;
        let out_of_memory = || TrainerError::OutOfMemory {
            device: context.name().unwrap_or_else(|_| "the GPU".to_owned()),
            needed: bytes as u64,
            free: free as u64,
            total: total as u64,
        };
        if bytes > free {
            return Err(out_of_memory());
        }
        // SAFETY: the context is current; `bytes` is above 0, as there are workspaces.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(|_| out_of_memory())?;
        Ok(Self { context: context.clone(), address, bytes, used: Cell::new(0), carve: emulators_carve() })
    }

    /// The next `bytes`, at a multiple of [`layout::ALIGNMENT`].
    ///
    /// # Panics
    /// Where the memory plan did not list it.
    pub(super) fn take(&self, bytes: usize, name: &str) -> u64 {
        let start = self.used.get();
        let end = start + aligned(bytes);
        assert!(end <= self.bytes, "`{name}` takes {bytes} bytes that the memory plan does not list");
        self.used.set(end);
        let address = self.address + start as u64;
        if bytes > 0
            && let (Some(carve), Ok(name)) = (self.carve, std::ffi::CString::new(name))
        {
            // SAFETY: the emulator's function, and a range of this allocation.
            unsafe { carve(address, bytes, name.as_ptr()) };
        }
        address
    }

    /// Bytes that were taken, and all.
    pub(super) fn usage(&self) -> (usize, usize) {
        (self.used.get(), self.bytes)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        debug_assert_eq!(self.address % layout::ALIGNMENT as u64, 0);
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: nothing cut from the arena is left: each keeps it alive. Waits for the device, so that no kernel runs
            // on it. An error means that the device is lost, and its memory with it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// The function of an emulated driver, where one is loaded.
fn emulators_carve() -> Option<Carve> {
    super::libraries::symbol("cuda_emulator_carve").map(|address| {
        // SAFETY: a function of that name and type is what the emulator exports, and no driver has it.
        unsafe { std::mem::transmute::<*mut std::ffi::c_void, Carve>(address) }
    })
}
