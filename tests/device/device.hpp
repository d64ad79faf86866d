// The device's state, shared by the files that make up libcuda.
#pragma once
#include <cuda.h>
#include <pthread.h>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>
#include "clocks.hpp"
#include "kernels/table.hpp"
#include "sim.hpp"

namespace sim {

// --- settings (README.md lists them)
const char *setting(const char *name, const char *otherwise);
size_t number(const char *name, size_t otherwise);
inline bool is_set(const char *name) { return setting(name, nullptr) != nullptr; }

// --- memory
enum class Kind { pool, graph, pinned };
struct Allocation {
  size_t size;  // as asked for
  size_t room;  // as taken, with the zone behind it
  Kind kind;
  History history;
};
struct Usage {
  size_t now = 0, most = 0;
  void add(size_t bytes) { most = std::max(most, now += bytes); }
};

// --- work
// Goes on with a piece of work; whether it is done.
using Step = std::function<bool()>;

struct Node {
  const char *name;
  Step step;
  std::vector<Range> ranges;
};
// Work that is done in one step.
template <class Run> Step at_once(Run run) {
  return [run]() mutable {
    run();
    return true;
  };
}

// A captured graph. The memory that its nodes allocate is its own as long as it lives.
struct Graph {
  std::vector<Node> nodes;
  std::map<uint64_t, size_t> unfreed;  // allocated in the graph, not freed in it
  std::map<uint64_t, size_t> rooms;    // all that it allocates
  Usage usage;
  bool launched = false;

  Graph() = default;
  Graph(const Graph &) = delete;
  ~Graph();
  bool owns(uint64_t address) const;
};

struct Capture {
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
  CUstreamCaptureMode mode;
  pthread_t thread;
  bool invalid = false;
};

// A queue of work. How late it is worked off is the setting SIM_ORDER; which work is ordered before which is in the clock.
struct Stream {
  unsigned agent;
  bool eager;
  bool blocking;  // ordered with the legacy default stream
  bool destroyed = false, running = false;
  std::deque<Step> queue;
  uint64_t queued = 0, done = 0;
  Clock clock;
  std::unique_ptr<Capture> capture;
};

struct Event {
  Stream *stream = nullptr;
  uint64_t at = 0;  // as much of the stream's work is before it
  Clock clock;
  std::shared_ptr<double> when;  // written when the stream comes there
  bool timed = true, captured = false;
};

struct Function {
  std::string name;
  std::vector<size_t> sizes;  // of the parameters, as the PTX has them
  size_t most_threads = 1024;
  size_t static_shared = 0;
  size_t most_dynamic = 0;
  const Entry *entry = nullptr;  // null where there is no C++ of it
};
struct Module {
  std::map<std::string, std::unique_ptr<Function>> functions;
};

// A copy that reads page-locked memory, until the host knows that it is done: what it reads must stay as it was.
struct HostRead {
  const void *address;
  size_t bytes;
  uint64_t hash;
  Access access;
};

// --- what there is, used with `mutex` held
struct State {
  std::recursive_mutex mutex;
  char *arena = nullptr;  // all device memory, reserved once
  size_t arena_end = 0;
  std::map<uint64_t, Allocation> memory;
  Usage pool, pool_reserve, graph_used, graph_reserve;
  std::vector<HostRead> host_reads;
  std::vector<std::unique_ptr<Stream>> streams;  // the first is the legacy default stream
  Clock host;
};
extern State state;
extern thread_local CUcontext current_context;

// Opens the device; the first call does.
void start();
// A stream by the driver's handle.
Stream *stream_of(CUstream handle);
Stream *legacy_stream();

// --- queueing (streams.cpp)
// Queues a node, or adds it to the graph that the stream captures, and declares what it touches.
CUresult submit(Stream *stream, Node node);
// As submit, for all nodes of a graph in one piece.
CUresult submit_graph(Stream *stream, const std::shared_ptr<Graph> &graph);
// Works off a stream up to its `until`-th work, as far as that is possible without waiting for other processes; whether
// all is done.
bool drain(Stream *stream, uint64_t until);
// The host waits for a stream's first `until` works.
void wait_until(Stream *stream, uint64_t until);
// The host waits for all that is queued on a stream.
void wait_for(Stream *stream);
// The host waits for all that is queued.
void wait_for_all();
// Declares what the host itself does with memory; false where it comes in the way of queued work.
bool host_access(const char *name, const Range &range);

// --- captures (graphs.cpp)
// Ends a capture's validity: the stream gives errors until the capture ends. Gives `why` back.
CUresult invalidate(Stream *stream, CUresult why, const char *call);
// Refuses a call that may wait for the device where that is forbidden by a capture, which is then invalid.
CUresult unsafe_call(const char *call);
// Refuses to wait for a stream that captures.
CUresult may_wait(Stream *stream, const char *call);
// Refuses to use the legacy default stream while a stream that it would wait for captures.
CUresult legacy_call(const char *call);

// --- memory (memory.cpp)
void reserve_arena();
bool fits(size_t bytes);
bool on_device(uint64_t address);
// The allocation that an address is in, its end included; the end of the map if there is none.
std::map<uint64_t, Allocation>::iterator holding(uint64_t address);
// Reports a range that is not inside one allocation.
bool alive(const Range &range, const char *what);

// While this lives, device memory can be read and written by the host (SIM_PROTECT).
class Open {
 public:
  Open();
  ~Open();

 private:
  static int &depth();
};

// --- kernels (modules.cpp)
void load_kernels();

// --- calls (settings.cpp)
double now();
void count(const std::string &name, double seconds = 0);
// Writes SIM_COUNTS at the end of the process.
void report_at_exit();

}  // namespace sim

// Every call of the driver begins with this.
#define CALL                                                      \
  std::lock_guard<std::recursive_mutex> guard(sim::state.mutex);  \
  sim::start();                                                   \
  sim::count(__func__);                                           \
  if (int code = sim::asked_failure(__func__)) return (CUresult)code
