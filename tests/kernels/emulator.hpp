// Runs CUDA kernels on a CPU, for tests without a GPU: CUDA C++ compiled as C++17 with this header, no CUDA needed.
//
// One block at a time, one coroutine per thread, switched at barriers. Warp and block barriers wait for exactly the
// threads that CUDA waits for, and a barrier that not all of them reach ends the process with a message. Threads take
// turns in ascending and descending order by turns, so that what depends on their order shows. Dynamic shared memory
// starts as NaN. Covered: thread indices, __shared__, __syncthreads, __syncwarp, full-mask shuffles and votes, atomics,
// bf16 conversions. Not covered: inline PTX, tensor cores, cp.async, textures, cooperative groups, data races between
// barriers that either order survives, and everything about speed.
#pragma once
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __shared__ static
#define __constant__ static
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// --- bf16: the upper half of an f32, rounded to the nearest, ties to even
struct alignas(2) __nv_bfloat16 { uint16_t bits; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
inline float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
inline int __float_as_int(float x) { return (int)__float_as_uint(x); }
inline float __int_as_float(int bits) { return __uint_as_float((unsigned)bits); }
inline long long __double_as_longlong(double x) { long long bits; std::memcpy(&bits, &x, 8); return bits; }
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }
inline __nv_bfloat16 __float2bfloat16(float x) {
  unsigned bits = __float_as_uint(x);
  if (x != x) return {0x7fff};
  return {(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __float2bfloat16(x); }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {__bfloat162float(v.x), __bfloat162float(v.y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16(x), __float2bfloat16(y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return __floats2bfloat162_rn(v.x, v.y); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }

namespace emulator {

constexpr size_t STACK_BYTES = 256 << 10;
enum class State { ready, in_warp, in_block, done };

struct Fiber {
  ucontext_t start;
  jmp_buf resume;
  std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
  State state;
  bool started;
  bool shuffles;  // waits in a barrier of which every lane of the warp must be part
  uint3 thread;
  uint64_t slot;  // what it gives to the other lanes
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline unsigned current, live;
inline jmp_buf scheduler;
inline uint3 block;
inline dim3 grid_size, block_size;
inline std::vector<char> dynamic_shared;
inline std::function<void()> body;
inline const char *kernel;

[[noreturn]] inline void fail(const char *what) {
  std::fprintf(stderr, "kernel %s, block (%u, %u, %u): %s\n", kernel, block.x, block.y, block.z, what);
  std::abort();
}

inline void enter() {
  body();
  fibers[current]->state = State::done;
  _longjmp(scheduler, 1);
}

inline void wait(State state, bool shuffles = false) {
  Fiber &fiber = *fibers[current];
  fiber.state = state;
  fiber.shuffles = shuffles;
  if (!_setjmp(fiber.resume)) _longjmp(scheduler, 1);
}

inline void run(unsigned index) {
  Fiber &fiber = *fibers[index];
  current = index;
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = STACK_BYTES;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, enter, 0);
  setcontext(&fiber.start);
}

// Lets go the warps and the block whose threads have all arrived; whether there was one.
inline bool release() {
  bool released = false;
  unsigned in_block = 0, done = 0;
  for (unsigned first = 0; first < live; first += 32) {
    unsigned last = std::min(first + 32, live), waiting = 0, gone = 0, at_block = 0;
    bool shuffles = false;
    for (unsigned i = first; i < last; i++) {
      waiting += fibers[i]->state == State::in_warp;
      shuffles |= fibers[i]->state == State::in_warp && fibers[i]->shuffles;
      gone += fibers[i]->state == State::done;
      at_block += fibers[i]->state == State::in_block;
    }
    if (waiting && waiting + gone == last - first) {
      if (shuffles && (gone || last - first < 32)) fail("a shuffle or vote without all 32 lanes");
      for (unsigned i = first; i < last; i++)
        if (fibers[i]->state == State::in_warp) fibers[i]->state = State::ready;
      released = true;
    }
    in_block += at_block;
    done += gone;
  }
  if (in_block && in_block + done == live) {
    for (unsigned i = 0; i < live; i++)
      if (fibers[i]->state == State::in_block) fibers[i]->state = State::ready;
    released = true;
  }
  return released;
}

inline void run_block() {
  std::memset(dynamic_shared.data(), 0xff, dynamic_shared.size());
  for (unsigned i = 0; i < live; i++) {
    Fiber &fiber = *fibers[i];
    fiber.state = State::ready;
    fiber.started = false;
    fiber.thread = {i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)};
  }
  for (bool descending = false;; descending = !descending) {
    for (unsigned i = 0; i < live; i++) {
      unsigned index = descending ? live - 1 - i : i;
      if (fibers[index]->state == State::ready) run(index);
    }
    if (release()) continue;
    for (unsigned i = 0; i < live; i++)
      if (fibers[i]->state != State::done) fail("a barrier that not all threads reach");
    return;
  }
}

template <class... P, size_t... I>
void call(const char *name, void (*entry)(P...), const unsigned *launch, const uint64_t *arguments, std::index_sequence<I...>) {
  std::tuple<P...> values;
  // A parameter is the lower bytes of its argument.
  (std::memcpy((void *)&std::get<I>(values), arguments + I, sizeof(P)), ...);
  kernel = name;
  grid_size = {launch[0], launch[1], launch[2]};
  block_size = {launch[3], 1, 1};
  live = launch[3];
  dynamic_shared.assign(launch[4] + 15, 0);
  while (fibers.size() < live) fibers.emplace_back(new Fiber);
  body = [&] { std::apply(entry, values); };
  for (unsigned z = 0; z < grid_size.z; z++)
    for (unsigned y = 0; y < grid_size.y; y++)
      for (unsigned x = 0; x < grid_size.x; x++) {
        block = {x, y, z};
        run_block();
      }
}

template <class... P>
int call(const char *name, unsigned threads, void (*entry)(P...), const unsigned *launch, const uint64_t *arguments, unsigned count) {
  if (count != sizeof...(P)) return 1;
  if (launch[3] == 0 || launch[3] > threads) return 2;
  call(name, entry, launch, arguments, std::make_index_sequence<sizeof...(P)>());
  return 0;
}

template <class T> T from_lane(T value, unsigned lane) {
  static_assert(sizeof(T) <= 8);
  std::memcpy(&fibers[current]->slot, &value, sizeof value);
  wait(State::in_warp, true);
  if (lane < 32) std::memcpy(&value, &fibers[(current & ~31u) + lane]->slot, sizeof value);
  wait(State::in_warp, true);
  return value;
}

inline unsigned lane() { return current & 31; }
inline void whole(unsigned mask) {
  if (mask != ~0u) fail("a mask other than the whole warp");
}

inline char *aligned_shared() { return (char *)(((uintptr_t)dynamic_shared.data() + 15) & ~(uintptr_t)15); }

}  // namespace emulator

#define KERNEL(threads, name, ...)                                                                              \
  extern "C" void name(__VA_ARGS__);                                                                            \
  extern "C" __attribute__((visibility("default"))) int emulate_##name(const unsigned *launch, const uint64_t *arguments, unsigned count) {            \
    return emulator::call(#name, threads, name, launch, arguments, count);                                      \
  }                                                                                                             \
  extern "C" void name(__VA_ARGS__)
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(emulator::aligned_shared())

#define threadIdx (emulator::fibers[emulator::current]->thread)
#define blockIdx (emulator::block)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)
constexpr int warpSize = 32;

inline void __syncthreads() { emulator::wait(emulator::State::in_block); }
inline void __syncwarp(unsigned mask = ~0u) { emulator::whole(mask); emulator::wait(emulator::State::in_warp); }
inline void __threadfence() {}
inline void __threadfence_block() {}
template <class T> T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  emulator::whole(mask);
  return emulator::from_lane(value, (emulator::lane() & ~(width - 1)) | (lane & (width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  emulator::whole(mask);
  unsigned from = emulator::lane() ^ bits;
  return emulator::from_lane(value, from / width == emulator::lane() / width ? from : emulator::lane());
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  emulator::whole(mask);
  unsigned from = emulator::lane() + by;
  return emulator::from_lane(value, from / width == emulator::lane() / width ? from : emulator::lane());
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  emulator::whole(mask);
  return emulator::from_lane(value, emulator::lane() % width >= by ? emulator::lane() - by : emulator::lane());
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
  emulator::whole(mask);
  unsigned votes = 0;
  emulator::fibers[emulator::current]->slot = vote != 0;
  emulator::wait(emulator::State::in_warp, true);
  for (unsigned i = 0; i < 32; i++) votes |= (unsigned)emulator::fibers[(emulator::current & ~31u) + i]->slot << i;
  emulator::wait(emulator::State::in_warp, true);
  return votes;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == ~0u; }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline int __float2int_rn(float x) { return (int)std::nearbyint(x); }
template <class T> T __ldg(const T *address) { return *address; }
template <class T> T atomicAdd(T *address, std::common_type_t<T> x) { T old = *address; *address = old + x; return old; }
template <class T> T atomicMax(T *address, std::common_type_t<T> x) { T old = *address; *address = std::max(old, x); return old; }
template <class T> T atomicMin(T *address, std::common_type_t<T> x) { T old = *address; *address = std::min(old, x); return old; }
template <class T> T atomicOr(T *address, std::common_type_t<T> x) { T old = *address; *address = old | x; return old; }
template <class T> T atomicExch(T *address, std::common_type_t<T> x) { T old = *address; *address = x; return old; }
template <class T> T atomicCAS(T *address, std::common_type_t<T> compare, std::common_type_t<T> x) { T old = *address; if (old == compare) *address = x; return old; }
using std::max;
using std::min;
