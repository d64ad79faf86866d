// Runs CUDA kernels on a CPU, for tests without a GPU: CUDA C++ compiled as C++17 with this header, no CUDA needed.
//
// One block at a time, one coroutine per thread, switched at barriers. Warp and block barriers wait for exactly the
// threads that CUDA waits for, and a barrier that not all of them reach is an error. The order in which threads and
// blocks take turns is fixed or drawn from a seed; shared memory starts as NaN. With CHECK_ACCESS and the compiler's
// instrumentation every access is checked: see access.hpp. Several host threads may run blocks at once (not when
// accesses are checked). Covered: thread indices, __shared__, __syncthreads, __syncwarp, full-mask shuffles and votes,
// atomics, bf16 conversions, the two tensor-core instructions of tensor_core.hpp. Not covered: other inline PTX,
// cp.async, textures, cooperative groups, fences, and everything about speed.
#pragma once
#include "block.hpp"
#include <cmath>
#include <tuple>
#include <type_traits>
#include <utility>
#include "tensor_core.hpp"

namespace emulator {

// A launch as a test asks for it.
struct Request {
  unsigned grid[3], threads, shared_bytes;
  unsigned count;             // of arguments
  const uint64_t *arguments;  // a parameter is the lower bytes of one
  uint64_t seed;
  bool (*allowed)(uintptr_t address, size_t bytes, bool write);
  char *message;
  size_t message_bytes;
};
enum Outcome { RAN, WRONG_ARGUMENTS, WRONG_THREADS, FAILED };

template <class... P, size_t... I>
Outcome call(const char *name, void (*entry)(P...), const Request &request, std::index_sequence<I...>) {
  std::tuple<P...> values;
  (std::memcpy((void *)&std::get<I>(values), request.arguments + I, sizeof(P)), ...);
  dim3 grid = {request.grid[0], request.grid[1], request.grid[2]}, size = {request.threads, 1, 1};
  Options options = {request.seed, request.allowed, request.arguments, request.count};
  auto body = [entry, values] { std::apply(entry, values); };
  uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
  std::string failure = run(name, grid, size, request.shared_bytes, body, options, 0, blocks);
  std::snprintf(request.message, request.message_bytes, "%s", failure.c_str());
  return failure.empty() ? RAN : FAILED;
}

template <class... P> int call(const char *name, unsigned most_threads, void (*entry)(P...), const Request &request) {
  if (request.count != sizeof...(P)) return WRONG_ARGUMENTS;
  if (request.threads == 0 || request.threads > most_threads) return WRONG_THREADS;
  return call(name, entry, request, std::make_index_sequence<sizeof...(P)>());
}

template <class T> UNCHECKED T from_lane(T value, unsigned lane) {
  return exchange(value, [&](auto of) UNCHECKED { return lane < 32 ? T(of(lane)) : value; });
}

UNCHECKED inline void whole(unsigned mask) {
  if (mask != ~0u) fail("a mask other than the whole warp");
}

// Replaces *address by next(of it) as one; what was there.
template <class T, class Next> UNCHECKED T atomically(T *address, Next next) {
  touch(address, sizeof(T), true, true);
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  static_assert(sizeof(T) == sizeof(Bits));
  Bits before = __atomic_load_n((Bits *)address, __ATOMIC_RELAXED), after;
  T old;
  do {
    std::memcpy(&old, &before, sizeof old);
    T value = next(old);
    std::memcpy(&after, &value, sizeof after);
  } while (!__atomic_compare_exchange_n((Bits *)address, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace emulator

#define KERNEL(most_threads, name, ...)                                                                       \
  extern "C" void name(__VA_ARGS__);                                                                          \
  extern "C" __attribute__((visibility("default"))) int emulate_##name(const emulator::Request *request) {    \
    return emulator::call(#name, most_threads, name, *request);                                               \
  }                                                                                                           \
  extern "C" void name(__VA_ARGS__)
#define DYNAMIC_SHARED(type, name) type *name = emulator::dynamic_shared<type>()

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())
constexpr int warpSize = 32;

inline void __syncthreads() { emulator::wait(emulator::State::in_block); }
inline void __syncwarp(unsigned mask = ~0u) { emulator::whole(mask); emulator::wait(emulator::State::in_warp); }
#ifdef CHECK_ACCESS
inline void __threadfence() { emulator::fail("a fence, whose order between threads is not modelled"); }
#else
inline void __threadfence() {}
#endif
inline void __threadfence_block() { __threadfence(); }
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
  return emulator::exchange(vote, [](auto of) UNCHECKED {
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
// The second operand has the type of the first, whatever it is given as.
template <class T> using Same = std::common_type_t<T>;
template <class T> T atomicAdd(T *at, Same<T> x) { return emulator::atomically(at, [x](T old) { return T(old + x); }); }
template <class T> T atomicMax(T *at, Same<T> x) { return emulator::atomically(at, [x](T old) { return std::max(old, x); }); }
template <class T> T atomicMin(T *at, Same<T> x) { return emulator::atomically(at, [x](T old) { return std::min(old, x); }); }
template <class T> T atomicOr(T *at, Same<T> x) { return emulator::atomically(at, [x](T old) { return T(old | x); }); }
template <class T> T atomicExch(T *at, Same<T> x) { return emulator::atomically(at, [x](T) { return x; }); }
template <class T> T atomicCAS(T *at, Same<T> compare, Same<T> x) {
  return emulator::atomically(at, [compare, x](T old) { return old == compare ? x : old; });
}
using std::max;
using std::min;
