//! A device with one stream, and kernels from the PTX beside this crate: what each test needs of cudarc.
#![allow(dead_code)] // each test binary uses some of it
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these are their helpers

use std::ffi::{CString, c_void};
use std::process::Command;
use std::sync::Arc;
use std::{env, ptr};

use cuda_emulator::Emulator;
use cudarc::driver::sys::{self, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};

pub(crate) const VECTORS: &str = include_str!("../../kernels/vectors.ptx");
pub(crate) const REDUCTIONS: &str = include_str!("../../kernels/reductions.ptx");
pub(crate) const MATRICES: &str = include_str!("../../kernels/matrices.ptx");

pub(crate) struct Gpu {
    pub(crate) emulator: Emulator,
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
}

impl Gpu {
    pub(crate) fn new() -> Self {
        let emulator = cuda_emulator::load().unwrap();
        let context = CudaContext::new(0).unwrap();
        // SAFETY: all of a test's work is on streams that it orders itself.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        Self { emulator, context, stream }
    }

    pub(crate) fn kernel(&self, ptx: &str, name: &str) -> Kernel {
        self.module(ptx).unwrap().kernel(name)
    }

    pub(crate) fn module(&self, ptx: &str) -> Result<Module, DriverError> {
        self.context.bind_to_thread()?;
        let text = CString::new(ptx).unwrap();
        // SAFETY: the image is PTX that ends with a zero byte.
        unsafe { result::module::load_data(text.as_ptr().cast()) }.map(Module)
    }

    /// A buffer with these values.
    pub(crate) fn upload<T: Copy>(&self, values: &[T]) -> Buffer<T> {
        let buffer = self.allocate(values.len());
        // SAFETY: the buffer is as large as the values.
        unsafe { result::memcpy_htod_sync(buffer.address, values) }.unwrap();
        buffer
    }

    /// A buffer of zeros.
    pub(crate) fn zeros<T: Copy + Default>(&self, len: usize) -> Buffer<T> {
        self.upload(&vec![T::default(); len])
    }

    /// A buffer without values.
    pub(crate) fn allocate<T>(&self, len: usize) -> Buffer<T> {
        self.context.bind_to_thread().unwrap();
        // SAFETY: the size is not zero in any test.
        let address = unsafe { result::malloc_sync(len * size_of::<T>()) }.unwrap();
        Buffer { address, len, values: std::marker::PhantomData }
    }

    /// A copy that is done when the call returns, into memory that is there already.
    pub(crate) fn copy_at_once(&self, buffer: &Buffer<f32>) -> Result<(), DriverError> {
        // SAFETY: the buffer has at least one number.
        unsafe { result::memcpy_htod_sync(buffer.address, &[0.0f32]) }
    }

    pub(crate) fn synchronize(&self) -> Result<(), DriverError> {
        self.stream.synchronize()
    }
}

pub(crate) struct Buffer<T> {
    pub(crate) address: u64,
    pub(crate) len: usize,
    values: std::marker::PhantomData<T>,
}

impl<T: Copy + Default> Buffer<T> {
    /// A part of memory that is there already.
    pub(crate) fn at(address: u64, len: usize) -> Self {
        Self { address, len, values: std::marker::PhantomData }
    }

    pub(crate) fn download(&self) -> Vec<T> {
        self.try_download().unwrap()
    }

    pub(crate) fn try_download(&self) -> Result<Vec<T>, DriverError> {
        let mut values = vec![T::default(); self.len];
        // SAFETY: the values are as many as the buffer's.
        unsafe { result::memcpy_dtoh_sync(&mut values, self.address) }?;
        Ok(values)
    }
}

pub(crate) struct Module(pub(crate) sys::CUmodule);

impl Module {
    pub(crate) fn kernel(&self, name: &str) -> Kernel {
        // SAFETY: the module stays loaded until the process ends.
        Kernel(unsafe { result::module::get_function(self.0, CString::new(name).unwrap()) }.unwrap())
    }
}

pub(crate) struct Kernel(pub(crate) sys::CUfunction);

impl Kernel {
    /// Launches it and waits.
    pub(crate) fn run(&self, gpu: &Gpu, grid: impl Dim, block: impl Dim, arguments: &[&dyn Argument]) {
        self.launch(&gpu.stream, grid, block, 0, arguments).unwrap();
        gpu.synchronize().unwrap();
    }

    pub(crate) fn launch(
        &self,
        stream: &CudaStream,
        grid: impl Dim,
        block: impl Dim,
        shared_bytes: u32,
        arguments: &[&dyn Argument],
    ) -> Result<(), DriverError> {
        let mut pointers: Vec<_> = arguments.iter().map(|argument| argument.pointer()).collect();
        // SAFETY: each test gives a kernel the arguments that it declares.
        unsafe {
            result::launch_kernel(self.0, grid.dim(), block.dim(), shared_bytes, stream.cu_stream(), &mut pointers)
        }
    }

    pub(crate) fn allow_dynamic_shared(&self, bytes: i32) -> Result<(), DriverError> {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is one of a loaded module.
        unsafe { result::function::set_function_attribute(self.0, attribute, bytes) }
    }
}

/// Something that can be a kernel's argument: a number, or a buffer by its address.
pub(crate) trait Argument {
    fn pointer(&self) -> *mut c_void;
}

macro_rules! number_argument {
    ($($number:ty),*) => {$(
        impl Argument for $number {
            fn pointer(&self) -> *mut c_void {
                ptr::from_ref(self).cast_mut().cast()
            }
        }
    )*};
}
number_argument!(i32, u32, i64, u64, f32, f64);

impl<T> Argument for Buffer<T> {
    fn pointer(&self) -> *mut c_void {
        ptr::from_ref(&self.address).cast_mut().cast()
    }
}

/// A size of a grid or a block: `n` is `(n, 1, 1)`.
pub(crate) trait Dim {
    fn dim(self) -> (u32, u32, u32);
}
impl Dim for u32 {
    fn dim(self) -> (u32, u32, u32) {
        (self, 1, 1)
    }
}
impl Dim for (u32, u32) {
    fn dim(self) -> (u32, u32, u32) {
        (self.0, self.1, 1)
    }
}
impl Dim for (u32, u32, u32) {
    fn dim(self) -> (u32, u32, u32) {
        self
    }
}

/// Numbers between -1 and 1 that are the same in each run (xorshift64*).
pub(crate) fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Of this process, in memory.
pub(crate) fn resident_pages() -> u64 {
    let statistics = std::fs::read_to_string("/proc/self/statm").unwrap();
    statistics.split(' ').nth(1).unwrap().parse().unwrap()
}

#[track_caller]
pub(crate) fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance * (1.0 + e.abs()), "[{i}] is {a}, expected {e}");
    }
}

#[track_caller]
pub(crate) fn assert_status<T>(result: Result<T, DriverError>, expected: CUresult) {
    let actual = result.err().map_or(CUresult::CUDA_SUCCESS, |error| error.0);
    assert_eq!(actual, expected);
}

/// The driver's text for an error.
pub(crate) fn message(error: &DriverError) -> String {
    error.error_string().unwrap().to_str().unwrap().to_owned()
}

const CHILD: &str = "TUNESMITH_EMULATOR_TEST";

/// Runs `body` in a process of its own with these variables, since options are read once and errors of a device stay. Gives
/// what the process printed. `test` is the name of the test that calls.
#[track_caller]
pub(crate) fn in_process(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) -> String {
    if env::var_os(CHILD).is_some_and(|name| name == test) {
        body();
        std::process::exit(0);
    }
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), *value));
    rerun(&[test, "--exact"], variables.chain([(CHILD.to_owned(), test)]))
}

/// Runs this test binary with other arguments.
#[track_caller]
pub(crate) fn rerun<'a>(arguments: &[&str], variables: impl IntoIterator<Item = (String, &'a str)>) -> String {
    let variables: Vec<_> = variables.into_iter().collect();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(arguments).arg("--nocapture").envs(variables.iter().cloned());
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{arguments:?} with {variables:?}:\n{text}");
    text
}
