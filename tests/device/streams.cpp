// Streams, events, and the order of work: the one in which it is run here, and the one that a program can rely on.
#include <unistd.h>
#include <algorithm>
#include <cstdlib>
#include "device.hpp"

namespace sim {
namespace {

bool eager(unsigned number) {
  std::string order = setting("SIM_ORDER", "eager");
  // Stream 0 is the legacy default one, 1 the first that is made: the program's computing stream.
  return order == "eager" || (order == "copies_first" && number > 1) || (order == "computing_first" && number <= 1);
}

Stream *new_stream(bool blocking) {
  auto made = std::make_unique<Stream>();
  unsigned number = state.streams.size();
  made->agent = number + 1;
  made->eager = eager(number);
  made->blocking = blocking;
  // A stream that is gone leaves its place in the clocks to a new one.
  for (auto &old : state.streams)
    if (old->destroyed && old->agent && old->done == old->queued) {
      made->agent = std::exchange(old->agent, 0);
      made->clock = old->clock;
      break;
    }
  state.streams.push_back(std::move(made));
  return state.streams.back().get();
}

void push(Stream *stream, Step step) {
  stream->queue.push_back(std::move(step));
  stream->queued++;
  if (stream->eager) drain(stream, stream->queued);
}

// `stream` goes on when `other` is as far as it is now.
void order_behind(Stream *stream, Stream *other) {
  stream->clock.join(other->clock);
  if (other->done < other->queued) push(stream, [other, until = other->queued] { return drain(other, until); });
}

// The legacy default stream and those that are not non-blocking wait for each other.
void order_legacy(Stream *stream) {
  if (!stream->blocking) return;
  if (stream != legacy_stream()) return order_behind(stream, legacy_stream());
  for (auto &other : state.streams)
    if (other->blocking && other.get() != stream && !other->capture) order_behind(stream, other.get());
}

void declare(const Range &range, const Access &access, const Clock &clock) {
  auto found = holding(range.address);
  if (!range.bytes || found == state.memory.end()) return;
  size_t begin = range.address - found->first, end = std::min(begin + range.bytes, found->second.size);
  if (begin >= end) return;
  auto conflict = found->second.history.add(begin, end, access, clock);
  if (!conflict) return;
  auto words = [](const Access &of) { return of.agent == HOST ? std::string("the host") : "stream " + std::to_string(of.agent - 1); };
  hazard("race: %s (%s, %s) is not ordered behind %s (%s, %s) of the same memory, %zu bytes at offset %zu of an allocation of %zu", access.what,
         access.writes ? "writes" : "reads", words(access).c_str(), conflict->what, conflict->writes ? "writes" : "reads", words(*conflict).c_str(), end - begin, begin, found->second.size);
}

uint64_t hash(const void *address, size_t bytes) {
  uint64_t sum = bytes;
  auto at = (const char *)address;
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t word;
    memcpy(&word, at + i, 8);
    sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
    sum ^= sum >> 29;
  }
  for (size_t i = bytes / 8 * 8; i < bytes; i++) sum = (sum ^ (unsigned char)at[i]) * 0x9e3779b97f4a7c15u;
  return sum;
}

// What a node reads of page-locked memory, to see whether the host changes it too early.
void remember_host_reads(const Node &node, const Access &access) {
  for (const Range &range : node.ranges)
    if (!range.writes && range.bytes && !on_device(range.address)) {
      auto address = (const void *)range.address;
      state.host_reads.push_back({address, range.bytes, hash(address, range.bytes), access});
    }
}

// The host gets to know what `clock` knows.
void host_learns(const Clock &clock) {
  state.host.join(clock);
  auto done = [](const HostRead &read) {
    if (!read.access.before(state.host)) return false;
    bool alive = holding((uint64_t)read.address) != state.memory.end();
    if (alive && hash(read.address, read.bytes) != read.hash)
      hazard("the host has changed page-locked memory that %s (stream %u) may still have been reading, %zu bytes", read.access.what, read.access.agent - 1, read.bytes);
    return true;
  };
  auto &reads = state.host_reads;
  reads.erase(std::remove_if(reads.begin(), reads.end(), done), reads.end());
}

bool run(const Node &node) {
  double from = now();
  bool done = node.step();
  if (done) count(node.name, now() - from);
  return done;
}

}  // namespace

State state;
thread_local CUcontext current_context;

Stream *legacy_stream() { return state.streams.front().get(); }

void start() {
  if (state.arena) return;
  reserve_arena();
  new_stream(true);
  load_kernels();
  report_at_exit();
}

Stream *stream_of(CUstream handle) {
  if (!current_context) hazard("work on a stream from a thread on which no context is current");
  if ((uintptr_t)handle <= 2) return legacy_stream();
  if (((Stream *)handle)->destroyed) hazard("use of a stream that was destroyed");
  return (Stream *)handle;
}

bool drain(Stream *stream, uint64_t until) {
  if (stream->running || stream->done >= until) return stream->done >= until;
  Open open;
  stream->running = true;
  bool done = true;
  while (done && stream->done < until) {
    // Out of the queue before it runs: it may queue more.
    Step step = std::move(stream->queue.front());
    done = step();
    if (done) stream->queue.pop_front(), stream->done++;
    else stream->queue.front() = std::move(step);
  }
  stream->running = false;
  return done;
}

void wait_until(Stream *stream, uint64_t until) {
  while (!drain(stream, until)) usleep(50);
}

void wait_for(Stream *stream) {
  wait_until(stream, stream->queued);
  host_learns(stream->clock);
}

void wait_for_all() {
  for (size_t i = 0; i < state.streams.size(); i++) wait_for(state.streams[i].get());
}

bool host_access(const char *name, const Range &range) {
  auto found = holding(range.address);
  if (found == state.memory.end()) return true;
  Access access = {HOST, state.host.advance(HOST), name, range.writes};
  size_t begin = range.address - found->first;
  auto conflict = found->second.history.add(begin, std::min(begin + range.bytes, found->second.size), access, state.host);
  if (conflict)
    hazard("race: %s by the host, while %s (stream %u) may still be %s it", name, conflict->what, conflict->agent - 1, conflict->writes ? "writing" : "reading");
  return !conflict;
}

CUresult submit(Stream *stream, Node node) {
  if (Capture *capture = stream->capture.get()) {
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!pthread_equal(capture->thread, pthread_self())) hazard("%s of another thread goes into the graph that is being captured", node.name);
    for (const Range &range : node.ranges)
      if (on_device(range.address)) alive(range, node.name);
    capture->graph->nodes.push_back(std::move(node));
    return CUDA_SUCCESS;
  }
  order_legacy(stream);
  stream->clock.join(state.host);
  Access access = {stream->agent, stream->clock.advance(stream->agent), node.name, false};
  for (const Range &range : node.ranges) {
    if (on_device(range.address) && !alive(range, node.name)) continue;
    access.writes = range.writes;
    declare(range, access, stream->clock);
  }
  access.writes = false;
  remember_host_reads(node, access);
  push(stream, [node = std::move(node)] { return run(node); });
  return CUDA_SUCCESS;
}

CUresult submit_graph(Stream *stream, const std::shared_ptr<Graph> &graph) {
  order_legacy(stream);
  stream->clock.join(state.host);
  Access access = {stream->agent, stream->clock.advance(stream->agent), "", false};
  for (const Node &node : graph->nodes) {
    access.what = node.name;
    for (const Range &range : node.ranges) {
      if (graph->owns(range.address) || (on_device(range.address) && !alive(range, node.name))) continue;
      access.writes = range.writes;
      declare(range, access, stream->clock);
    }
    access.writes = false;
    remember_host_reads(node, access);
  }
  push(stream, at_once([graph] {
    for (const Node &node : graph->nodes) run(node);
  }));
  return CUDA_SUCCESS;
}

int enqueue_steps(void *stream, const char *name, Step step, std::vector<Range> ranges) {
  std::lock_guard<std::recursive_mutex> guard(state.mutex);
  start();
  return submit(stream_of((CUstream)stream), {name, std::move(step), std::move(ranges)});
}

int enqueue(void *stream, const char *name, Work work, std::vector<Range> ranges) { return enqueue_steps(stream, name, at_once(std::move(work)), std::move(ranges)); }

}  // namespace sim

using namespace sim;

extern "C" {
CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
  CALL;
  *stream = (CUstream)new_stream(!(flags & CU_STREAM_NON_BLOCKING));
  return CUDA_SUCCESS;
}
CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
// The driver lets queued work go on; here it is done now, or would be forgotten.
CUresult cuStreamDestroy(CUstream handle) {
  CALL;
  Stream *stream = stream_of(handle);
  wait_until(stream, stream->queued);
  stream->destroyed = true;
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream handle) {
  CALL;
  Stream *stream = stream_of(handle);
  if (CUresult refused = may_wait(stream, __func__)) return refused;
  wait_for(stream);
  return CUDA_SUCCESS;
}
CUresult cuStreamQuery(CUstream handle) {
  CALL;
  Stream *stream = stream_of(handle);
  if (CUresult refused = may_wait(stream, __func__)) return refused;
  if (stream->done < stream->queued) {
    drain(stream, stream->done + 1);  // or asking again and again would never end
    return CUDA_ERROR_NOT_READY;
  }
  wait_for(stream);
  return CUDA_SUCCESS;
}
CUresult cuCtxSynchronize() {
  CALL;
  for (auto &stream : state.streams)
    if (CUresult refused = may_wait(stream.get(), __func__)) return refused;
  wait_for_all();
  return CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream handle, CUevent of_event, unsigned) {
  CALL;
  Stream *stream = stream_of(handle);
  Event &event = *(Event *)of_event;
  if (stream->capture && stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (stream->capture && !event.captured) return invalidate(stream, CUDA_ERROR_STREAM_CAPTURE_ISOLATION, __func__);
  if (!stream->capture && event.captured) {
    note("%s: a capture over several streams is not covered", __func__);
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  if (!event.stream || event.captured || is_set("SIM_DROP_WAITS")) return CUDA_SUCCESS;
  stream->clock.join(event.clock);
  if (event.stream != stream && event.stream->done < event.at) push(stream, [of = event.stream, at = event.at] { return drain(of, at); });
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent *event, unsigned flags) {
  CALL;
  auto made = new Event;
  made->timed = !(flags & CU_EVENT_DISABLE_TIMING);
  *event = (CUevent)made;
  return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent event) {
  CALL;
  delete (Event *)event;
  return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent of_event, CUstream handle) {
  CALL;
  Event &event = *(Event *)of_event;
  Stream *stream = stream_of(handle);
  if (stream->capture && stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  event.stream = stream;
  event.captured = stream->capture != nullptr;
  if (event.captured) return CUDA_SUCCESS;
  order_legacy(stream);
  stream->clock.join(state.host);
  event.when = std::make_shared<double>(0);
  push(stream, at_once([when = event.when] { *when = now(); }));
  event.at = stream->queued;
  event.clock = stream->clock;
  return CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent of_event) {
  CALL;
  Event &event = *(Event *)of_event;
  if (event.captured) return invalidate(event.stream, CUDA_ERROR_CAPTURED_EVENT, __func__);
  if (!event.stream || is_set("SIM_DROP_SYNCS")) return CUDA_SUCCESS;
  wait_until(event.stream, event.at);
  host_learns(event.clock);
  return CUDA_SUCCESS;
}
CUresult cuEventQuery(CUevent of_event) {
  CALL;
  Event &event = *(Event *)of_event;
  if (event.captured) return invalidate(event.stream, CUDA_ERROR_CAPTURED_EVENT, __func__);
  if (CUresult refused = unsafe_call(__func__)) return refused;
  if (!event.stream) return CUDA_SUCCESS;
  if (event.stream->done < event.at) {
    drain(event.stream, event.stream->done + 1);
    return CUDA_ERROR_NOT_READY;
  }
  host_learns(event.clock);
  return CUDA_SUCCESS;
}
CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent from, CUevent to) {
  CALL;
  for (Event *event : {(Event *)from, (Event *)to}) {
    if (!event->stream || event->captured || !event->timed) return CUDA_ERROR_INVALID_HANDLE;
    if (event->stream->done < event->at) return CUDA_ERROR_NOT_READY;
  }
  *milliseconds = (*((Event *)to)->when - *((Event *)from)->when) * 1e3;
  return CUDA_SUCCESS;
}
#undef cuEventElapsedTime
CUresult cuEventElapsedTime(float *milliseconds, CUevent from, CUevent to) { return cuEventElapsedTime_v2(milliseconds, from, to); }
}
