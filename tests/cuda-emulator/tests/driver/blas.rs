//! cuBLASLt: types, layouts, epilogues, batches; against the same product here.

use cudarc::cublaslt::{Activation, CudaBlasLT, Matmul, MatmulConfig, result, sys};
use half::{bf16, f16};

use crate::common::*;

fn bits_of(x: f32, element: sys::cudaDataType) -> u32 {
    match element {
        sys::cudaDataType::CUDA_R_16BF => u32::from(bf16::from_f32(x).to_bits()),
        sys::cudaDataType::CUDA_R_16F => u32::from(f16::from_f32(x).to_bits()),
        _ => x.to_bits(),
    }
}

fn value_of(bits: u32, element: sys::cudaDataType) -> f32 {
    match element {
        sys::cudaDataType::CUDA_R_16BF => bf16::from_bits(bits as u16).to_f32(),
        sys::cudaDataType::CUDA_R_16F => f16::from_bits(bits as u16).to_f32(),
        _ => f32::from_bits(bits),
    }
}

/// A matrix on the device, column by column, with room between its columns.
struct Stored {
    buffer: Buffer<u8>,
    layout: sys::cublasLtMatrixLayout_t,
    values: Vec<f32>, // as rounded
    element: sys::cudaDataType,
    leading: usize,
}

impl Stored {
    fn new(gpu: &Gpu, rows: usize, columns: usize, element: sys::cudaDataType, seed: u64) -> Self {
        Self::of(gpu, rows, element, &random((rows + 3) * columns, seed))
    }

    /// Columns of `rows + 3` values, of which the last three belong to no matrix.
    fn of(gpu: &Gpu, rows: usize, element: sys::cudaDataType, values: &[f32]) -> Self {
        let leading = rows + 3;
        let columns = values.len() / leading;
        let bits: Vec<u32> = values.iter().map(|&x| bits_of(x, element)).collect();
        let bytes: Vec<u8> = if element == sys::cudaDataType::CUDA_R_32F {
            bits.iter().flat_map(|bits| bits.to_le_bytes()).collect()
        } else {
            bits.iter().flat_map(|bits| (*bits as u16).to_le_bytes()).collect()
        };
        let layout = result::create_matrix_layout(element, rows as u64, columns as u64, leading as i64).unwrap();
        let values = bits.into_iter().map(|bits| value_of(bits, element)).collect();
        Self { buffer: gpu.upload(&bytes), layout, values, element, leading }
    }

    fn at(&self, row: usize, column: usize) -> f32 {
        self.values[row + column * self.leading]
    }

    fn download(&self) -> Vec<f32> {
        let bytes = self.buffer.download();
        if self.element == sys::cudaDataType::CUDA_R_32F {
            bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        } else {
            let value = |b: &[u8]| value_of(u32::from(u16::from_le_bytes([b[0], b[1]])), self.element);
            bytes.chunks(2).map(value).collect()
        }
    }
}

struct Product {
    handle: sys::cublasLtHandle_t,
    descriptor: sys::cublasLtMatmulDesc_t,
    /// How the parts of a split sum may be put together.
    reductions: u32,
}

const IN_COMPUTE_TYPE: u32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
const ANY: u32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_MASK as u32;

impl Product {
    fn new() -> Self {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        Self {
            handle: result::create_handle().unwrap(),
            descriptor: result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F).unwrap(),
            reductions: IN_COMPUTE_TYPE,
        }
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: T) {
        // SAFETY: the attribute has the size of the value; the driver checks it.
        unsafe {
            result::set_matmul_desc_attribute(self.descriptor, attribute, (&raw const value).cast(), size_of::<T>())
                .unwrap();
        }
    }

    fn run(
        &self,
        gpu: &Gpu,
        alpha: f32,
        a: &Stored,
        b: &Stored,
        beta: f32,
        c: &Stored,
        d: &Stored,
    ) -> sys::cublasStatus_t {
        let preference = result::create_matmul_pref().unwrap();
        let workspace_bytes = 1usize << 20;
        let workspace = gpu.allocate::<u8>(workspace_bytes);
        let max_workspace = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: all descriptors are alive, and the buffers are as large as their layouts say.
        unsafe {
            result::set_matmul_pref_attribute(preference, max_workspace, (&raw const workspace_bytes).cast(), 8)
                .unwrap();
            let scheme = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
            result::set_matmul_pref_attribute(preference, scheme, (&raw const self.reductions).cast(), 4).unwrap();
            let (descriptor, handle) = (self.descriptor, self.handle);
            let found = result::get_matmul_algo_heuristic(
                handle, descriptor, a.layout, b.layout, c.layout, d.layout, preference,
            );
            let algorithm = match found {
                Ok(found) => found.algo,
                Err(error) => return error.0,
            };
            let matmul = result::matmul(
                handle,
                descriptor,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                a.buffer.address as *const _,
                a.layout,
                b.buffer.address as *const _,
                b.layout,
                c.buffer.address as *const _,
                c.layout,
                d.buffer.address as *mut _,
                d.layout,
                &raw const algorithm,
                workspace.address as *mut _,
                workspace_bytes,
                gpu.stream.cu_stream().cast(),
            );
            matmul.err().map_or(sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS, |error| error.0)
        }
    }
}

use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cudaDataType::{CUDA_R_16BF as BF16, CUDA_R_16F as F16, CUDA_R_32F as F32};

#[test]
fn all_layouts_and_types() {
    let gpu = Gpu::new();
    let (m, n, k) = (37, 50, 300);
    for (inputs, output, tolerance) in [(F32, F32, 1e-5), (BF16, BF16, 8e-3), (BF16, F32, 1e-5), (F16, F16, 1e-3)] {
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let stored = |rows: usize, columns: usize, transposed: bool, element, seed| {
                let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
                Stored::new(&gpu, rows, columns, element, seed)
            };
            let (a, b) = (stored(m, k, transpose_a, inputs, 1), stored(k, n, transpose_b, inputs, 2));
            let (c, d) = (stored(m, n, false, output, 3), stored(m, n, false, output, 4));
            let product = Product::new();
            product.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, i32::from(transpose_a));
            product.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, i32::from(transpose_b));
            let status = product.run(&gpu, 0.5, &a, &b, 2.0, &c, &d);
            assert_eq!(status, sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
            gpu.synchronize().unwrap();

            let result = d.download();
            for column in 0..n {
                for row in 0..d.leading {
                    let actual = result[row + column * d.leading];
                    if row >= m {
                        assert_eq!(actual, d.at(row, column), "what lies between columns is left alone");
                        continue;
                    }
                    let a_at = |l| if transpose_a { a.at(l, row) } else { a.at(row, l) };
                    let b_at = |l| if transpose_b { b.at(column, l) } else { b.at(l, column) };
                    let expected = 0.5 * (0..k).map(|l| a_at(l) * b_at(l)).sum::<f32>() + 2.0 * c.at(row, column);
                    let close = (actual - expected).abs() <= tolerance * (1.0 + expected.abs());
                    assert!(
                        close,
                        "{inputs:?} {transpose_a} {transpose_b} [{row}, {column}]: {actual}, expected {expected}"
                    );
                }
            }
        }
    }
}

/// cuBLASLt may split a sum, and put its parts together in the result's type: a caller who has not ruled that out has to
/// expect it, and so it is done wherever it may be.
#[test]
fn the_parts_of_a_sum_are_rounded_where_that_is_allowed() {
    let gpu = Gpu::new();
    // 129 + 128 is 257, which bf16 has as 256; the other half of the terms takes 256 away.
    let a = Stored::of(
        &gpu,
        1,
        BF16,
        &[[129.0, 0.0, 0.0, 0.0], [128.0, 0.0, 0.0, 0.0], [-256.0, 0.0, 0.0, 0.0], [0.0; 4]].concat(),
    );
    let b = Stored::of(&gpu, 4, BF16, &[1.0; 7]);
    for (reductions, expected) in [(IN_COMPUTE_TYPE, 1.0), (ANY, 0.0)] {
        let d = Stored::new(&gpu, 1, 1, BF16, 3);
        let product = Product { reductions, ..Product::new() };
        assert_eq!(product.run(&gpu, 1.0, &a, &b, 0.0, &d, &d), sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        gpu.synchronize().unwrap();
        assert_eq!(d.download()[0], expected);
    }
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh())
}

#[test]
fn epilogues() {
    use sys::cublasLtEpilogue_t as Epilogue;
    let gpu = Gpu::new();
    let (m, n, k) = (20, 10, 33);
    let (a, b) = (Stored::new(&gpu, m, k, BF16, 1), Stored::new(&gpu, k, n, BF16, 2));
    let bias = Stored::new(&gpu, m, 1, F32, 5);
    for (epilogue, has_bias, activation) in [
        (Epilogue::CUBLASLT_EPILOGUE_BIAS, true, (|x| x) as fn(f32) -> f32),
        (Epilogue::CUBLASLT_EPILOGUE_GELU, false, gelu),
        (Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS, true, gelu),
        (Epilogue::CUBLASLT_EPILOGUE_RELU_BIAS, true, |x| x.max(0.0)),
        (Epilogue::CUBLASLT_EPILOGUE_GELU_AUX_BIAS, true, gelu),
    ] {
        let (d, aux) = (Stored::new(&gpu, m, n, F32, 3), Stored::new(&gpu, m, n, F32, 4));
        let product = Product::new();
        product.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
        if has_bias {
            product.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.buffer.address);
            product.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, F32);
        }
        let has_aux = epilogue == Epilogue::CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
        if has_aux {
            product.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux.buffer.address);
            product.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, aux.leading as i64);
        }
        let status = product.run(&gpu, 1.0, &a, &b, 0.0, &d, &d);
        assert_eq!(status, sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        gpu.synchronize().unwrap();
        let (result, before) = (d.download(), aux.download());
        for column in 0..n {
            for row in 0..m {
                let sum: f32 = (0..k).map(|l| a.at(row, l) * b.at(l, column)).sum();
                let sum = sum + if has_bias { bias.at(row, 0) } else { 0.0 };
                assert_close(&[result[row + column * d.leading]], &[activation(sum)], 1e-5);
                if has_aux {
                    assert_close(&[before[row + column * d.leading]], &[sum], 1e-5);
                }
            }
        }
    }
}

/// Row-major C = A B is column-major C' = B' A'; four of them in one call, through cudarc's safe interface.
#[test]
fn batches_through_cudarc() {
    let gpu = Gpu::new();
    let (m, n, k, batches) = (8, 12, 16, 4);
    let (a, b) = (random(batches * m * k, 1), random(batches * k * n, 2));
    let blas = CudaBlasLT::new(gpu.stream.clone()).unwrap();
    let (a_device, b_device) = (gpu.stream.clone_htod(&a).unwrap(), gpu.stream.clone_htod(&b).unwrap());
    let bias = gpu.stream.clone_htod(&vec![1.0f32; n]).unwrap();
    let mut c = gpu.stream.alloc_zeros::<f32>(batches * m * n).unwrap();
    let config = MatmulConfig {
        transa: false,
        transb: false,
        transc: false,
        m: n as u64,
        n: m as u64,
        k: k as u64,
        alpha: 1.0,
        lda: n as i64,
        ldb: k as i64,
        beta: 0.0,
        ldc: n as i64,
        stride_a: Some((k * n) as i64),
        stride_b: Some((m * k) as i64),
        stride_c: Some((m * n) as i64),
        stride_bias: None,
        batch_size: Some(batches as i32),
    };
    // SAFETY: the buffers are as large as the configuration says.
    unsafe { blas.matmul(config, &b_device, &a_device, &mut c, Some(&bias), Some(&Activation::Relu)) }.unwrap();
    let result = gpu.stream.clone_dtoh(&c).unwrap();
    for batch in 0..batches {
        for row in 0..m {
            for column in 0..n {
                let term = |l| a[batch * m * k + row * k + l] * b[batch * k * n + l * n + column];
                let expected = ((0..k).map(term).sum::<f32>() + 1.0).max(0.0);
                assert_close(&[result[batch * m * n + row * n + column]], &[expected], 1e-5);
            }
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let gpu = Gpu::new();
    let (a, b, d) =
        (Stored::new(&gpu, 8, 9, F32, 1), Stored::new(&gpu, 10, 8, F32, 2), Stored::new(&gpu, 8, 8, F32, 3));
    let status = Product::new().run(&gpu, 1.0, &a, &b, 0.0, &d, &d);
    assert_eq!(status, sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE);
    // Pointers have the alignment that the heuristic was told: 256 bytes where it was told nothing.
    let mut a = Stored::new(&gpu, 8, 10, F32, 1);
    a.buffer.address += 4;
    let status = Product::new().run(&gpu, 1.0, &a, &b, 0.0, &d, &d);
    assert_eq!(status, sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
}

#[test]
fn operands_are_checked_like_memory() {
    in_process("blas::operands_are_checked_like_memory", &[], || {
        let gpu = Gpu::new();
        let (a, b, d) =
            (Stored::new(&gpu, 8, 9, F32, 1), Stored::new(&gpu, 9, 8, F32, 2), Stored::new(&gpu, 8, 7, F32, 3));
        let wide = Stored::new(&gpu, 8, 8, F32, 3);
        let too_small = Stored { layout: wide.layout, ..d };
        let status = Product::new().run(&gpu, 1.0, &a, &b, 0.0, &too_small, &too_small);
        assert_eq!(status, sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS, "as of each launch, the error comes later");
        let error = gpu.synchronize().unwrap_err();
        assert!(
            message(&error).contains("matrix product: the result D: 340 bytes at byte 0 of allocation #"),
            "{error:?}"
        );
    });
}

#[test]
fn operands_have_values() {
    in_process("blas::operands_have_values", &[("CUDA_EMULATOR_CHECK", "initialised")], || {
        let gpu = Gpu::new();
        let (a, mut b, d) =
            (Stored::new(&gpu, 8, 9, F32, 1), Stored::new(&gpu, 9, 8, F32, 2), Stored::new(&gpu, 8, 8, F32, 3));
        b.buffer = gpu.allocate(b.buffer.len);
        Product::new().run(&gpu, 1.0, &a, &b, 0.0, &d, &d);
        let error = gpu.synchronize().unwrap_err();
        assert!(message(&error).contains("operand B has no value at byte 0 of allocation #"), "{error:?}");
    });
}
