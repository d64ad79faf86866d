// Kernels without barriers need no threads of their own: here a thread is a turn of a loop.
#pragma once
namespace flat {
inline thread_local uint3 thread, block;
inline thread_local dim3 grid_size, block_size;

template <class Body> void run(dim3 grid, dim3 size, const Body &body) {
  grid_size = grid;
  block_size = size;
  for (block.z = 0; block.z < grid.z; block.z++)
    for (block.y = 0; block.y < grid.y; block.y++)
      for (block.x = 0; block.x < grid.x; block.x++)
        for (thread.z = 0; thread.z < size.z; thread.z++)
          for (thread.y = 0; thread.y < size.y; thread.y++)
            for (thread.x = 0; thread.x < size.x; thread.x++) body();
}
}  // namespace flat
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#define threadIdx (flat::thread)
#define blockIdx (flat::block)
#define blockDim (flat::block_size)
#define gridDim (flat::grid_size)
