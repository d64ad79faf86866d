//! Matrix products that keep the f32 of their sums.

use candle_core::{DType, Result, Tensor, bail};

/// `x [N, K] · weightᵀ [K, V]` → `[N, V]` in f32; both operands in f32 or both in bf16.
///
/// A stock product of bf16 rounds its sums, which are f32 anyway, to bf16.
///
/// # Errors
/// Shapes or formats that do not fit.
pub fn in_f32(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((_, inner), (width, of_weight)) = (x.dims2()?, weight.dims2()?);
    if inner != of_weight || x.dtype() != weight.dtype() {
        bail!("product: {x:?} with {weight:?}");
    }
    if x.dtype() == DType::F32 {
        return x.matmul(&weight.t()?);
    }
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = x.device() {
        return cuda::in_f32(device, &x.contiguous()?, &weight.contiguous()?);
    }
    let x = x.to_dtype(DType::F32)?;
    let parts = (0..width).step_by(PART).map(|start| {
        let part = weight.narrow(0, start, PART.min(width - start))?;
        x.matmul(&part.to_dtype(DType::F32)?.t()?)
    });
    let parts = parts.collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, 1)?.contiguous()
}

/// Rows of a weight in bf16 that a CPU has in f32 at a time: all of them would be as much as a small model.
const PART: usize = 4096;

#[cfg(feature = "cuda")]
mod cuda {
    use crate::kernels::launch::{device_address, unwritten};
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn sums_of_bf16_are_not_rounded() -> Result<()> {
        let device = Device::Cpu;
        // 16 + 1/64: between two values of bf16, which are 1/8 apart there.
        let x = Tensor::new(&[[4f32, 0.125]], &device)?.to_dtype(DType::BF16)?;
        let weight = Tensor::new(&[[4f32, 0.125], [1.0, 0.0]], &device)?.to_dtype(DType::BF16)?;
        let product = in_f32(&x, &weight)?;
        assert_eq!(product.to_vec2::<f32>()?, [[16.015_625, 4.0]]);
        let wide = in_f32(&x.to_dtype(DType::F32)?, &weight.to_dtype(DType::F32)?)?;
        assert_eq!(product.to_vec2::<f32>()?, wide.to_vec2::<f32>()?);
        assert!(in_f32(&x, &weight.to_dtype(DType::F32)?).is_err());
        Ok(())
    }

    #[test]
    fn parts_of_a_weight_lie_side_by_side() -> Result<()> {
        let (device, rows) = (Device::Cpu, PART + 5);
        let weight = Tensor::arange(0u32, rows as u32 * 2, &device)?.to_dtype(DType::BF16)?;
        let weight = weight.reshape((rows, 2))?;
        let x = Tensor::new(&[[1f32, 0.0], [0.0, -1.0]], &device)?.to_dtype(DType::BF16)?;
        let product = in_f32(&x, &weight)?;
        assert!(product.is_contiguous());
        let columns = weight.to_dtype(DType::F32)?.t()?.to_vec2::<f32>()?;
        let product = product.to_vec2::<f32>()?;
        assert!(product[0] == columns[0]);
        let negative: Vec<f32> = columns[1].iter().map(|x| -x).collect();
        assert!(product[1] == negative);
        Ok(())
    }
}
