//! Matrix products that keep the f32 of their sums.

use candle_core::{Result, Tensor, bail};

/// On a GPU `x [N, K] · weightᵀ [K, V]` → `[N, V]` in f32, both operands in bf16.
///
/// A stock product of bf16 rounds its sums, which are f32 anyway, to bf16.
///
/// # Errors
/// Shapes or formats that do not fit; a CPU.
pub(crate) fn in_f32(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((_, inner), (_, of_weight)) = (x.dims2()?, weight.dims2()?);
    if inner != of_weight || x.dtype() != weight.dtype() {
        bail!("product: {x:?} with {weight:?}");
    }
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = x.device() {
        return cuda::in_f32(device, &x.contiguous()?, &weight.contiguous()?);
    }
    bail!("product: {x:?} is not on a GPU")
}

#[cfg(feature = "cuda")]
mod cuda {
    use crate::model::ops::cuda::launch::{device_address, unwritten};
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::cublas::result::gemm_ex;
    use candle_core::cuda_backend::cudarc::cublas::sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
    use candle_core::cuda_backend::cudarc::cublas::sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP;
    use candle_core::cuda_backend::cudarc::cublas::sys::cublasOperation_t::{
        CUBLAS_OP_N, CUBLAS_OP_T,
    };
    use candle_core::cuda_backend::cudarc::cublas::sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_32F};
    use candle_core::{CudaDevice, DType, Result, Tensor, bail};

    /// As [`super::in_f32`], of contiguous operands in bf16.
    pub(super) fn in_f32(device: &CudaDevice, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let ((rows, inner), (columns, _)) = (x.dims2()?, weight.dims2()?);
        if x.dtype() != DType::BF16 {
            bail!("product: no variant for {:?}", x.dtype());
        }
        let product = unwritten((rows, columns), DType::F32, x.device())?;
        if product.elem_count() == 0 {
            return Ok(product);
        }
        let [x, weight, to] = [x, weight, &product].map(|tensor| device_address(tensor, device));
        let (x, weight, to) = (x?, weight?, to?);
        let [m, n, k] = [columns, rows, inner].map(i32::try_from);
        let (Ok(m), Ok(n), Ok(k)) = (m, n, k) else {
            bail!("product: {rows} × {inner} × {columns} is too large");
        };
        let (one, zero) = (1f32, 0f32);
        #[expect(
            unsafe_code,
            reason = "cuBLAS takes addresses; sizes and strides are those of the three contiguous tensors"
        )]
        // Columns first, as cuBLAS counts: productᵀ [V, N] = weight · xᵀ.
        unsafe {
            gemm_ex(
                *device.cublas_handle().handle(),
                CUBLAS_OP_T,
                CUBLAS_OP_N,
                m,
                n,
                k,
                (&raw const one).cast(),
                weight as *const _,
                CUDA_R_16BF,
                k,
                x as *const _,
                CUDA_R_16BF,
                k,
                (&raw const zero).cast(),
                to as *mut _,
                CUDA_R_32F,
                m,
                CUBLAS_COMPUTE_32F,
                CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .w()?;
        Ok(product)
    }
}
