//! Matrix products on slices of f32, in place, and the slices of tensors.

use candle_core::{CpuStorage, Result, Storage, Tensor};

/// A strided matrix inside a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    pub(super) fn new(values: &'a [f32], offset: usize, row_stride: usize) -> Self {
        Self {
            values: &values[offset..],
            row_stride,
            column_stride: 1,
        }
    }

    pub(super) fn transposed(self) -> Self {
        Self {
            values: self.values,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.values.len()
    }
}

/// A matrix to be written, row by row.
pub(super) struct Target<'a> {
    values: &'a mut [f32],
    row_stride: usize,
}

impl<'a> Target<'a> {
    pub(super) fn new(values: &'a mut [f32], offset: usize, row_stride: usize) -> Self {
        Self {
            values: &mut values[offset..],
            row_stride,
        }
    }
}

/// `target (+)= a · b` for sizes `[rows, columns, inner]`, none of them 0, on this thread.
pub(super) fn product(sizes: [usize; 3], a: Matrix, b: Matrix, target: &mut Target, add: bool) {
    multiply(sizes, a, b, target, add, gemm::Parallelism::None);
}

/// As [`product`], on as many threads as candle's own products.
pub(super) fn wide_product(
    sizes: [usize; 3],
    a: Matrix,
    b: Matrix,
    target: &mut Target,
    add: bool,
) {
    let threads = match candle_core::utils::get_num_threads() {
        0 | 1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    multiply(sizes, a, b, target, add, threads);
}

#[expect(unsafe_code, reason = "gemm takes pointers")]
fn multiply(
    [m, n, k]: [usize; 3],
    a: Matrix,
    b: Matrix,
    target: &mut Target,
    add: bool,
    threads: gemm::Parallelism,
) {
    assert!(
        a.holds(m, k) && b.holds(k, n) && (m - 1) * target.row_stride + n <= target.values.len(),
        "a matrix reaches beyond its slice"
    );
    // SAFETY: all indices up to the last row and column lie inside the slices, as just checked.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.values.as_mut_ptr(),
            1,
            target.row_stride as isize,
            add,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            threads,
        );
    }
}

/// Runs `compute` on the values of contiguous f32 tensors on the CPU.
pub(super) fn with_slices<T>(
    tensors: &[&Tensor],
    compute: impl FnOnce(&[&[f32]]) -> T,
) -> Result<T> {
    let guards: Vec<_> = tensors.iter().map(|t| t.storage_and_layout()).collect();
    let mut slices = Vec::with_capacity(guards.len());
    for (storage, layout) in &guards {
        let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
            (&**storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("expected contiguous f32 values on the CPU");
        };
        slices.push(&values[start..end]);
    }
    Ok(compute(&slices))
}
