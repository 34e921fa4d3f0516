//! NCCL, opened at run time.
//!
//! cudarc has bindings of it, which ask for `libnccl.so`: NVIDIA's packages of the library alone have `libnccl.so.2` only. What
//! is used here is stable since NCCL 2.18.

use super::libraries;
use crate::{Result, TrainerError};
use cudarc::driver::sys::CUstream;
use libloading::os::unix::Library;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;

/// `ncclFloat32`, `ncclFloat64`, `ncclSum`
pub(super) const FLOAT32: c_int = 7;
pub(super) const FLOAT64: c_int = 8;
const SUM: c_int = 0;
/// `ncclSuccess`, `ncclInProgress`
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
/// Of `NCCL_CONFIG_INITIALIZER`: what a value is that NCCL chooses.
const UNDEFINED: c_int = c_int::MIN;

/// `ncclComm_t`
pub(super) type Communicator = *mut c_void;

/// `ncclUniqueId`: by which ranks find each other.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId(pub(super) [u8; 128]);

/// `ncclConfig_t` of 2.18: a later library takes its own values for what follows.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

/// The functions that are used.
pub(super) struct NcclLibrary {
    get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    init_rank: unsafe extern "C" fn(*mut Communicator, c_int, UniqueId, c_int, *mut Config) -> c_int,
    async_error: unsafe extern "C" fn(Communicator, *mut c_int) -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Communicator, CUstream) -> c_int,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    abort: unsafe extern "C" fn(Communicator) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(Communicator) -> *const c_char,
    /// Last: the functions are its.
    _library: Library,
}

impl NcclLibrary {
    /// Opens it, from `folder` where it is there.
    ///
    /// # Errors
    /// [`TrainerError::NoRankLibrary`], which says what to install.
    pub(super) fn open(folder: Option<&Path>) -> Result<Self> {
        let refuse = |what: String| {
            TrainerError::NoRankLibrary {
            what,
            remedy: "install NCCL 2.18 or later (`apt install libnccl2`, or `pip install nvidia-nccl-cu13`), or train on one GPU"
                .to_owned(),
        }
        };
        let (found, library) = libraries::open_nccl(folder);
        let Some(library) = library else {
            return Err(refuse(found.error.unwrap_or_else(|| "NCCL is not found".to_owned())));
        };
        // SAFETY: the library is NCCL: its name says so.
        unsafe { Self::functions(library) }.map_err(|error| refuse(format!("NCCL is too old: {error}")))
    }

    /// # Safety
    /// The library is NCCL: its functions' types are those that `nccl.h` declares.
    unsafe fn functions(library: Library) -> std::result::Result<Self, libloading::Error> {
        macro_rules! get {
            ($name:literal) => {
                // SAFETY: the type is the function's, by the contract of this function.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }?
            };
        }
        Ok(Self {
            get_unique_id: get!("ncclGetUniqueId"),
            init_rank: get!("ncclCommInitRankConfig"),
            async_error: get!("ncclCommGetAsyncError"),
            all_reduce: get!("ncclAllReduce"),
            group_start: get!("ncclGroupStart"),
            group_end: get!("ncclGroupEnd"),
            abort: get!("ncclCommAbort"),
            error_string: get!("ncclGetErrorString"),
            last_error: get!("ncclGetLastError"),
            _library: library,
        })
    }

    /// The id that all ranks have to be given.
    pub(super) fn unique_id(&self) -> Result<UniqueId> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: room for an id.
        let status = unsafe { (self.get_unique_id)(&raw mut id) };
        self.check("ncclGetUniqueId", std::ptr::null_mut(), status)?;
        Ok(id)
    }

    /// Begins to join the ranks; the calling thread's CUDA context is the rank's. No call waits for another rank from here
    /// on: [`NcclLibrary::is_settled`] says whether what was asked for has begun.
    pub(super) fn begin_joining(&self, id: UniqueId, rank: usize, world_size: usize) -> Result<Communicator> {
        let mut config = Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: 21_800,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
        };
        let mut communicator = std::ptr::null_mut();
        // SAFETY: the configuration is of the version that it names, and is copied.
        let status =
            unsafe { (self.init_rank)(&raw mut communicator, world_size as c_int, id, rank as c_int, &raw mut config) };
        self.check("ncclCommInitRankConfig", communicator, status)?;
        Ok(communicator)
    }

    /// Begins to add up ranges of device memory over all ranks, in place, in the order of `stream`: address, values, kind.
    ///
    /// # Safety
    /// The communicator is one that was joined and not aborted; the ranges are device memory of its context, which stays
    /// until the stream has passed this.
    pub(super) unsafe fn begin_sums(
        &self,
        communicator: Communicator,
        ranges: &[(u64, usize, c_int)],
        stream: CUstream,
    ) -> Result<()> {
        // SAFETY: it is ended below.
        self.check("ncclGroupStart", communicator, unsafe { (self.group_start)() })?;
        for &(address, len, kind) in ranges {
            let (from, to) = (address as *const c_void, address as *mut c_void);
            // SAFETY: by the contract of this function.
            let status = unsafe { (self.all_reduce)(from, to, len, kind, SUM, communicator, stream) };
            self.check("ncclAllReduce", communicator, status)?;
        }
        // SAFETY: it was begun above.
        self.check("ncclGroupEnd", communicator, unsafe { (self.group_end)() })
    }

    /// True where what was asked for is handed to the device; an error where it went wrong, here or at another rank.
    pub(super) fn is_settled(&self, operation: &str, communicator: Communicator) -> Result<bool> {
        let mut state = SUCCESS;
        // SAFETY: a communicator that is being joined, or was.
        let status = unsafe { (self.async_error)(communicator, &raw mut state) };
        self.check("ncclCommGetAsyncError", communicator, status)?;
        self.check(operation, communicator, state)?;
        Ok(state != IN_PROGRESS)
    }

    /// Ends what is under way, on the device too, and forgets the communicator.
    ///
    /// # Safety
    /// It is not used again.
    pub(super) unsafe fn abort(&self, communicator: Communicator) {
        // SAFETY: by the contract of this function. There is nothing to do about an error.
        let _ = unsafe { (self.abort)(communicator) };
    }

    fn check(&self, operation: &str, communicator: Communicator, status: c_int) -> Result<()> {
        if status == SUCCESS || status == IN_PROGRESS {
            return Ok(());
        }
        let text = |text: *const c_char| match text.is_null() {
            true => String::new(),
            // SAFETY: both functions give a text that ends with a zero byte; it is copied at once.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned(),
        };
        // SAFETY: any status has a text; the last error may be asked for without a communicator.
        let (what, detail) = unsafe { (text((self.error_string)(status)), text((self.last_error)(communicator))) };
        let message = if detail.is_empty() { what } else { format!("{what}: {detail}") };
        Err(TrainerError::Collective { operation: operation.to_owned(), message })
    }
}
