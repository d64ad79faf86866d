// Bias and rotation of queries and keys: the pairs (x_i, x_{i + d/2}) of every head turn by a row's angles, in f32.
#include "common.cuh"

template <class T>
__device__ void rotate(const T *x, const T *bias, const float *cosines, const float *sines, T *y, long long rows, int heads,
                       int half, float sign) {
  long long count = rows * heads * half;
  for (long long index = global_index(); index < count; index += global_stride()) {
    int i = index % half;
    long long head = index / half, row = head / heads;
    long long low = head * 2 * half + i, high = low + half;
    float a = to_float(x[low]), b = to_float(x[high]);
    if (bias) {
      int column = (int)(head % heads) * 2 * half + i;
      a += to_float(bias[column]);
      b += to_float(bias[column + half]);
    }
    float c = cosines[row * half + i], s = sign * sines[row * half + i];
    y[low] = from_float<T>(a * c - b * s);
    y[high] = from_float<T>(b * c + a * s);
  }
}

// Row 0 of the grid turns the queries, row 1, if there is one, the keys.
#define ROTARY(T, suffix)                                                                                             \
  KERNEL(256, rotary_##suffix, const T *q, const T *q_bias, T *q_out, int q_heads, const T *k, const T *k_bias, T *k_out, \
         int k_heads, const float *cosines, const float *sines, long long rows, int half, float sign) {               \
    if (blockIdx.y == 0) rotate(q, q_bias, cosines, sines, q_out, rows, q_heads, half, sign);                         \
    else rotate(k, k_bias, cosines, sines, k_out, rows, k_heads, half, sign);                                         \
  }

ROTARY(float, f32)
ROTARY(bf16, bf16)
