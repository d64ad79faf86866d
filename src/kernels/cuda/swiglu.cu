// silu(gate) * up and its gradients; as `silu` rounds nothing in between, bf16 results are one rounding from exact.
#include "common.cuh"

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T> __device__ void forward(const T *gate, const T *up, T *output, long long count) {
  long long i = global_index();
  if (i >= count) return;
  float x = to_float(gate[i]);
  output[i] = from_float<T>(x * sigmoid(x) * to_float(up[i]));
}

template <class T>
__device__ void backward(const T *gate, const T *up, const T *upstream, T *d_gate, T *d_up, long long count) {
  long long i = global_index();
  if (i >= count) return;
  float x = to_float(gate[i]), slope = sigmoid(x), silu = x * slope, above = to_float(upstream[i]);
  d_up[i] = from_float<T>(above * silu);
  d_gate[i] = from_float<T>(above * to_float(up[i]) * (slope + silu * (1.0f - slope)));
}

KERNEL(256, swiglu_f32, const float *gate, const float *up, float *output, long long count) {
  forward(gate, up, output, count);
}
KERNEL(256, swiglu_bf16, const bf16 *gate, const bf16 *up, bf16 *output, long long count) {
  forward(gate, up, output, count);
}
KERNEL(256, swiglu_backward_f32, const float *gate, const float *up, const float *upstream, float *d_gate, float *d_up,
       long long count) {
  backward(gate, up, upstream, d_gate, d_up, count);
}
KERNEL(256, swiglu_backward_bf16, const bf16 *gate, const bf16 *up, const bf16 *upstream, bf16 *d_gate, bf16 *d_up,
       long long count) {
  backward(gate, up, upstream, d_gate, d_up, count);
}
