// Kernels with a fault where `wrong`, and written rightly otherwise: what the checks of accesses must tell apart.
#include "common.cuh"

#define FAULT(name) KERNEL(64, fault_##name, const float *in, float *out, int wrong)

// What thread 0 shares, other warps read: a warp's barrier is not enough.
FAULT(block_barrier) {
  __shared__ float shared[1];
  if (threadIdx.x == 0) shared[0] = in[0];
  if (wrong) __syncwarp();
  else __syncthreads();
  out[global_index()] = shared[0];
}

// Lanes read what their neighbour shares; a shuffle orders nothing.
FAULT(warp_barrier) {
  __shared__ float shared[64];
  shared[threadIdx.x] = in[threadIdx.x];
  if (wrong) __shfl_xor_sync(0xffffffffu, 0, 1);
  else __syncwarp();
  out[global_index()] = shared[threadIdx.x & ~1u];
}

// Shared memory is written anew before all have read it.
FAULT(barrier_after_reading) {
  __shared__ float shared[1];
  for (int turn = 0; turn < 2; turn++) {
    if (threadIdx.x == 33) shared[0] = in[turn];
    __syncthreads();
    out[global_index()] = shared[0];
    if (!wrong) __syncthreads();
  }
}

// Every block writes the same value to the same place: still no order.
FAULT(blocks) {
  if (threadIdx.x == 0) out[wrong ? 0 : blockIdx.x] = in[0];
}

// One block writes what another reads.
FAULT(block_reads_block) {
  if (threadIdx.x > 0) return;
  if (blockIdx.x == 0) out[0] = in[0];
  else if (wrong) out[1] = out[0];
}

// A plain read beside other blocks' atomics.
FAULT(beside_atomics) {
  int *count = reinterpret_cast<int *>(out);
  atomicAdd(count, 1);
  if (wrong && threadIdx.x == 63) count[1] = count[0];
}

// Atomics do not race, but which is last depends on the order of threads.
FAULT(order) {
  int *largest = reinterpret_cast<int *>(out), mine = threadIdx.x;
  if (wrong) atomicExch(largest, mine);
  else atomicMax(largest, mine);
}

FAULT(misaligned) {
  if (threadIdx.x > 0) return;
  Pack<float, 4> pack = *reinterpret_cast<const Pack<float, 4> *>(in + (wrong ? 1 : 4));
  out[blockIdx.x] = pack.at[0] + pack.at[3];
}

FAULT(read_beyond) { out[global_index()] = in[threadIdx.x + (wrong ? 1 : 0)]; }
FAULT(write_beyond) { out[global_index() + (wrong ? 1 : 0)] = in[0]; }
FAULT(write_before) { out[global_index() - (wrong ? 1 : 0)] = in[0]; }

FAULT(unwritten_shared) {
  __shared__ float shared[64];
  if (!wrong || threadIdx.x < 63) shared[threadIdx.x] = in[threadIdx.x];
  out[global_index()] = shared[threadIdx.x];
}

FAULT(beyond_dynamic) {
  DYNAMIC_SHARED(float, shared);
  if (threadIdx.x < 8) shared[threadIdx.x + (wrong ? 1 : 0)] = in[0];
}

FAULT(shuffle) {
  float x = in[threadIdx.x];
  if (!wrong || threadIdx.x % 32 < 16) x = __shfl_xor_sync(0xffffffffu, x, 1);
  out[global_index()] = x;
}

FAULT(mask) { out[global_index()] = __shfl_sync(wrong ? 0xffffu : 0xffffffffu, in[threadIdx.x], 0); }

FAULT(fence) {
  if (wrong) __threadfence();
  out[global_index()] = in[threadIdx.x];
}

FAULT(barrier) {
  if (!wrong || threadIdx.x != 5) __syncwarp();
  else __syncthreads();
  __syncthreads();
  out[global_index()] = in[threadIdx.x];
}
