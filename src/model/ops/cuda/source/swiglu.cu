// silu(gate) * up and its gradients; nothing is rounded in between, so bf16 results are one rounding from exact.
#include "common.cuh"

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T, int N> __device__ void forward(const T *gate, const T *up, T *output, long long count) {
  using P = Pack<T, N>;
  for (long long i = global_index(); i < count / N; i += global_stride()) {
    P g = ((const P *)gate)[i], u = ((const P *)up)[i], y;
    for (int n = 0; n < N; n++) {
      float x = to_float(g.at[n]);
      y.at[n] = from_float<T>(x * sigmoid(x) * to_float(u.at[n]));
    }
    ((P *)output)[i] = y;
  }
}

template <class T, int N>
__device__ void backward(const T *gate, const T *up, const T *grad_output, T *d_gate, T *d_up, long long count) {
  using P = Pack<T, N>;
  for (long long i = global_index(); i < count / N; i += global_stride()) {
    P g = ((const P *)gate)[i], u = ((const P *)up)[i], above = ((const P *)grad_output)[i], dg, du;
    for (int n = 0; n < N; n++) {
      float x = to_float(g.at[n]), slope = sigmoid(x), silu = x * slope, d = to_float(above.at[n]);
      du.at[n] = from_float<T>(d * silu);
      dg.at[n] = from_float<T>(d * to_float(u.at[n]) * (slope + silu * (1.0f - slope)));
    }
    ((P *)d_gate)[i] = dg;
    ((P *)d_up)[i] = du;
  }
}

#define SWIGLU(T, suffix)                                                                                       \
  KERNEL(256, swiglu_##suffix, const T *gate, const T *up, T *output, long long count) {                        \
    if (packs(count, gate, up, output)) forward<T, WIDE<T>>(gate, up, output, count);                           \
    else forward<T, 1>(gate, up, output, count);                                                                \
  }                                                                                                             \
  KERNEL(256, swiglu_backward_##suffix, const T *gate, const T *up, const T *grad_output, T *d_gate, T *d_up,   \
         long long count) {                                                                                     \
    if (packs(count, gate, up, grad_output, d_gate, d_up))                                                      \
      backward<T, WIDE<T>>(gate, up, grad_output, d_gate, d_up, count);                                         \
    else backward<T, 1>(gate, up, grad_output, d_gate, d_up, count);                                            \
  }

SWIGLU(float, f32)
SWIGLU(bf16, bf16)
