// The sum of a tensor's squares, added to a device scalar in f64; the order of additions is fixed.
#include "common.cuh"

// A pack's squares add up in f32, the packs in f64: the error stays that of a few f32 roundings.
template <class T, int N> __device__ void squares(const T *x, double *parts, long long count) {
  using P = Pack<T, N>;
  double sum = 0.0;
  for (long long i = global_index(); i < count / N; i += global_stride()) {
    P pack = ((const P *)x)[i];
    float few = 0.0f;
    for (int n = 0; n < N; n++) few += to_float(pack.at[n]) * to_float(pack.at[n]);
    sum += few;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

#define SQUARES(T, suffix)                                                         \
  KERNEL(256, squares_##suffix, const T *x, double *parts, long long count) {      \
    if (packs(count, x)) squares<T, WIDE<T>>(x, parts, count);                     \
    else squares<T, 1>(x, parts, count);                                           \
  }

SQUARES(float, f32)
SQUARES(bf16, bf16)

KERNEL(256, add_up, const double *parts, double *total, int count) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total += sum;
}
