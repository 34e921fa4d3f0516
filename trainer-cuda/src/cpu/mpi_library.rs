//! An MPI library, opened at run time: MPICH, or one of its binary interface (Intel MPI, MVAPICH, Cray MPICH).
//!
//! Nothing is linked to it. Its handles are numbers that the interface fixes (MPICH's `mpi.h`), so that no header is needed.

use crate::{Result, TrainerError};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::error::Error;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

/// `MPI_COMM_WORLD`
const WORLD: c_int = 0x4400_0000;
/// `MPI_FLOAT`, `MPI_DOUBLE`
const FLOAT: c_int = 0x4c00_040a;
const DOUBLE: c_int = 0x4c00_080b;
/// `MPI_SUM`
const SUM: c_int = 0x5800_0003;
/// `MPI_ERRORS_RETURN`
const ERRORS_RETURN: c_int = 0x5400_0001;
/// `MPI_REQUEST_NULL`
const NO_REQUEST: c_int = 0x2c00_0000;
/// `MPI_IN_PLACE`, `MPI_STATUS_IGNORE`
const IN_PLACE: *const c_void = ptr::without_provenance(usize::MAX);
const STATUS_IGNORE: *mut c_void = ptr::without_provenance_mut(1);
/// `MPI_THREAD_SERIALIZED`: whichever thread trains calls, one at a time.
const SERIALIZED: c_int = 2;
/// `MPI_MAX_ERROR_STRING`, `MPI_MAX_LIBRARY_VERSION_STRING`
const MOST_CHARACTERS: usize = 8192;

/// The interface's version: 12 is that of all since MPICH 3.1.
const NAMES: [&str; 2] = ["libmpich.so.12", "libmpi.so.12"];
const REMEDY: &str = "install MPICH (`apt install libmpich12`), or train on one rank";

/// The functions that are used.
pub(super) struct MpiLibrary {
    comm_size: unsafe extern "C" fn(c_int, *mut c_int) -> c_int,
    comm_rank: unsafe extern "C" fn(c_int, *mut c_int) -> c_int,
    set_errhandler: unsafe extern "C" fn(c_int, c_int) -> c_int,
    iallreduce: unsafe extern "C" fn(*const c_void, *mut c_void, c_int, c_int, c_int, c_int, *mut c_int) -> c_int,
    test: unsafe extern "C" fn(*mut c_int, *mut c_int, *mut c_void) -> c_int,
    error_string: unsafe extern "C" fn(c_int, *mut c_char, *mut c_int) -> c_int,
    init_thread: unsafe extern "C" fn(*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int) -> c_int,
    initialized: unsafe extern "C" fn(*mut c_int) -> c_int,
    finalize: unsafe extern "C" fn() -> c_int,
    /// Last: the functions are its.
    _library: Library,
}

/// What was begun, with the memory that it is about still borrowed by whoever waits.
pub(super) struct Request(c_int);

/// What may be added up.
pub(super) trait Number {
    const DATATYPE: c_int;
}

impl Number for f32 {
    const DATATYPE: c_int = FLOAT;
}

impl Number for f64 {
    const DATATYPE: c_int = DOUBLE;
}

impl MpiLibrary {
    /// Opens it.
    ///
    /// # Errors
    /// [`TrainerError::NoRankLibrary`], which says what to install.
    pub(super) fn open() -> Result<Self> {
        let refuse = |what: String| TrainerError::NoRankLibrary { what, remedy: REMEDY.to_owned() };
        let mut why = String::from("no MPI library is found");
        for name in NAMES {
            // SAFETY: initialisers of an MPI library run, as in any program that uses it.
            match unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(library) => {
                    // SAFETY: the library has MPICH's interface, version 12: its soname says so.
                    let functions = unsafe { Self::functions(library) };
                    return functions.map_err(|error| refuse(format!("`{name}` is not MPICH's: {error}")));
                }
                Err(error) => {
                    let error = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                    if name == NAMES[0] {
                        why = format!("no MPI library can be opened ({error})");
                    }
                }
            }
        }
        Err(refuse(why))
    }

    /// # Safety
    /// The library has MPICH's interface: its functions' types are those that `mpi.h` declares.
    unsafe fn functions(library: Library) -> std::result::Result<Self, libloading::Error> {
        macro_rules! get {
            ($name:literal) => {
                // SAFETY: the type is the function's, by the contract of this function.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }?
            };
        }
        Ok(Self {
            comm_size: get!("MPI_Comm_size"),
            comm_rank: get!("MPI_Comm_rank"),
            set_errhandler: get!("MPI_Comm_set_errhandler"),
            iallreduce: get!("MPI_Iallreduce"),
            test: get!("MPI_Test"),
            error_string: get!("MPI_Error_string"),
            init_thread: get!("MPI_Init_thread"),
            initialized: get!("MPI_Initialized"),
            finalize: get!("MPI_Finalize"),
            _library: library,
        })
    }

    /// Joins the processes that the launcher started, once in the life of this one.
    pub(super) fn init(&self) -> Result<()> {
        let mut known = 0;
        // SAFETY: it may be called at any time.
        self.check("MPI_Initialized", unsafe { (self.initialized)(&raw mut known) })?;
        if known != 0 {
            return Err(TrainerError::Collective {
                operation: "MPI_Init_thread".to_owned(),
                message: "this process has trained over ranks before; start another one".to_owned(),
            });
        }
        let mut provided = 0;
        // SAFETY: no arguments is allowed since MPI 2.
        let status = unsafe { (self.init_thread)(ptr::null_mut(), ptr::null_mut(), SERIALIZED, &raw mut provided) };
        self.check("MPI_Init_thread", status)?;
        // SAFETY: MPI is there.
        self.check("MPI_Comm_set_errhandler", unsafe { (self.set_errhandler)(WORLD, ERRORS_RETURN) })
    }

    /// Rank and number of ranks, as MPI counts them.
    pub(super) fn world(&self) -> Result<(usize, usize)> {
        let (mut rank, mut size) = (0, 0);
        // SAFETY: MPI is there.
        self.check("MPI_Comm_rank", unsafe { (self.comm_rank)(WORLD, &raw mut rank) })?;
        // SAFETY: as above.
        self.check("MPI_Comm_size", unsafe { (self.comm_size)(WORLD, &raw mut size) })?;
        Ok((rank as usize, size as usize))
    }

    /// Begins to add up `values` over all ranks, in place.
    ///
    /// # Safety
    /// Nobody touches the values until [`MpiLibrary::is_done`] says so, or ever again where it fails.
    pub(super) unsafe fn begin_sum<T: Number>(&self, values: &mut [T]) -> Result<Request> {
        let mut request = NO_REQUEST;
        let (to, count) = (values.as_mut_ptr().cast(), values.len() as c_int);
        // SAFETY: a range of that many values of that type, left alone by the contract of this function.
        let status = unsafe { (self.iallreduce)(IN_PLACE, to, count, T::DATATYPE, SUM, WORLD, &raw mut request) };
        self.check("MPI_Iallreduce", status)?;
        Ok(Request(request))
    }

    /// Goes on with what was begun; true where it is done.
    pub(super) fn is_done(&self, request: &mut Request) -> Result<bool> {
        let mut done = 0;
        // SAFETY: a request that was begun and not completed, or that of none.
        let status = unsafe { (self.test)(&raw mut request.0, &raw mut done, STATUS_IGNORE) };
        self.check("MPI_Test", status)?;
        Ok(done != 0)
    }

    /// Leaves MPI; all ranks do, or it waits.
    pub(super) fn finalize(&self) {
        // SAFETY: nothing is under way, and nothing is called after it. An error changes nothing: the process ends.
        let _ = unsafe { (self.finalize)() };
    }

    fn check(&self, operation: &str, status: c_int) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let (mut text, mut len) = ([0u8; MOST_CHARACTERS], 0);
        // SAFETY: the text has more room than any of the library's.
        let told = unsafe { (self.error_string)(status, text.as_mut_ptr().cast(), &raw mut len) };
        let message = match told {
            0 => String::from_utf8_lossy(&text[..(len as usize).min(MOST_CHARACTERS)]).into_owned(),
            _ => format!("error {status}"),
        };
        Err(TrainerError::Collective { operation: operation.to_owned(), message })
    }
}
