// Tensor-core products of bf16 tiles, accumulated in f32 (mma.sync m16n8k16: compute capability 8.0 and later), and
// loading tiles into shared memory. Source of the fragments' layout: PTX ISA, "Matrix Fragments for mma.m16n8k16".
//
// A tile in shared memory has rows of `stride` values, a multiple of 8 so that every row is aligned to 16 bytes, with
// stride / 2 = 4 (mod 8) so that eight rows lie in different banks. All lanes of a warp call these functions together.
#pragma once
#include "common.cuh"

struct A { unsigned x[4]; };  // 16 x 16: rows lane / 4 and 8 more, columns 2 * (lane % 4) and 8 more
struct B { unsigned x[2]; };  // 16 x 8: column lane / 4, rows 2 * (lane % 4) and 8 more
struct C { float x[4]; };     // 16 x 8: rows lane / 4 and 8 more, columns 2 * (lane % 4) and the next

// Columns 0 and 1 of a C's row lane / 4 are x[0] and x[1], those of the row 8 below x[2] and x[3].
__device__ inline int c_row(int i) { return threadIdx.x % 32 / 4 + i / 2 * 8; }
__device__ inline int c_column(int i) { return threadIdx.x % 4 * 2 + i % 2; }

__device__ inline unsigned pair(const bf16 *two) { return *reinterpret_cast<const unsigned *>(two); }

// Two values as bf16, the first in the low half.
__device__ inline unsigned pack(float low, float high) {
#ifdef EMULATED
  bf16 two[2] = {from_float<bf16>(low), from_float<bf16>(high)};
  unsigned packed;
  memcpy(&packed, two, sizeof packed);
  return packed;
#else
  unsigned packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#endif
}

// Rows of A are rows of the tile.
__device__ inline A load_a(const bf16 *tile, int stride) {
  const bf16 *at = tile + threadIdx.x % 32 / 4 * stride + threadIdx.x % 4 * 2;
  return {pair(at), pair(at + 8 * stride), pair(at + 8), pair(at + 8 * stride + 8)};
}

// Columns of B are rows of the tile.
__device__ inline B load_b(const bf16 *tile, int stride) {
  const bf16 *at = tile + threadIdx.x % 32 / 4 * stride + threadIdx.x % 4 * 2;
  return {pair(at), pair(at + 8)};
}

// Rows of B are rows of the tile: the B of its columns 0 to 7 and that of 8 to 15.
__device__ inline void load_b_rows(B &left, B &right, const bf16 *tile, int stride) {
  int lane = threadIdx.x % 32;
  // Each lane names one row of the four 8 x 8 matrices, in the order in which they are returned.
  const bf16 *row = tile + lane % 16 * stride + lane / 16 * 8;
#ifdef EMULATED
  emulator::Registers loaded = emulator::ldmatrix_x4_trans(*reinterpret_cast<const emulator::MatrixRow *>(row));
  left = {loaded.x[0], loaded.x[1]};
  right = {loaded.x[2], loaded.x[3]};
#else
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(left.x[0]), "=r"(left.x[1]), "=r"(right.x[0]), "=r"(right.x[1])
               : "r"(address)
               : "memory");
#endif
}

// Two accumulators side by side, rounded to bf16.
__device__ inline A as_a(const C &left, const C &right) {
  return {pack(left.x[0], left.x[1]), pack(left.x[2], left.x[3]), pack(right.x[0], right.x[1]),
          pack(right.x[2], right.x[3])};
}

// c += a b
__device__ inline void multiply_add(C &c, const A &a, const B &b) {
#ifdef EMULATED
  emulator::mma_m16n8k16(c.x, a.x, b.x);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c.x[0]), "+f"(c.x[1]), "+f"(c.x[2]), "+f"(c.x[3])
      : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
#endif
}

constexpr float LOG2E = 1.4426950408889634f;  // exp(x) = exp2(x * LOG2E): the exponential that the hardware has

// Reductions over the four lanes that share a row.
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

struct alignas(16) Eight { unsigned x[4]; };  // eight bf16

// ROWS rows of `dim` values at row_of(i), null where there is none, into a tile of `stride` columns, of which the first
// `padded` are written (0 where there is nothing to copy). `thread` of `threads` does its part.
template <int ROWS, class RowOf>
__device__ inline void load_tile(bf16 *tile, int stride, int padded, int dim, int thread, int threads, RowOf row_of) {
  int per_row = padded / 8;
  for (int index = thread; index < ROWS * per_row; index += threads) {
    int row = index / per_row, column = index % per_row * 8;
    const bf16 *from = row_of(row);
    Eight eight = {{0, 0, 0, 0}};
    if (from != nullptr && dim % 8 == 0 && column < dim) {
      eight = *reinterpret_cast<const Eight *>(from + column);
    } else if (from != nullptr) {
      for (int i = 0; i < 4; i++) {
        int at = column + 2 * i;
        eight.x[i] = pack(at < dim ? to_float(from[at]) : 0.0f, at + 1 < dim ? to_float(from[at + 1]) : 0.0f);
      }
    }
    *reinterpret_cast<Eight *>(tile + row * stride + column) = eight;
  }
}

// As above, in f32; `stride` is odd, so that rows lie in different banks.
template <int ROWS, class RowOf>
__device__ inline void load_tile(float *tile, int stride, int padded, int dim, int thread, int threads, RowOf row_of) {
  for (int index = thread; index < ROWS * padded; index += threads) {
    int row = index / padded, column = index % padded;
    const float *from = row_of(row);
    tile[row * stride + column] = from != nullptr && column < dim ? from[column] : 0.0f;
  }
}
