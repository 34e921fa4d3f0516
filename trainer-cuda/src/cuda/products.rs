//! Matrix products: cuBLASLt, or our own kernels where that is not installed.

use super::Cuda;
use super::graph::RECORDINGS;
use super::launch::{Grid, Source, source};
use super::layout::WORKSPACE_BYTES;
use crate::plan::ROW_ALIGNMENT;
use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::sys::CUstream;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::PoisonError;

static GEMM: Source = source!("gemm");

/// How the factors of `D = A B` lie in memory, both row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Layout {
    /// `a [m, k]`, `b [n, k]`: a linear layer, `y = x W^T`.
    Tn,
    /// `a [m, k]`, `b [k, n]`: its input's gradient, `dx = dy W`.
    Nn,
    /// `a [k, m]`, `b [k, n]`: its weight's gradient, `dW = dy^T x`. `C` and `D` are f32 instead of bf16.
    Nt,
}

/// A bf16 matrix: address and distance of rows.
pub(super) type MatrixRef = (u64, usize);

/// `D = A B + C + bias`, sums in f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) layout: Layout,
    /// Rows and columns of `D`, and terms of each sum.
    pub(super) shape: [usize; 3], // m, n, k
    pub(super) a: MatrixRef,
    pub(super) b: MatrixRef,
    /// Added; may be `D` itself.
    pub(super) c: Option<MatrixRef>,
    /// Added to every row of `D`.
    pub(super) bias: Option<u64>, // [n]
    pub(super) d: MatrixRef,
}

/// Bytes at multiples of which matrices start: they may be parts of rows.
const MATRIX_ALIGNMENT: u32 = 2 * ROW_ALIGNMENT as u32;

/// cuBLASLt's handle, and what it chose for each kind of product.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    plans: RefCell<HashMap<Key, Plan>>,
}

/// What a plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    layout: Layout,
    shape: [usize; 3],
    strides: [usize; 4], // a, b, c, d
    adds: bool,
    bias: bool,
}

struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    c: sys::cublasLtMatrixLayout_t,
    d: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Cuda {
    /// Multiplies.
    pub(super) fn multiply(&self, operation: &'static str, product: Product) {
        let Product { shape: [m, n, k], d, .. } = product;
        if m == 0 || n == 0 || k == 0 || self.failure.is_set() {
            assert!(k > 0 || m == 0 || n == 0, "a product of no terms");
            return;
        }
        debug_assert!(d.0 != 0);
        match &self.cublas_lt {
            Some(library) => {
                let stream = self.stream.cu_stream();
                let multiplied = self.context.bind_to_thread().map_err(super::failure::message).and_then(|()| {
                    library.multiply(product, self.workspace.get(), stream).map_err(|CublasError(status)| {
                        format!("cuBLASLt says {status:?} to a product of {m} by {n} by {k}")
                    })
                });
                if let Err(message) = multiplied {
                    self.failure.set(operation, message);
                }
                self.count_single();
                self.wait_if_asked(operation);
            }
            None => self.multiply_ourselves(product),
        }
    }

    fn multiply_ourselves(&self, product: Product) {
        let Product { layout, shape: [m, n, k], a, b, c, bias, d } = product;
        let (name, shared_bytes) = match layout {
            Layout::Tn => ("gemm_tn_bf16", 81_920),
            Layout::Nn => ("gemm_nn_bf16", 75_776),
            Layout::Nt => ("gemm_nt_f32", 69_632),
        };
        let added = c.unwrap_or((0, 0));
        self.kernel(&GEMM, name)
            .address(d.0)
            .int(d.1)
            .address(a.0)
            .int(a.1)
            .address(b.0)
            .int(b.1)
            .address(added.0)
            .int(added.1)
            .address(bias.unwrap_or(0))
            .int(m)
            .int(n)
            .int(k)
            .launch(Grid { blocks: [m.div_ceil(128) * n.div_ceil(128), 1, 1], threads: [256, 1, 1], shared_bytes });
    }
}

impl CublasLt {
    pub(super) fn new() -> Result<Self, CublasError> {
        let _no_recording = RECORDINGS.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Self { handle: result::create_handle()?, plans: RefCell::default() })
    }

    fn multiply(&self, product: Product, workspace: u64, stream: CUstream) -> Result<(), CublasError> {
        let Product { layout, shape, a, b, c, bias, d } = product;
        // Where nothing is added C is not read, but has to be a matrix like D.
        let (adds, c) = (c.is_some(), c.unwrap_or(d));
        let strides = [a.1, b.1, c.1, d.1];
        let key = Key { layout, shape, strides, adds, bias: bias.is_some() };
        let mut plans = self.plans.borrow_mut();
        let plan = match plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(plan) => plan.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => place.insert(self.plan(key, bias)?),
        };
        let (alpha, beta) = (1.0f32, if adds { 1.0f32 } else { 0.0 });
        // SAFETY: handle, description and layouts live as long as this; the matrices are as long as the caller's buffers; the
        // workspace has `WORKSPACE_BYTES`, and is used by one product at a time, as all are on one stream.
        unsafe {
            if let Some(bias) = bias {
                use sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
                set(plan.description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
            }
            // Column-major, as the library wants it, the product is D^T = B^T A^T.
            result::matmul(
                self.handle,
                plan.description,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                b.0 as *const c_void,
                plan.b,
                a.0 as *const c_void,
                plan.a,
                c.0 as *const c_void,
                plan.c,
                d.0 as *mut c_void,
                plan.d,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cast(),
            )
        }
    }

    /// Describes a kind of product and lets the library choose.
    fn plan(&self, key: Key, bias: Option<u64>) -> Result<Plan, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let Key { layout, shape: [m, n, k], strides, .. } = key;
        let bf16 = sys::cudaDataType_t::CUDA_R_16BF;
        let of_result = if layout == Layout::Nt { sys::cudaDataType_t::CUDA_R_32F } else { bf16 };
        let layout_of = |kind, rows: usize, columns: usize, stride: usize| {
            // A row-major matrix is the column-major transposed one.
            result::create_matrix_layout(kind, columns as u64, rows as u64, stride as i64)
        };
        let a_shape = if layout == Layout::Nt { (k, m) } else { (m, k) };
        let b_shape = if layout == Layout::Tn { (n, k) } else { (k, n) };
        let description =
            result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F)?;
        let plan = Plan {
            description,
            a: layout_of(bf16, a_shape.0, a_shape.1, strides[0])?,
            b: layout_of(bf16, b_shape.0, b_shape.1, strides[1])?,
            c: layout_of(of_result, m, n, strides[2])?,
            d: layout_of(of_result, m, n, strides[3])?,
            // SAFETY: plain numbers, which the choice below overwrites.
            algorithm: unsafe { std::mem::zeroed() },
        };
        let preference = result::create_matmul_pref()?;
        // SAFETY: what was created above is alive.
        let algorithm = unsafe {
            // `cublasOperation_t`, which the bindings lack: 0 as it is, 1 transposed.
            set(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(layout == Layout::Tn))?;
            set(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(layout == Layout::Nt))?;
            if let Some(bias) = bias {
                let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as i32;
                set(description, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
                set(description, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
            }
            result::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                std::ptr::from_ref(&WORKSPACE_BYTES).cast(),
                size_of::<usize>(),
            )?;
            use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
            // The parts of a sum that is split are put together in f32, never in the result's bf16: rounded once more, products
            // of 200 and 515 terms were off by 1.04 and 1.33 times what one rounding allows.
            let reductions = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            let scheme = Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
            let in_f32 = std::ptr::from_ref(&reductions).cast();
            result::set_matmul_pref_attribute(preference, scheme, in_f32, size_of::<u32>())?;
            for matrix in [
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ] {
                let alignment = std::ptr::from_ref(&MATRIX_ALIGNMENT).cast();
                result::set_matmul_pref_attribute(preference, matrix, alignment, size_of::<u32>())?;
            }
            let chosen =
                result::get_matmul_algo_heuristic(self.handle, description, plan.b, plan.a, plan.c, plan.d, preference);
            result::destroy_matmul_pref(preference)?;
            chosen?.algo
        };
        Ok(Plan { algorithm, ..plan })
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        let _no_recording = RECORDINGS.write().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: created by this, and not used again. Errors are of a device that is lost.
        unsafe {
            for (_, plan) in self.plans.borrow_mut().drain() {
                let _ = result::destroy_matmul_desc(plan.description);
                for layout in [plan.a, plan.b, plan.c, plan.d] {
                    let _ = result::destroy_matrix_layout(layout);
                }
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}

/// Sets an attribute of a product.
///
/// # Safety
/// `value` has the attribute's type.
unsafe fn set<T>(
    description: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<(), CublasError> {
    // SAFETY: the caller's.
    unsafe {
        result::set_matmul_desc_attribute(description, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
    }
}
