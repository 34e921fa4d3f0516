//! Kernels: their PTX, which is compiled by the driver when it is first asked for, and their launches.

use super::Cuda;
use super::memory::{Act, Buffer};
use cudarc::driver::{CudaContext, DriverError, result, sys};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// The PTX of one `.cu` file.
pub(super) struct Source(pub(super) &'static str);

/// The PTX that ships, by the name of its source.
macro_rules! source {
    ($name:literal) => {
        $crate::cuda::launch::Source(include_str!(concat!("../../kernels/ptx/", $name, ".ptx")))
    };
}
pub(super) use source;

/// What was handed to the driver, copies and memsets apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Launches {
    /// Kernels and matrix products, one by one.
    pub single: u64,
    /// Recorded passes, each as a whole.
    pub graphs: u64,
}

/// What a launch covers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) blocks: [usize; 3],
    pub(super) threads: [usize; 3],
    /// Dynamic shared memory.
    pub(super) shared_bytes: usize,
}

impl Grid {
    pub(super) fn new(blocks: [usize; 3], threads: usize) -> Self {
        Self { blocks, threads: [threads, 1, 1], shared_bytes: 0 }
    }
}

/// A thread for eight neighbours of a row; see `octet_of_thread` in `common.cuh`.
pub(super) fn octets(n_rows: usize, width: usize) -> Grid {
    Grid::new([(n_rows * width.div_ceil(8)).div_ceil(256), 1, 1], 256)
}

/// A thread for four neighbours.
pub(super) fn quads(n_values: usize) -> Grid {
    Grid::new([n_values.div_ceil(4 * 256), 1, 1], 256)
}

/// Lanes that share a row and hold it in their registers; see `row.cuh`.
pub(super) fn rows_in_registers(n_rows: usize, width: usize) -> Grid {
    assert!(width <= 16 * 1024, "rows of {width} values: at most 16,384");
    let lanes = match width {
        ..=1024 => width.div_ceil(32).next_power_of_two(),
        _ => 32 * width.div_ceil(1024),
    };
    let rows = if lanes <= 32 { 128 / lanes } else { 1 };
    Grid { blocks: [n_rows.div_ceil(rows), 1, 1], threads: [lanes, rows, 1], shared_bytes: 0 }
}

/// Sums of columns, whose rows are split over blocks where there are few columns; see `columns.cuh`.
pub(super) fn columns(n_rows: usize, width: usize) -> Grid {
    let blocks = width.div_ceil(32);
    let splits = n_rows.div_ceil(512).min(264 / blocks).max(1);
    Grid::new([blocks, splits, 1], 256)
}

/// A device may give a block so much shared memory without being asked.
const SHARED_BYTES: usize = 48 << 10;

/// Modules and functions that were loaded.
#[derive(Default)]
pub(super) struct Kernels {
    /// By the address of the source's text.
    modules: RefCell<HashMap<usize, sys::CUmodule>>,
    functions: RefCell<HashMap<&'static str, Function>>,
}

#[derive(Clone, Copy)]
struct Function {
    function: sys::CUfunction,
    shared_bytes: usize,
}

impl Kernels {
    fn function(
        &self,
        context: &Arc<CudaContext>,
        source: &Source,
        name: &'static str,
        shared_bytes: usize,
    ) -> Result<sys::CUfunction, DriverError> {
        let known = self.functions.borrow().get(name).copied();
        let function = match known {
            Some(known) if shared_bytes <= known.shared_bytes => return Ok(known.function),
            Some(known) => known.function,
            None => self.load(context, source, name)?,
        };
        if shared_bytes > SHARED_BYTES {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of a module that stays loaded.
            unsafe { result::function::set_function_attribute(function, attribute, shared_bytes as i32) }?;
        }
        let shared_bytes = shared_bytes.max(SHARED_BYTES);
        self.functions.borrow_mut().insert(name, Function { function, shared_bytes });
        Ok(function)
    }

    fn load(&self, context: &Arc<CudaContext>, source: &Source, name: &str) -> Result<sys::CUfunction, DriverError> {
        context.bind_to_thread()?;
        let c_string = |text: &str| CString::new(text).map_err(|_| DriverError(sys::CUresult::CUDA_ERROR_INVALID_PTX));
        let key = source.0.as_ptr() as usize;
        let known = self.modules.borrow().get(&key).copied();
        let module = match known {
            Some(module) => module,
            None => {
                let text = c_string(source.0)?;
                // SAFETY: text with an end, as the driver wants PTX.
                let module = unsafe { result::module::load_data(text.as_ptr().cast()) }?;
                self.modules.borrow_mut().insert(key, module);
                module
            }
        };
        // SAFETY: the module was loaded above and is never unloaded before the context.
        unsafe { result::module::get_function(module, c_string(name)?) }
    }
}

/// The parameters of a kernel, in its order: copied, as the driver copies them.
pub(super) struct Launch<'a> {
    cuda: &'a Cuda,
    source: &'static Source,
    name: &'static str,
    /// Sixteen bytes each, or a multiple: no parameter is aligned to more.
    values: Vec<u128>,
    starts: Vec<usize>,
}

impl Cuda {
    /// Starts a launch of a kernel of `source`.
    pub(super) fn kernel(&self, source: &'static Source, name: &'static str) -> Launch<'_> {
        Launch { cuda: self, source, name, values: Vec::with_capacity(24), starts: Vec::with_capacity(24) }
    }

    /// Counts a kernel or a product; what is recorded is launched later, as a graph.
    pub(super) fn count_single(&self) {
        let Launches { single, graphs } = self.launches.get();
        self.launches.set(Launches { single: single + u64::from(!self.recording.get()), graphs });
    }

    /// Counts a graph.
    pub(super) fn count_graph(&self) {
        let Launches { single, graphs } = self.launches.get();
        self.launches.set(Launches { single, graphs: graphs + 1 });
    }
}

impl Launch<'_> {
    fn push<T: Copy>(mut self, value: T) -> Self {
        self.starts.push(self.values.len());
        let words = size_of::<T>().div_ceil(size_of::<u128>());
        self.values.resize(self.values.len() + words, 0);
        let start = self.values.len() - words;
        // SAFETY: as many words as the value has bytes, aligned to sixteen, which is more than any parameter needs.
        unsafe { self.values[start..].as_mut_ptr().cast::<T>().write(value) };
        self
    }

    /// A pointer to activations and the distance of their rows.
    pub(super) fn act(self, act: &Act) -> Self {
        self.push(act.address).int(act.stride)
    }

    /// The same, or null and 0.
    pub(super) fn act_or_null(self, act: Option<&Act>) -> Self {
        match act {
            Some(act) => self.act(act),
            None => self.push(0u64).int(0),
        }
    }

    /// A pointer to a buffer.
    pub(super) fn buffer<T>(self, buffer: &Buffer<T>) -> Self {
        self.push(buffer.address())
    }

    /// A pointer.
    pub(super) fn address(self, address: u64) -> Self {
        self.push(address)
    }

    /// An `int`: sizes that kernels count in.
    pub(super) fn int(self, value: usize) -> Self {
        self.push(i32::try_from(value).unwrap_or_else(|_| panic!("{value} does not fit an int")))
    }

    /// A `size_t`.
    pub(super) fn size(self, value: usize) -> Self {
        self.push(value as u64)
    }

    pub(super) fn float(self, value: f32) -> Self {
        self.push(value)
    }

    /// A `struct` of the kernel's own layout.
    pub(super) fn by_value<T: Copy>(self, value: T) -> Self {
        self.push(value)
    }

    /// Hands the launch to the stream; a grid of nothing is not launched.
    pub(super) fn launch(mut self, grid: Grid) {
        let cuda = self.cuda;
        if grid.blocks.contains(&0) || cuda.failure.is_set() {
            return;
        }
        let function = cuda.kernels.function(&cuda.context, self.source, self.name, grid.shared_bytes);
        let Some(function) = cuda.failure.catch(self.name, function) else { return };
        let values = self.values.as_mut_ptr();
        // SAFETY: each start is an index of a value.
        let mut parameters: Vec<*mut c_void> = self.starts.iter().map(|&at| unsafe { values.add(at) }.cast()).collect();
        let [x, y, z] = grid.blocks.map(|blocks| blocks as u32);
        let threads = grid.threads.map(|threads| threads as u32);
        let (stream, shared_bytes) = (cuda.stream.cu_stream(), grid.shared_bytes as u32);
        // SAFETY: the caller lists the parameters of that kernel in its order, and buffers as long as it reads and writes.
        let launched = unsafe {
            result::launch_kernel(function, (x, y, z), threads.into(), shared_bytes, stream, &mut parameters)
        };
        cuda.failure.catch(self.name, launched);
        cuda.count_single();
        cuda.wait_if_asked(self.name);
    }
}
