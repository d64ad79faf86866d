// What the tensor-core functions of mma.cuh do, beside the tables of tensor_core.hpp.
#include "mma.cuh"

// Which element of a 16 x 16 tile each lane gets as its i-th: row * 16 + column of the operand, [lane, element] each.
// `found` by mma.cuh's functions, `wanted` by the manual: A 8, B 4, C 4, and of two B by rows 8.
KERNEL(32, fragment_places, float *found, float *wanted) {
  constexpr int STRIDE = 24;
  __align__(16) __shared__ bf16 numbers[16 * STRIDE], turned[16 * STRIDE];
  int lane = threadIdx.x;
  for (int i = lane; i < 16 * 16; i += 32) {
    numbers[i / 16 * STRIDE + i % 16] = from_float<bf16>(i);
    turned[i % 16 * STRIDE + i / 16] = from_float<bf16>(i);
  }
  __syncthreads();
  A a = load_a(numbers, STRIDE);
  B b = load_b(turned, STRIDE), left, right;
  load_b_rows(left, right, numbers, STRIDE);
  float *to = found + lane * 24, *expected = wanted + lane * 24;
  auto put = [&](const unsigned *registers, int count) {
    for (int i = 0; i < count; i++) *to++ = __uint_as_float(i % 2 ? registers[i / 2] & 0xffff0000u : registers[i / 2] << 16);
  };
  put(a.x, 8);
  put(b.x, 4);
  for (int i = 0; i < 4; i++) *to++ = c_row(i) * 16 + c_column(i);
  put(left.x, 4);
  put(right.x, 4);
  for (int i = 0; i < 8; i++) *expected++ = emulator::MMA_A[lane][i];
  for (int i = 0; i < 4; i++) *expected++ = emulator::MMA_B[lane][i];
  for (int i = 0; i < 4; i++) *expected++ = emulator::MMA_C[lane][i];
  for (int i = 0; i < 4; i++) *expected++ = emulator::MMA_B[lane][i];
  // The second B has the tile's columns from 8 on.
  for (int i = 0; i < 4; i++) *expected++ = emulator::MMA_B[lane][i] + 8;
}

// product [16, 8] = a [16, 16] b [16, 8], c is 1 to begin with.
KERNEL(32, fragment_product, const bf16 *a, const bf16 *b, float *product) {
  constexpr int STRIDE = 24;
  __align__(16) __shared__ bf16 a_tile[16 * STRIDE], b_tile[8 * STRIDE];
  for (int i = threadIdx.x; i < 16 * 16; i += 32) a_tile[i / 16 * STRIDE + i % 16] = a[i];
  for (int i = threadIdx.x; i < 16 * 8; i += 32) b_tile[i % 8 * STRIDE + i / 8] = b[i];
  __syncthreads();
  C c = {{1.0f, 1.0f, 1.0f, 1.0f}};
  multiply_add(c, load_a(a_tile, STRIDE), load_b(b_tile, STRIDE));
  for (int i = 0; i < 4; i++) product[c_row(i) * 8 + c_column(i)] = c.x[i];
}
