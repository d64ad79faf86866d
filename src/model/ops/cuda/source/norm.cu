// RMSNorm, alone or of a sum, and its gradients. One block per row; f32 inside.
#include "common.cuh"

// y = x / sqrt(mean(x^2) + eps) * weight; with an addend, x is first replaced by x + addend, which goes to `sum` too.
template <class T, int N>
__device__ void forward(const T *x, const T *addend, const T *weight, T *sum, T *y, int width, float eps) {
  using P = Pack<T, N>;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < width / N; i += blockDim.x) {
    P a = ((const P *)x)[i];
    if (addend) {
      P b = ((const P *)addend)[i];
      for (int n = 0; n < N; n++) a.at[n] = from_float<T>(to_float(a.at[n]) + to_float(b.at[n]));
      ((P *)sum)[i] = a;
    }
    for (int n = 0; n < N; n++) squares += to_float(a.at[n]) * to_float(a.at[n]);
  }
  float inverse = 1.0f / sqrtf(block_sum(squares) / width + eps);
  // Each thread reads what it has itself written.
  const P *normed = (const P *)(addend ? sum : x);
  for (int i = threadIdx.x; i < width / N; i += blockDim.x) {
    P a = normed[i], w = ((const P *)weight)[i];
    for (int n = 0; n < N; n++) a.at[n] = from_float<T>(to_float(a.at[n]) * inverse * to_float(w.at[n]));
    ((P *)y)[i] = a;
  }
}

// Rows blockIdx.x, blockIdx.x + gridDim.x, ...: writes dx (+ the residual's gradient) and the block's part of dw.
template <class T, int N>
__device__ void backward(const T *x, const T *weight, const T *grad_output, const T *residual, T *dx, float *dw, float *dw_parts,
                         int rows, int width, float eps) {
  using P = Pack<T, N>;
  for (int i = threadIdx.x; i < width / N; i += blockDim.x)
    for (int n = 0; n < N; n++) dw[i * N + n] = 0.0f;
  for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
    const P *xs = (const P *)(x + row * width), *us = (const P *)(grad_output + row * width), *ws = (const P *)weight;
    float squares = 0.0f, along = 0.0f;
    for (int i = threadIdx.x; i < width / N; i += blockDim.x) {
      P a = xs[i], u = us[i], w = ws[i];
      for (int n = 0; n < N; n++) {
        float value = to_float(a.at[n]);
        squares += value * value;
        along += to_float(u.at[n]) * to_float(w.at[n]) * value;
      }
    }
    float inverse = 1.0f / sqrtf(block_sum(squares) / width + eps);
    float pull = block_sum(along) * inverse * inverse / width;
    for (int i = threadIdx.x; i < width / N; i += blockDim.x) {
      P a = xs[i], u = us[i], w = ws[i], d;
      P r = residual ? ((const P *)(residual + row * width))[i] : P();
      for (int n = 0; n < N; n++) {
        float value = to_float(a.at[n]), above = to_float(u.at[n]);
        float gradient = (above * to_float(w.at[n]) - value * pull) * inverse;
        d.at[n] = from_float<T>(residual ? gradient + to_float(r.at[n]) : gradient);
        dw[i * N + n] += above * value * inverse;
      }
      ((P *)(dx + row * width))[i] = d;
    }
  }
  for (int i = threadIdx.x; i < width / N; i += blockDim.x)
    for (int n = 0; n < N; n++) dw_parts[(long long)blockIdx.x * width + i * N + n] = dw[i * N + n];
}

// The sum over blocks, in their order.
template <class T> __device__ void add_parts(const float *parts, T *sum, int count, int width) {
  long long column = global_index();
  if (column >= width) return;
  float total = 0.0f;
  for (int part = 0; part < count; part++) total += parts[(long long)part * width + column];
  sum[column] = from_float<T>(total);
}

#define NORM(T, suffix)                                                                                              \
  KERNEL(256, rms_norm_##suffix, const T *x, const T *addend, const T *weight, T *sum, T *y, int width, float eps) { \
    long long row = (long long)blockIdx.x * width;                                                                   \
    const T *added = addend ? addend + row : 0;                                                                      \
    T *kept = sum ? sum + row : 0;                                                                                   \
    if (packs(width, x + row, added, weight, kept, y + row))                                                         \
      forward<T, WIDE<T>>(x + row, added, weight, kept, y + row, width, eps);                                        \
    else forward<T, 1>(x + row, added, weight, kept, y + row, width, eps);                                           \
  }                                                                                                                  \
  KERNEL(256, rms_norm_backward_##suffix, const T *x, const T *weight, const T *grad_output, const T *residual, T *dx, \
         float *dw_parts, int rows, int width, float eps) {                                                          \
    DYNAMIC_SHARED(float, dw);                                                                                       \
    if (packs(width, x, weight, grad_output, residual, dx))                                                          \
      backward<T, WIDE<T>>(x, weight, grad_output, residual, dx, dw, dw_parts, rows, width, eps);                    \
    else backward<T, 1>(x, weight, grad_output, residual, dx, dw, dw_parts, rows, width, eps);                       \
  }                                                                                                                  \
  KERNEL(256, rms_norm_weight_##suffix, const float *parts, T *dw, int count, int width) {                           \
    add_parts(parts, dw, count, width);                                                                              \
  }

NORM(float, f32)
NORM(bf16, bf16)
