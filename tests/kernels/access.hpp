// Checks every access of a kernel to shared and global memory: bounds, alignment, races, shared memory nobody has written.
//
// The compiler inserts the calls (-fsanitize=thread,alignment, of which only the instrumentation is used: no runtime
// library is linked). Per byte is kept who read and wrote it last. Two accesses of which one writes and not both are
// atomic race unless they are of one thread, or a block's barrier lies between, or they are of one warp and a
// __syncwarp lies between: shuffles, votes and tensor-core instructions order no memory, and warps are not taken to run
// in lockstep. Blocks of a launch have no order among themselves; launches follow one another. Fences between blocks are
// not modelled, so a kernel with one fails here.
#pragma once
#include <unordered_map>

namespace emulator {

// Who accessed some bytes, and when.
struct Access {
  uint64_t block : 22;  // Block::serial; 0: nobody yet
  uint64_t block_barriers : 16, warp_barriers : 15, thread : 10, atomic : 1;
  UNCHECKED uint64_t bits() const {
    uint64_t bits;
    std::memcpy(&bits, this, sizeof bits);
    return bits;
  }
};

// Two of each are enough: they are of different blocks, warps or threads where there were such, so what comes later
// races with one of them if it races with any.
struct Cell { Access reads[2], writes[2]; };

constexpr size_t PAGE_BYTES = 4096, MOST_PAGES = 8192, RECENT = 64;
constexpr uint64_t MOST_BLOCKS = (1 << 22) - 1, MOST_BARRIERS = (1 << 15) - 1;

// A cell for every 4 bytes, or for 2 or 1 from the first narrower access on.
struct Page {
  unsigned shift = 2;
  std::vector<Cell> cells{PAGE_BYTES >> 2};
};

struct Shadow {
  std::unordered_map<uintptr_t, Page> pages;
  struct Recent { uintptr_t number = ~(uintptr_t)0; Page *page; } recent[RECENT];
  uint64_t first_block = 1, next_block = 1;  // of this launch, of the next one

  void clear() {
    pages.clear();
    for (Recent &entry : recent) entry = {};
    next_block = 1;
  }
  UNCHECKED Page &page(uintptr_t address) {
    Recent &entry = recent[address / PAGE_BYTES % RECENT];
    if (entry.number != address / PAGE_BYTES) entry = {address / PAGE_BYTES, &pages[address / PAGE_BYTES]};
    return *entry.page;
  }
  static void refine(Page &page, unsigned shift) {
    Page finer = {shift, std::vector<Cell>(PAGE_BYTES >> shift)};
    for (size_t i = 0; i < finer.cells.size(); i++) finer.cells[i] = page.cells[i << shift >> page.shift];
    page = finer;
  }
};
inline Shadow shadow;

inline void begin_launch(Block &block, uint64_t blocks) {
  if (shadow.next_block + blocks > MOST_BLOCKS || shadow.pages.size() > MOST_PAGES) shadow.clear();
  if (blocks >= MOST_BLOCKS) block.failed("more blocks than can be checked");
  shadow.first_block = shadow.next_block;
  block.serial = shadow.first_block - 1;
  shadow.next_block += blocks;
}

// An access in progress.
struct Touch {
  Block &block;
  uintptr_t address;
  size_t bytes;
  bool write, shared;
  Access now;

  // No barrier is between an earlier access and this one; `before` is of another thread.
  UNCHECKED bool unordered(const Access &before) const {
    if (before.block != now.block) return !shared && before.block >= shadow.first_block;
    return before.thread != now.thread && before.block_barriers == now.block_barriers &&
           (before.thread / 32 != now.thread / 32 || before.warp_barriers == now.warp_barriers);
  }
  UNCHECKED bool races(const Access &before) const { return unordered(before) && !(before.atomic && now.atomic); }

  // How far apart two unordered accesses are.
  UNCHECKED int distance(const Access &before) const {
    return before.block != now.block ? 2 : before.thread / 32 != now.thread / 32 ? 1 : 0;
  }
  UNCHECKED void remember(Access (&known)[2]) const {
    bool first = unordered(known[0]), second = unordered(known[1]);
    bool keep_first = first && (!second || distance(known[0]) >= distance(known[1]));
    known[1] = keep_first ? known[0] : second ? known[1] : Access{};
    known[0] = now;
  }

  // "4 bytes of static shared memory from byte 128 on"
  std::string place(uintptr_t at) const {
    char text[128];
    uintptr_t start = 0;
    unsigned argument = 0;
    for (unsigned i = 0; i < block.options.count; i++)
      if (block.options.arguments[i] <= at && block.options.arguments[i] > start) {
        start = block.options.arguments[i];
        argument = i;
      }
    const Range &fixed = block.static_shared, &asked = block.dynamic_shared;
    if (fixed.holds(at, 1)) std::snprintf(text, sizeof text, "byte %zu of static shared memory", (size_t)(at - fixed.begin));
    else if (asked.holds(at, 1)) std::snprintf(text, sizeof text, "byte %zu of dynamic shared memory", (size_t)(at - asked.begin));
    else if (start) std::snprintf(text, sizeof text, "byte %zu from argument %u on", (size_t)(at - start), argument);
    else std::snprintf(text, sizeof text, "address %#zx", (size_t)at);
    return text;
  }

  [[noreturn]] void fail(const std::string &what) const {
    block.failed("thread %u %s %zu bytes, %s", (unsigned)now.thread, write ? "writes" : "reads", bytes, what.c_str());
    switch_context(self().context, block.scheduler);
    std::abort();
  }

  [[noreturn]] void fail_race(uintptr_t at, const Access &before, bool wrote) const {
    uint64_t place_in_launch = before.block - shadow.first_block;
    std::string what = "race at " + place(at) + ": thread " + std::to_string(before.thread);
    if (before.block != now.block) what += " of another block (the " + std::to_string(place_in_launch + 1) + ". to run)";
    fail(what + (wrote ? " wrote" : " read") + " it and no barrier is between");
  }

  UNCHECKED void check_cell(Cell &cell, uintptr_t at) const {
    if ((write ? cell.writes : cell.reads)[0].bits() == now.bits()) return;
    if (shared && (!write || now.atomic) && cell.writes[0].block != now.block)
      fail(place(at) + " is not written in this block");
    for (const Access &before : cell.writes)
      if (races(before)) fail_race(at, before, true);
    if (!write) return remember(cell.reads);
    for (const Access &before : cell.reads)
      if (races(before)) fail_race(at, before, false);
    remember(cell.writes);
  }

  UNCHECKED void check() const {
    if (!shared && block.options.allowed && !block.options.allowed(address, bytes, write))
      fail("out of bounds: " + place(address));
    if (now.block_barriers >= MOST_BARRIERS || now.warp_barriers >= MOST_BARRIERS)
      fail("more barriers than can be checked");
    unsigned finest = __builtin_ctzll(address | bytes | 4);
    for (uintptr_t at = address; at < address + bytes;) {
      Page &page = shadow.page(at);
      if (page.shift > finest) Shadow::refine(page, finest);
      Cell *cells = page.cells.data();
      uintptr_t end = std::min((at / PAGE_BYTES + 1) * PAGE_BYTES, address + bytes);
      for (; at < end; at += (uintptr_t)1 << page.shift) check_cell(cells[at % PAGE_BYTES >> page.shift], at);
    }
  }
};

UNCHECKED inline void touch(const void *pointer, size_t bytes, bool write, bool atomic) {
  Fiber *fiber = running;
  uintptr_t address = (uintptr_t)pointer;
  if (!fiber || (address ^ (uintptr_t)fiber) < STACK_BYTES) return;
  // Its own work is not checked.
  running = nullptr;
  Block &block = *fiber->block;
  if (!write && block.parameters.holds(address, bytes)) {
    running = fiber;
    return;
  }
  bool shared = block.static_shared.holds(address, bytes) || block.dynamic_shared.holds(address, bytes);
  Access now = {};
  now.block = block.serial;
  now.block_barriers = block.barriers;
  now.warp_barriers = block.warp_barriers[fiber->index / 32];
  now.thread = fiber->index;
  now.atomic = atomic;
  Touch{block, address, bytes, write, shared, now}.check();
  running = fiber;
}

UNCHECKED inline void misaligned(const char *what) {
  if (!running) return;
  running = nullptr;
  fail(what);
}

template <size_t BYTES> UNCHECKED void touch_whole(const void *pointer, bool write) {
  if ((uintptr_t)pointer % BYTES) {
    char text[80];
    std::snprintf(text, sizeof text, "misaligned %s of %zu bytes at %p", write ? "write" : "read", BYTES, pointer);
    misaligned(text);
  }
  touch(pointer, BYTES, write, false);
}

}  // namespace emulator

// --- what the compiler calls

#define ACCESSES(bytes)                                                                                          \
  UNCHECKED void __tsan_read##bytes(void *at) { emulator::touch_whole<bytes>(at, false); }                       \
  UNCHECKED void __tsan_write##bytes(void *at) { emulator::touch_whole<bytes>(at, true); }                       \
  UNCHECKED void __tsan_unaligned_read##bytes(void *at) { emulator::touch(at, bytes, false, false); }            \
  UNCHECKED void __tsan_unaligned_write##bytes(void *at) { emulator::touch(at, bytes, true, false); }
#pragma GCC visibility push(hidden)
extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
UNCHECKED void __tsan_read_range(void *at, size_t bytes) { emulator::touch(at, bytes, false, false); }
UNCHECKED void __tsan_write_range(void *at, size_t bytes) { emulator::touch(at, bytes, true, false); }
UNCHECKED void __tsan_init() {}
UNCHECKED void __tsan_func_entry(void *) {}
UNCHECKED void __tsan_func_exit() {}
UNCHECKED void __tsan_vptr_update(void *, void *) {}
UNCHECKED void __tsan_vptr_read(void *) {}

// The sanitizer's record of the place: a file's name, line and column come first.
struct UbsanPlace { const char *file; unsigned line, column; };
UNCHECKED void __ubsan_handle_type_mismatch_v1(const UbsanPlace *place, uintptr_t address) {
  char text[256];
  std::snprintf(text, sizeof text, "misaligned access at %#zx, %s:%u", (size_t)address, place->file, place->line);
  emulator::misaligned(text);
}
}
#pragma GCC visibility pop
#undef ACCESSES
