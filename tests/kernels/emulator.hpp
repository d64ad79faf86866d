// Runs CUDA kernels on a CPU, for tests without a GPU: CUDA C++ compiled as C++17 with this header, no CUDA needed.
//
// One block at a time, one coroutine per thread, switched at barriers. Warp and block barriers wait for exactly the
// threads that CUDA waits for, and a barrier that not all of them reach ends the process with a message. Threads take
// turns in ascending and descending order by turns, so that what depends on their order shows. Dynamic shared memory
// starts as NaN. Several host threads may run blocks at once. Covered: thread indices, __shared__, __syncthreads,
// __syncwarp, full-mask shuffles and votes, atomics, bf16 conversions, two tensor-core instructions. Not covered: other
// inline PTX, cp.async, textures, cooperative groups, data races between barriers that either order survives, and
// everything about speed.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __shared__ static thread_local
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

// --- coroutines: a stack and the registers that a call preserves. No system call: a launch starts a million of them.
namespace emulator {

#if defined(__x86_64__)
using Context = void *;  // the stack pointer; the registers lie there
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(Context *from, Context to);
__asm__(R"(
  .text
  .hidden emulator_switch
  .weak emulator_switch
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
constexpr size_t SAVED_WORDS = 8, RETURN_WORD = 6;
#elif defined(__aarch64__)
using Context = void *;
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(Context *from, Context to);
__asm__(R"(
  .text
  .hidden emulator_switch
  .weak emulator_switch
emulator_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
constexpr size_t SAVED_WORDS = 20, RETURN_WORD = 11;
#endif

#if defined(__x86_64__) || defined(__aarch64__)
inline void start_at(Context &context, char *stack, size_t bytes, void (*entry)()) {
  void **saved = (void **)(stack + bytes) - SAVED_WORDS;
  std::fill_n(saved, SAVED_WORDS, nullptr);
  saved[RETURN_WORD] = (void *)entry;
  context = saved;
}
inline void switch_context(Context &from, Context &to) { emulator_switch(&from, to); }
#else
using Context = ucontext_t;
inline void start_at(Context &context, char *stack, size_t bytes, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
inline void switch_context(Context &from, Context &to) { swapcontext(&from, &to); }
#endif

// --- a block and its threads

constexpr size_t STACK_BYTES = 256 << 10;  // also their alignment: a thread finds itself from its stack pointer
constexpr uint64_t INTACT = 0x5afe57ac4b0770e5;
enum class State { ready, in_warp, in_block, done };

struct Block;

// At the lower end of the thread's stack.
struct Fiber {
  Block *block;
  Context context;
  State state;
  bool shuffles;  // waits in a barrier of which every lane of the warp must be part
  unsigned index;
  uint3 thread;
  const void *given;  // what the other lanes may read
  uint64_t intact;    // the first that a stack that is too deep destroys
};

// One at a time of a launch; several host threads may each have one.
struct Block {
  const char *kernel;
  dim3 grid_size, size;
  uint3 index;
  unsigned threads;
  std::vector<char *> stacks;
  std::vector<char> dynamic_shared;
  void (*run)(const void *body);
  const void *body;
  Context scheduler;

  Fiber &fiber(unsigned index) { return *(Fiber *)stacks[index]; }
  [[noreturn]] void fail(const char *what) const {
    std::fprintf(stderr, "kernel %s, block (%u, %u, %u): %s\n", kernel, index.x, index.y, index.z, what);
    std::abort();
  }
};

inline Fiber &self() { return *(Fiber *)((uintptr_t)__builtin_frame_address(0) & ~(STACK_BYTES - 1)); }
inline uint3 thread_index() { return self().thread; }
inline uint3 block_index() { return self().block->index; }
inline dim3 block_size() { return self().block->size; }
inline dim3 grid_size() { return self().block->grid_size; }
inline unsigned lane() { return self().index & 31; }
[[noreturn]] inline void fail(const char *what) { self().block->fail(what); }

inline void enter() {
  Block &block = *self().block;
  block.run(block.body);
  self().state = State::done;
  switch_context(self().context, block.scheduler);
}

inline void wait(State state, bool shuffles = false) {
  Fiber &fiber = self();
  fiber.state = state;
  fiber.shuffles = shuffles;
  switch_context(fiber.context, fiber.block->scheduler);
}

inline void go_on(Block &block, Fiber &fiber) {
  switch_context(block.scheduler, fiber.context);
  if (fiber.intact != INTACT) block.fail("a thread's stack is too small");
}

// Lets go the warps and the block whose threads have all arrived; whether there was one.
inline bool release(Block &block) {
  bool released = false;
  unsigned in_block = 0, done = 0;
  for (unsigned first = 0; first < block.threads; first += 32) {
    unsigned last = std::min(first + 32, block.threads), waiting = 0, gone = 0, at_block = 0;
    bool shuffles = false;
    for (unsigned i = first; i < last; i++) {
      const Fiber &fiber = block.fiber(i);
      waiting += fiber.state == State::in_warp;
      shuffles |= fiber.state == State::in_warp && fiber.shuffles;
      gone += fiber.state == State::done;
      at_block += fiber.state == State::in_block;
    }
    if (waiting && waiting + gone == last - first) {
      if (shuffles && (gone || last - first < 32)) block.fail("a shuffle or vote without all 32 lanes");
      for (unsigned i = first; i < last; i++)
        if (block.fiber(i).state == State::in_warp) block.fiber(i).state = State::ready;
      released = true;
    }
    in_block += at_block;
    done += gone;
  }
  if (in_block && in_block + done == block.threads) {
    for (unsigned i = 0; i < block.threads; i++)
      if (block.fiber(i).state == State::in_block) block.fiber(i).state = State::ready;
    released = true;
  }
  return released;
}

inline void run_block(Block &block) {
  std::memset(block.dynamic_shared.data(), 0xff, block.dynamic_shared.size());
  for (unsigned i = 0; i < block.threads; i++) {
    Fiber &fiber = block.fiber(i);
    uint3 thread = {i % block.size.x, i / block.size.x % block.size.y, i / (block.size.x * block.size.y)};
    fiber = {&block, {}, State::ready, false, i, thread, nullptr, INTACT};
    start_at(fiber.context, block.stacks[i], STACK_BYTES, enter);
  }
  for (bool descending = false;; descending = !descending) {
    for (unsigned i = 0; i < block.threads; i++) {
      Fiber &fiber = block.fiber(descending ? block.threads - 1 - i : i);
      if (fiber.state == State::ready) go_on(block, fiber);
    }
    if (release(block)) continue;
    for (unsigned i = 0; i < block.threads; i++)
      if (block.fiber(i).state != State::done) block.fail("a barrier that not all threads reach");
    return;
  }
}

// Blocks with their stacks, which are made once and used again.
struct Pool {
  std::mutex mutex;
  std::vector<Block *> free;
};
inline Pool pool;

inline Block *take_block(unsigned threads) {
  Block *block = nullptr;
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    if (!pool.free.empty()) {
      block = pool.free.back();
      pool.free.pop_back();
    }
  }
  if (!block) block = new Block{};
  while (block->stacks.size() < threads) block->stacks.push_back((char *)std::aligned_alloc(STACK_BYTES, STACK_BYTES));
  return block;
}

inline void give_back(Block *block) {
  std::lock_guard<std::mutex> lock(pool.mutex);
  pool.free.push_back(block);
}

// Calls `body` once for every thread of every block with x, y, z in [begin, end) of the grid in its linear order.
template <class Body>
void launch(const char *name, dim3 grid, dim3 size, unsigned shared_bytes, const Body &body, uint64_t begin, uint64_t end) {
  Block &block = *take_block(size.x * size.y * size.z);
  block.kernel = name;
  block.grid_size = grid;
  block.size = size;
  block.threads = size.x * size.y * size.z;
  block.dynamic_shared.assign(shared_bytes + 15, 0);
  block.run = [](const void *body) { (*(const Body *)body)(); };
  block.body = &body;
  for (uint64_t i = begin; i < end; i++) {
    block.index = {(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / grid.x / grid.y)};
    run_block(block);
  }
  give_back(&block);
}

// The whole grid.
template <class Body> void launch(const char *name, dim3 grid, dim3 size, unsigned shared_bytes, const Body &body) {
  launch(name, grid, size, shared_bytes, body, 0, (uint64_t)grid.x * grid.y * grid.z);
}

template <class... P, size_t... I>
void call(const char *name, void (*entry)(P...), const unsigned *given, const uint64_t *arguments, std::index_sequence<I...>) {
  std::tuple<P...> values;
  // A parameter is the lower bytes of its argument.
  (std::memcpy((void *)&std::get<I>(values), arguments + I, sizeof(P)), ...);
  dim3 grid = {given[0], given[1], given[2]}, size = {given[3], 1, 1};
  launch(name, grid, size, given[4], [entry, values] { std::apply(entry, values); });
}

template <class... P>
int call(const char *name, unsigned threads, void (*entry)(P...), const unsigned *given, const uint64_t *arguments, unsigned count) {
  if (count != sizeof...(P)) return 1;
  if (given[3] == 0 || given[3] > threads) return 2;
  call(name, entry, given, arguments, std::make_index_sequence<sizeof...(P)>());
  return 0;
}

// Calls `read` with the address of what each lane gives; nobody goes on before all have read.
template <class T, class Read> auto exchange(const T &given, Read read) {
  Fiber &fiber = self();
  fiber.given = &given;
  wait(State::in_warp, true);
  auto result = read([&](unsigned lane) -> const T & {
    return *(const T *)fiber.block->fiber((fiber.index & ~31u) + lane).given;
  });
  wait(State::in_warp, true);
  return result;
}

template <class T> T from_lane(T value, unsigned lane) {
  return exchange(value, [&](auto of) { return lane < 32 ? T(of(lane)) : value; });
}

inline void whole(unsigned mask) {
  if (mask != ~0u) fail("a mask other than the whole warp");
}

inline char *dynamic_shared() { return (char *)(((uintptr_t)self().block->dynamic_shared.data() + 15) & ~(uintptr_t)15); }

}  // namespace emulator

#include "tensor_core.hpp"

#define KERNEL(threads, name, ...)                                                                              \
  extern "C" void name(__VA_ARGS__);                                                                            \
  extern "C" __attribute__((visibility("default"))) int emulate_##name(const unsigned *launch, const uint64_t *arguments, unsigned count) {            \
    return emulator::call(#name, threads, name, launch, arguments, count);                                      \
  }                                                                                                             \
  extern "C" void name(__VA_ARGS__)
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(emulator::dynamic_shared())

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())
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
  return emulator::exchange(vote, [](auto of) {
    unsigned votes = 0;
    for (unsigned i = 0; i < 32; i++) votes |= (unsigned)(of(i) != 0) << i;
    return votes;
  });
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
