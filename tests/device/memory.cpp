// Device memory: one arena of this process. Every allocation has a zone of known bytes behind it; freed memory becomes NaN
// in the order of its stream, and is given out again on that stream at once, as the driver's pool does.
#include <sys/mman.h>
#include <cstdlib>
#include "device.hpp"

namespace sim {
namespace {

constexpr size_t ARENA = 64ull << 30, ALIGN = 512, ZONE = 256;
constexpr int FREED = 0xff, UNTOUCHED = 0xa5;
// Allocations of so much are made for their size only: filling them would take the machine's memory.
constexpr size_t HUGE_ROOM = 1ull << 30;

// Free rooms by their size and whose they are: a stream's own, a graph's own, or anyone's (null).
std::multimap<std::pair<size_t, const void *>, uint64_t> spare;

size_t total_memory() { return number("SIM_MEMORY", 8ull << 30); }
// What the driver takes for the context itself.
size_t context_memory() { return number("SIM_CONTEXT", 64ull << 20); }

size_t room_for(size_t bytes) {
  size_t room = (bytes + ZONE + ALIGN - 1) / ALIGN * ALIGN;
  return room > 1 << 20 ? (room + 65535) / 65536 * 65536 : room;
}

// A room out of those that are free for `owner`, or a new one; 0: the arena is full.
uint64_t find_room(size_t room, const void *owner, bool anyones) {
  auto found = spare.find({room, owner});
  if (found == spare.end() && anyones) found = spare.find({room, nullptr});
  if (found != spare.end()) {
    uint64_t address = found->second;
    spare.erase(found);
    return address;
  }
  if (state.arena_end + room > ARENA) return 0;
  char *address = state.arena + state.arena_end;
  state.arena_end += room;
  Open open;
  if (room < HUGE_ROOM) memset(address, FREED, room);
  return (uint64_t)address;
}

void mark_zone(uint64_t address, size_t size, size_t room) { memset((char *)address + size, UNTOUCHED, room - size); }

void check_zone(uint64_t address, size_t size, size_t room) {
  for (size_t i = size; i < room; i++)
    if (((uint8_t *)address)[i] != UNTOUCHED) {
      hazard("%zu bytes behind the end of an allocation of %zu bytes something has been written", i - size, size);
      return;
    }
}

// Takes memory in the order of `stream`; with none at once.
CUresult take(CUdeviceptr *address, size_t bytes, Stream *stream) {
  *address = 0;
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  Capture *capture = stream ? stream->capture.get() : nullptr;
  if (capture && capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  // A graph's memory is taken when it is launched: a capture gives it an address.
  if (!capture && !fits(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  size_t room = room_for(bytes);
  const void *owner = capture ? (const void *)capture->graph.get() : stream;
  // What a graph allocates is never what was freed outside.
  uint64_t found = find_room(room, owner, !capture);
  if (!found) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = found;
  // Without a stream it is there at once, for everyone.
  Access made = stream ? Access{stream->agent, stream->clock.of(stream->agent), "its allocation", true} : Access{};
  state.memory[found] = {bytes, room, capture ? Kind::graph : Kind::pool, History(bytes, made)};
  if (capture) {
    capture->graph->unfreed[found] = bytes;
    capture->graph->rooms[found] = room;
    capture->graph->usage.add(bytes);
  } else {
    state.pool.add(bytes);
    if (state.pool.now > state.pool_reserve.now) state.pool_reserve.add(state.pool.now - state.pool_reserve.now);
  }
  if (!stream) {
    Open open;
    mark_zone(found, bytes, room);
    return CUDA_SUCCESS;
  }
  // In the stream's order: what was there before may still be in use.
  return submit(stream, {"allocation", at_once([=] { mark_zone(found, bytes, room); }), {}});
}

// Gives memory back in the order of `stream`, or at once.
CUresult give_back(CUdeviceptr address, Stream *stream, const char *call) {
  auto found = state.memory.find(address);
  if (found == state.memory.end() || found->second.kind == Kind::pinned) {
    hazard("%s: %#llx is no allocation (or was freed before)", call, address);
    return CUDA_ERROR_INVALID_VALUE;
  }
  size_t size = found->second.size, room = found->second.room;
  bool of_graph = found->second.kind == Kind::graph;
  Range whole = {address, size, true};
  auto poison = [=] {
    check_zone(address, size, room);
    if (room < HUGE_ROOM) memset((void *)address, FREED, room);
  };
  if (stream) {
    if (CUresult failed = submit(stream, {"free", at_once(poison), {whole}})) return failed;
  } else {
    Open open;
    host_access("free", whole);
    poison();
  }
  state.memory.erase(address);
  if (stream && stream->capture) {
    Graph &graph = *stream->capture->graph;
    graph.unfreed.erase(address);
    graph.usage.now -= size;
    // Later nodes of the same graph may have it again.
    spare.insert({{room, &graph}, address});
  } else if (of_graph) {
    state.graph_used.now -= std::min(state.graph_used.now, size);
  } else {
    state.pool.now -= size;
    // The pool may hand it out again on the same stream at once.
    spare.insert({{room, stream}, address});
  }
  return CUDA_SUCCESS;
}

CUresult take_pinned(void **host, size_t bytes) {
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  if (posix_memalign(host, 4096, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  memset(*host, FREED, bytes);
  state.memory[(uint64_t)*host] = {bytes, bytes, Kind::pinned, History(bytes)};
  return CUDA_SUCCESS;
}

}  // namespace

Open::Open() {
  static const bool protects = is_set("SIM_PROTECT");
  if (protects && state.arena && depth()++ == 0) mprotect(state.arena, (state.arena_end + 4095) / 4096 * 4096, PROT_READ | PROT_WRITE);
}
Open::~Open() {
  static const bool protects = is_set("SIM_PROTECT");
  if (protects && state.arena && --depth() == 0) mprotect(state.arena, (state.arena_end + 4095) / 4096 * 4096, PROT_NONE);
}
int &Open::depth() {
  static int open;
  return open;
}

void reserve_arena() {
  state.arena = (char *)mmap(nullptr, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  state.arena_end = ALIGN;
}

bool fits(size_t bytes) { return state.pool.now + state.graph_reserve.now + bytes <= total_memory(); }

bool on_device(uint64_t address) { return state.arena && address >= (uint64_t)state.arena && address < (uint64_t)state.arena + ARENA; }

std::map<uint64_t, Allocation>::iterator holding(uint64_t address) {
  auto next = state.memory.upper_bound(address);
  if (next == state.memory.begin()) return state.memory.end();
  auto before = std::prev(next);
  return address <= before->first + before->second.size ? before : state.memory.end();
}

bool alive(const Range &range, const char *what) {
  auto found = holding(range.address);
  if (found == state.memory.end()) {
    hazard("%s: %#lx is not allocated (or was freed before)", what, range.address);
    return false;
  }
  size_t offset = range.address - found->first;
  if (offset + range.bytes <= found->second.size) return true;
  hazard("%s: %zu bytes at offset %zu of an allocation of %zu", what, range.bytes, offset, found->second.size);
  return false;
}

Graph::~Graph() {
  for (auto entry = spare.begin(); entry != spare.end();) entry = entry->first.second == this ? spare.erase(entry) : std::next(entry);
  // Memory that outlives the graph is still someone's.
  for (auto [address, room] : rooms)
    if (!state.memory.count(address)) spare.insert({{room, nullptr}, address});
}

}  // namespace sim

using namespace sim;

extern "C" {
CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes) {
  CALL;
  if (CUresult refused = unsafe_call(__func__)) return refused;
  return take(address, bytes, nullptr);
}
CUresult cuMemFree(CUdeviceptr address) {
  CALL;
  if (CUresult refused = unsafe_call(__func__)) return refused;
  for (auto &stream : state.streams) wait_for(stream.get());
  return give_back(address, nullptr, __func__);
}
CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream) {
  CALL;
  return take(address, bytes, stream_of(stream));
}
CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
  CALL;
  Stream *stream = stream_of(handle);
  if (stream->capture && !stream->capture->invalid && !stream->capture->graph->unfreed.count(address)) {
    hazard("%s in a capture: %#llx is not of that graph", __func__, address);
    return invalidate(stream, CUDA_ERROR_INVALID_VALUE, __func__);
  }
  return give_back(address, stream, __func__);
}
CUresult cuMemHostAlloc(void **host, size_t bytes, unsigned) {
  CALL;
  if (CUresult refused = unsafe_call(__func__)) return refused;
  return take_pinned(host, bytes);
}
// The driver waits for nothing here. What is still queued reads or writes poison, in memory that is kept for it.
CUresult cuMemFreeHost(void *host) {
  CALL;
  if (CUresult refused = unsafe_call(__func__)) return refused;
  auto found = state.memory.find((uint64_t)host);
  if (found == state.memory.end() || found->second.kind != Kind::pinned) {
    hazard("%s: %p is no page-locked memory (or was freed before)", __func__, host);
    return CUDA_ERROR_INVALID_VALUE;
  }
  size_t bytes = found->second.size;
  bool idle = host_access("the free of it", {(uint64_t)host, bytes, true});
  state.memory.erase(found);
  memset(host, FREED, bytes);
  if (idle) free(host);
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice) {
  CALL;
  *bytes = total_memory();
  return CUDA_SUCCESS;
}
// The pool keeps what it has had, as the program asks it to.
CUresult cuMemGetInfo(size_t *free, size_t *total) {
  CALL;
  *total = total_memory();
  size_t taken = context_memory() + state.pool_reserve.now + state.graph_reserve.now;
  *free = *total - std::min(*total, taken);
  return CUDA_SUCCESS;
}

static char the_pool;
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice) {
  CALL;
  *pool = (CUmemoryPool)&the_pool;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice) {
  CALL;
  *pool = (CUmemoryPool)&the_pool;
  return CUDA_SUCCESS;
}
CUresult cuMemPoolTrimTo(CUmemoryPool, size_t keep) {
  CALL;
  state.pool_reserve.now = std::max(state.pool.now, std::min(state.pool_reserve.now, keep));
  return CUDA_SUCCESS;
}
CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void *value) {
  CALL;
  bool used = attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH;
  if (!used && attribute != CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH) return CUDA_SUCCESS;
  // A mark can only be set back.
  if (*(cuuint64_t *)value != 0) return CUDA_ERROR_INVALID_VALUE;
  Usage &usage = used ? state.pool : state.pool_reserve;
  usage.most = usage.now;
  return CUDA_SUCCESS;
}
CUresult cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void *value) {
  CALL;
  cuuint64_t &bytes = *(cuuint64_t *)value;
  switch (attribute) {
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: bytes = state.pool.now; return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: bytes = state.pool.most; return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: bytes = state.pool_reserve.now; return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: bytes = state.pool_reserve.most; return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: bytes = UINT64_MAX; return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}
// The memory of graphs, which is not the pool's.
CUresult cuDeviceGetGraphMemAttribute(CUdevice, CUgraphMem_attribute attribute, void *value) {
  CALL;
  cuuint64_t &bytes = *(cuuint64_t *)value;
  switch (attribute) {
    case CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT: bytes = state.graph_used.now; return CUDA_SUCCESS;
    case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH: bytes = state.graph_used.most; return CUDA_SUCCESS;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT: bytes = state.graph_reserve.now; return CUDA_SUCCESS;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH: bytes = state.graph_reserve.most; return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}
CUresult cuDeviceSetGraphMemAttribute(CUdevice, CUgraphMem_attribute attribute, void *value) {
  CALL;
  bool used = attribute == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH;
  if ((!used && attribute != CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH) || *(cuuint64_t *)value != 0) return CUDA_ERROR_INVALID_VALUE;
  Usage &usage = used ? state.graph_used : state.graph_reserve;
  usage.most = usage.now;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGraphMemTrim(CUdevice) {
  CALL;
  state.graph_reserve.now = state.graph_used.now;
  return CUDA_SUCCESS;
}
}
