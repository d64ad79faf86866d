// Kernels that do right or wrong as they are told: see faults.cpp.
#include "common.cuh"

KERNEL(256, fault_copy, const float *from, float *to, int count) {
  long long i = global_index();
  if (i < count) to[i] = from[i];
}

// One access of 16 bytes per thread, from the `offset`-th value on.
KERNEL(256, fault_copy_wide, const float *from, float *to, int offset) {
  using Four = Pack<float, 4>;
  reinterpret_cast<Four *>(to)[threadIdx.x] = reinterpret_cast<const Four *>(from + offset)[threadIdx.x];
}

// 40 KiB of shared memory beside the dynamic.
KERNEL(256, fault_shared, float *to, int given) {
  __shared__ float fixed[10240];
  DYNAMIC_SHARED(float, asked);
  for (int i = threadIdx.x; i < 10240; i += blockDim.x) fixed[i] = i;
  for (int i = threadIdx.x; i < given; i += blockDim.x) asked[i] = 1;
  __syncthreads();
  if (threadIdx.x == 0) to[0] = fixed[10239] + (given ? asked[given - 1] : 0);
}

// Every thread takes its right neighbour's value, before or after that is sure to be there.
KERNEL(256, fault_neighbour, const float *from, float *to, int waits) {
  __shared__ float shared[256];
  shared[threadIdx.x] = from[threadIdx.x];
  if (waits) __syncthreads();
  to[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}
