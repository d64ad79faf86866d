// What every kernel file starts from: number formats, reductions, and KERNEL, which declares an entry point.
#pragma once

#ifdef EMULATED
#include "emulator.hpp"
#else
#include <cuda_bf16.h>
#include <stdint.h>

// An entry point for at most `threads` threads a block; its arguments are those of a launch::Launch (the Rust side). The 1
// lets a block have all registers: by itself the compiler aims at two blocks of 1024 on some chips and spills.
#define KERNEL(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads, 1) name(__VA_ARGS__)
// `type *name`: the dynamic shared memory that the launch asked for.
#define DYNAMIC_SHARED(type, name)                    \
  extern __shared__ __align__(16) char name##_bytes[]; \
  type *name = reinterpret_cast<type *>(name##_bytes)
#endif

using bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
template <class T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }

// 64 bits: an activation can have more than 2^31 values.
__device__ inline long long global_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
// From one of a thread's items to its next, where the grid goes over them in several turns.
__device__ inline long long global_stride() { return (long long)gridDim.x * blockDim.x; }

// N values that are read or written in one access.
template <class T, int N> struct alignas(sizeof(T) * N) Pack { T at[N]; };
// As many as 16 bytes hold, the widest access there is.
template <class T> constexpr int WIDE = 16 / sizeof(T);

// Whether `count` values from each of these addresses on (0 where there is none) are a whole number of such packs.
template <class T> __device__ inline bool packs(long long count, const T *a, const T *b = 0, const T *c = 0, const T *d = 0, const T *e = 0) {
  unsigned long long ends = (unsigned long long)a | (unsigned long long)b | (unsigned long long)c | (unsigned long long)d | (unsigned long long)e;
  return count % WIDE<T> == 0 && ends % 16 == 0;
}

template <class T> __device__ inline T warp_sum(T x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

__device__ inline float warp_max(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// The sum over a block of a whole number of warps, in a fixed order; every thread gets it.
template <class T> __device__ inline T block_sum(T x) {
  __shared__ T of_warp[32];
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : T(0));
  // of_warp is free for the next call only when all have read it.
  __syncthreads();
  return sum;
}

// The largest value of a block, as block_sum.
__device__ inline float block_max(float x) {
  __shared__ float of_warp[32];
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  float largest = warp_max(threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : -INFINITY);
  __syncthreads();
  return largest;
}
