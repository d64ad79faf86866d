// A block and its threads: coroutines that switch at barriers.
#pragma once
#include "context.hpp"
#include "types.hpp"
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <link.h>
#include <mutex>
#include <string>
#include <vector>

namespace emulator {

constexpr size_t STACK_BYTES = 256 << 10;  // also their alignment: a thread finds itself from its stack pointer
constexpr size_t MOST_GIVEN = 64;
constexpr uint64_t INTACT = 0x5afe57ac4b0770e5;
enum class State { ready, in_warp, in_block, done };

struct Block;

// At the lower end of the thread's stack.
struct Fiber {
  Block *block;
  Context context;
  State state;
  bool shuffles;  // waits in a shuffle or vote, of which every lane of the warp must be part
  unsigned index;
  uint3 thread;
  unsigned exchanges;  // with the other lanes so far
  alignas(16) char given[2][MOST_GIVEN];  // what the other lanes may read, in this exchange and in the next
  uint64_t intact;    // the first that a stack that is too deep destroys
};

struct Range {
  uintptr_t begin = 0, end = 0;
  UNCHECKED bool holds(uintptr_t address, size_t bytes) const { return address >= begin && address + bytes <= end; }
};

// How a launch runs.
struct Options {
  // Blocks and threads take their turns in an order drawn from it; 0: blocks ascending, threads ascending and descending
  // by turns.
  uint64_t seed = 0;
  // With CHECK_ACCESS: whether a kernel may read (or write) these bytes of global memory; null: any.
  bool (*allowed)(uintptr_t address, size_t bytes, bool write) = nullptr;
  // The kernel's arguments, to name one in a message.
  const uint64_t *arguments = nullptr;
  unsigned count = 0;
};

// One at a time of a launch; several host threads may each have one.
struct Block {
  const char *kernel;
  dim3 grid_size, size;
  uint3 index;
  Options options;
  unsigned threads;
  std::vector<char *> stacks;
  char **stack_of;  // stacks.data()
  std::vector<char> dynamic_bytes;
  Range static_shared, dynamic_shared, parameters;
  void (*run)(const void *body);
  const void *body;
  Context scheduler;
  std::vector<unsigned> order;
  uint64_t random;
  std::string failure;
  uint64_t serial;                      // counted over all launches from 1 on
  unsigned barriers;                    // of the block so far
  std::vector<unsigned> warp_barriers;  // of each warp since the block's last one

  UNCHECKED Fiber &fiber(unsigned index) { return *(Fiber *)stack_of[index]; }

  // Notes what went wrong; the block is not run any further.
  void failed(const char *format, ...) __attribute__((format(printf, 2, 3))) {
    char text[512];
    int start = std::snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u): ", kernel, index.x, index.y, index.z);
    va_list values;
    va_start(values, format);
    std::vsnprintf(text + start, sizeof text - start, format, values);
    va_end(values);
    failure = text;
  }
};

#ifdef CHECK_ACCESS
// The thread whose accesses are checked: null while the emulator works. A library that checks runs one launch at a time.
inline Fiber *running;
#endif

UNCHECKED inline Fiber &self() { return *(Fiber *)((uintptr_t)__builtin_frame_address(0) & ~(STACK_BYTES - 1)); }
UNCHECKED inline uint3 thread_index() { return self().thread; }
UNCHECKED inline uint3 block_index() { return self().block->index; }
UNCHECKED inline dim3 block_size() { return self().block->size; }
UNCHECKED inline dim3 grid_size() { return self().block->grid_size; }
UNCHECKED inline unsigned lane() { return self().index & 31; }
template <class T> UNCHECKED T *dynamic_shared() { return (T *)self().block->dynamic_shared.begin; }

// Gives up the block from within a thread.
[[noreturn]] UNCHECKED inline void fail(const char *what) {
#ifdef CHECK_ACCESS
  running = nullptr;
#endif
  Block &block = *self().block;
  block.failed("%s", what);
  switch_context(self().context, block.scheduler);
  std::abort();
}

UNCHECKED inline void wait(State state, bool shuffles = false) {
  Fiber &fiber = self();
  fiber.state = state;
  fiber.shuffles = shuffles;
  switch_context(fiber.context, fiber.block->scheduler);
}

UNCHECKED inline void enter() {
  Fiber &fiber = self();
  fiber.block->run(fiber.block->body);
  wait(State::done);
}

// Calls `read` with a way to what each lane gives. Orders no memory.
template <class T, class Read> UNCHECKED auto exchange(const T &given, Read read) {
  static_assert(sizeof(T) <= MOST_GIVEN);
  Fiber &fiber = self();
  // A lane is at the exchange after next, which has this one's place, only when all have left this one.
  unsigned place = fiber.exchanges++ % 2;
  std::memcpy(fiber.given[place], &given, sizeof given);
  wait(State::in_warp, true);
#ifdef CHECK_ACCESS
  running = nullptr;
#endif
  auto result = read([&](unsigned lane) UNCHECKED -> const T & {
    return *(const T *)fiber.block->fiber((fiber.index & ~31u) + lane).given[place];
  });
#ifdef CHECK_ACCESS
  running = &fiber;
#endif
  return result;
}

// --- the host's side

UNCHECKED inline uint64_t next_random(Block &block) {
  block.random ^= block.random << 13;
  block.random ^= block.random >> 7;
  block.random ^= block.random << 17;
  return block.random * 0x2545f4914f6cdd1d >> 33;
}

template <class T> void shuffle(Block &block, std::vector<T> &items) {
  for (size_t i = items.size(); i > 1; i--) std::swap(items[i - 1], items[next_random(block) % i]);
}

// What runs in every turn of every thread is not instrumented either: the checks would take most of the time.
UNCHECKED inline bool go_on(Block &block, Fiber &fiber) {
#ifdef CHECK_ACCESS
  running = &fiber;
#endif
  switch_context(block.scheduler, fiber.context);
#ifdef CHECK_ACCESS
  running = nullptr;
#endif
  if (fiber.intact != INTACT) block.failed("a thread's stack is too small");
  return block.failure.empty();
}

// Lets a warp go whose threads have all arrived; whether there was something to let go.
UNCHECKED inline bool release_warp(Block &block, unsigned first) {
  unsigned last = std::min(first + 32, block.threads), waiting = 0, gone = 0, shuffling = 0;
  for (unsigned i = first; i < last; i++) {
    const Fiber &fiber = block.fiber(i);
    waiting += fiber.state == State::in_warp;
    shuffling += fiber.state == State::in_warp && fiber.shuffles;
    gone += fiber.state == State::done;
  }
  if (!waiting || waiting + gone != last - first) return false;
  if (shuffling && shuffling < 32) {
    block.failed("a shuffle or vote without all 32 lanes");
    return false;
  }
  for (unsigned i = first; i < last; i++)
    if (block.fiber(i).state == State::in_warp) block.fiber(i).state = State::ready;
  if (!shuffling) block.warp_barriers[first / 32]++;
  return true;
}

UNCHECKED inline bool release(Block &block) {
  bool released = false;
  for (unsigned first = 0; first < block.threads; first += 32) released |= release_warp(block, first);
  unsigned in_block = 0, done = 0;
  for (unsigned i = 0; i < block.threads; i++) {
    in_block += block.fiber(i).state == State::in_block;
    done += block.fiber(i).state == State::done;
  }
  if (!in_block || in_block + done != block.threads) return released;
  for (unsigned i = 0; i < block.threads; i++)
    if (block.fiber(i).state == State::in_block) block.fiber(i).state = State::ready;
  block.barriers++;
  std::fill(block.warp_barriers.begin(), block.warp_barriers.end(), 0);
  return true;
}

// Shared memory is what an earlier block left: NaN here.
inline void poison(const Range &range) { std::memset((void *)range.begin, 0xff, range.end - range.begin); }

UNCHECKED inline void run_block(Block &block) {
  poison(block.static_shared);
  poison(block.dynamic_shared);
  block.serial++;
  block.barriers = 0;
  block.warp_barriers.assign((block.threads + 31) / 32, 0);
  block.order.resize(block.threads);
  for (unsigned i = 0; i < block.threads; i++) {
    uint3 thread = {i % block.size.x, i / block.size.x % block.size.y, i / (block.size.x * block.size.y)};
    block.fiber(i) = {&block, {}, State::ready, false, i, thread, 0, {}, INTACT};
    // Stacks that end at the same place of a page would share few lines of the processor's cache.
    start_at(block.fiber(i).context, block.stacks[i], STACK_BYTES - i % 32 * 128, enter);
    block.order[i] = i;
  }
  const unsigned *order = block.order.data();
  for (;;) {
    if (block.options.seed) shuffle(block, block.order);
    for (unsigned i = 0; i < block.threads; i++) {
      Fiber &fiber = block.fiber(order[i]);
      if (fiber.state == State::ready && !go_on(block, fiber)) return;
    }
    if (!block.options.seed) std::reverse(block.order.begin(), block.order.end());
    if (release(block)) continue;
    if (!block.failure.empty()) return;
    for (unsigned i = 0; i < block.threads; i++)
      if (block.fiber(i).state != State::done) return block.failed("a barrier that not all threads reach");
    return;
  }
}

inline thread_local char any_shared;

// This host thread's copy of the library's thread-local memory.
inline Range find_static_shared() {
  Range range;
  range.begin = (uintptr_t)&any_shared;
  auto visit = [](dl_phdr_info *info, size_t, void *given) {
    Range &range = *(Range *)given;
    uintptr_t start = (uintptr_t)info->dlpi_tls_data;
    for (int i = 0; start && i < info->dlpi_phnum; i++) {
      const auto &part = info->dlpi_phdr[i];
      if (part.p_type != PT_TLS || range.begin < start || range.begin >= start + part.p_memsz) continue;
      range = {start, start + part.p_memsz};
      return 1;
    }
    return 0;
  };
  dl_iterate_phdr(visit, &range);
  return range;
}

// Blocks with their stacks, which are made once and used again.
struct Pool {
  std::mutex mutex;
  std::vector<Block *> free;
};
inline Pool pool;

inline Block *take_block() {
  std::lock_guard<std::mutex> lock(pool.mutex);
  if (pool.free.empty()) return new Block{};
  Block *block = pool.free.back();
  pool.free.pop_back();
  return block;
}

inline void put_back(Block *block) {
  std::lock_guard<std::mutex> lock(pool.mutex);
  pool.free.push_back(block);
}

#ifdef CHECK_ACCESS
inline void begin_launch(Block &block, uint64_t blocks);
#else
inline void begin_launch(Block &, uint64_t) {}
#endif

// Calls `body` once for every thread of the blocks [begin, end) of the grid, counted along x, then y, then z. What went
// wrong, empty if nothing did. What `body` holds are the kernel's parameters.
template <class Body>
std::string run(const char *kernel, dim3 grid, dim3 size, unsigned shared_bytes, const Body &body, const Options &options,
                uint64_t begin, uint64_t end) {
  Block &block = *take_block();
  block.kernel = kernel;
  block.grid_size = grid;
  block.size = size;
  block.options = options;
  block.random = options.seed;
  block.threads = size.x * size.y * size.z;
  while (block.stacks.size() < block.threads)
    block.stacks.push_back((char *)std::aligned_alloc(STACK_BYTES, STACK_BYTES));
  block.stack_of = block.stacks.data();
  block.dynamic_bytes.resize(shared_bytes + 15);
  block.dynamic_shared.begin = ((uintptr_t)block.dynamic_bytes.data() + 15) & ~(uintptr_t)15;
  block.dynamic_shared.end = block.dynamic_shared.begin + shared_bytes;
  block.static_shared = find_static_shared();
  block.parameters = {(uintptr_t)&body, (uintptr_t)(&body + 1)};
  block.run = [](const void *body) { (*(const Body *)body)(); };
  block.body = &body;
  block.failure.clear();
  begin_launch(block, end - begin);
  std::vector<uint64_t> order;
  for (uint64_t i = begin; i < end; i++) order.push_back(i);
  if (options.seed) shuffle(block, order);
  for (uint64_t i : order) {
    if (!block.failure.empty()) break;
    block.index = {(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / grid.x / grid.y)};
    run_block(block);
  }
  std::string failure = block.failure;
  put_back(&block);
  return failure;
}

// The whole grid; the process ends with a message if something went wrong.
template <class Body>
void launch(const char *kernel, dim3 grid, dim3 size, unsigned shared_bytes, const Body &body, const Options &options = {}) {
  std::string failure = run(kernel, grid, size, shared_bytes, body, options, 0, (uint64_t)grid.x * grid.y * grid.z);
  if (failure.empty()) return;
  std::fprintf(stderr, "%s\n", failure.c_str());
  std::abort();
}

}  // namespace emulator

#ifdef CHECK_ACCESS
#include "access.hpp"
#else
namespace emulator {
inline void touch(const void *, size_t, bool, bool) {}
}  // namespace emulator
#endif
