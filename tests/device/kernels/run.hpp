// What stands before a file of kernels when it is compiled into a library of the device.
//
//   CANDLE   candle's kernels: number types with operators
//   FLAT     no kernel has a barrier
//   PERTURB  see perturb.hpp
#pragma once
#ifdef CANDLE
#include "numbers.hpp"
#else
#include "emulator.hpp"
#endif
#ifdef PERTURB
#include "perturb.hpp"
#endif
#ifdef FLAT
#include "flat.hpp"
#endif
#include <string>
#include <thread>
#define KERNELS
#include "table.hpp"

// Asked about each access of instrumented kernels.
extern "C" __attribute__((visibility("default"))) AccessAllowed access_allowed;
AccessAllowed access_allowed;

// Runs a grid; what went wrong, empty if nothing did.
template <class Body> std::string run_grid(const char *name, const Shape &shape, const Body &body) {
  dim3 grid = {shape.grid[0], shape.grid[1], shape.grid[2]}, size = {shape.block[0], shape.block[1], shape.block[2]};
#ifdef FLAT
  flat::run(grid, size, body);
  return "";
#else
  emulator::Options options;
  options.allowed = access_allowed;
  uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z, threads = blocks * size.x * size.y * size.z, half = blocks / 2;
  auto part = [&](uint64_t begin, uint64_t end) { return emulator::run(name, grid, size, shape.shared, body, options, begin, end); };
  // Below so many threads it costs more to start a thread than it saves. Candle's sums by atomics must keep their order,
  // and accesses are checked one block at a time.
#if !defined(CANDLE) && !defined(CHECK_ACCESS)
  if (half && threads > 2048) {
    std::string other;
    std::thread helper([&] { other = part(half, blocks); });
    std::string own = part(0, half);
    helper.join();
    return own.empty() ? other : own;
  }
#endif
  return part(0, blocks);
#endif
}
