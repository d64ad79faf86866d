// Captured graphs, and what may not be called while one is captured.
//
// As the driver's manual has it: a call that is not allowed makes the capture invalid; from then on all that goes to the
// stream fails until the capture is ended, which gives no graph.
#include "device.hpp"

namespace sim {

CUresult invalidate(Stream *stream, CUresult why, const char *call) {
  note("%s is not allowed during a capture: there will be no graph", call);
  if (stream->capture) stream->capture->invalid = true;
  return why;
}

CUresult unsafe_call(const char *call) {
  CUresult refused = CUDA_SUCCESS;
  for (auto &stream : state.streams) {
    if (!stream->capture) continue;
    CUstreamCaptureMode mode = stream->capture->mode;
    bool own = pthread_equal(stream->capture->thread, pthread_self());
    if (mode == CU_STREAM_CAPTURE_MODE_GLOBAL || (mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && own))
      refused = invalidate(stream.get(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, call);
  }
  return refused;
}

CUresult may_wait(Stream *stream, const char *call) {
  return stream->capture ? invalidate(stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, call) : CUDA_SUCCESS;
}

CUresult legacy_call(const char *call) {
  if (CUresult refused = unsafe_call(call)) return refused;
  for (auto &stream : state.streams)
    if (stream->blocking && stream->capture) return invalidate(stream.get(), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, call);
  return CUDA_SUCCESS;
}

bool Graph::owns(uint64_t address) const {
  auto next = rooms.upper_bound(address);
  if (next == rooms.begin()) return false;
  --next;
  return address < next->first + next->second;
}

namespace {

struct Executable {
  std::shared_ptr<Graph> graph;
  bool frees;  // what a launch left allocated, when it is launched again
};

// A graph's memory is taken when it is first uploaded or launched, and kept.
CUresult take_memory(Graph &graph) {
  size_t reserved = state.graph_reserve.now;
  if (graph.usage.most > reserved) {
    if (!fits(graph.usage.most - reserved)) return CUDA_ERROR_OUT_OF_MEMORY;
    state.graph_reserve.add(graph.usage.most - reserved);
  }
  return CUDA_SUCCESS;
}

size_t left_by(const Graph &graph) {
  size_t bytes = 0;
  for (auto [address, size] : graph.unfreed) bytes += size;
  return bytes;
}

}  // namespace
}  // namespace sim

using namespace sim;

extern "C" {
CUresult cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
  CALL;
  Stream *stream = stream_of(handle);
  if (stream == legacy_stream()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capture = std::make_unique<Capture>();
  stream->capture->mode = mode;
  stream->capture->thread = pthread_self();
  return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status) {
  CALL;
  Stream *stream = stream_of(handle);
  *status = !stream->capture           ? CU_STREAM_CAPTURE_STATUS_NONE
            : stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                       : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream handle, CUgraph *graph) {
  CALL;
  Stream *stream = stream_of(handle);
  *graph = nullptr;
  if (!stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  if (stream->capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(stream->capture->thread, pthread_self()))
    return invalidate(stream, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, __func__);
  auto capture = std::move(stream->capture);
  if (capture->invalid) {
    // What was allocated in it is no memory.
    for (auto [address, size] : capture->graph->unfreed) state.memory.erase(address);
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  }
  auto &captured = capture->graph;
  size_t kernels = 0;
  for (const Node &node : captured->nodes) kernels += !strncmp(node.name, "kernel ", 7);
  note("a graph of %zu nodes, %zu kernels, %zu bytes that it leaves allocated", captured->nodes.size(), kernels, left_by(*captured));
  *graph = (CUgraph) new std::shared_ptr<Graph>(captured);
  return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags) {
  CALL;
  auto &captured = *(std::shared_ptr<Graph> *)graph;
  *executable = (CUgraphExec) new Executable{captured, (flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0};
  return CUDA_SUCCESS;
}
CUresult cuGraphUpload(CUgraphExec executable, CUstream handle) {
  CALL;
  Stream *stream = stream_of(handle);
  if (CUresult refused = may_wait(stream, __func__)) return refused;
  return take_memory(*((Executable *)executable)->graph);
}
CUresult cuGraphLaunch(CUgraphExec handle, CUstream of_stream) {
  CALL;
  auto &executable = *(Executable *)handle;
  Stream *stream = stream_of(of_stream);
  if (stream->capture) return invalidate(stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, __func__);
  Graph &graph = *executable.graph;
  if (CUresult failed = take_memory(graph)) return failed;
  bool again = std::exchange(graph.launched, true);
  for (auto [address, size] : graph.unfreed) {
    if (!again || !state.memory.count(address)) continue;
    // Without the flag what a launch has left must be freed first.
    if (!executable.frees) return CUDA_ERROR_INVALID_VALUE;
    state.graph_used.now -= std::min(state.graph_used.now, size);
  }
  state.graph_used.add(graph.usage.most);
  state.graph_used.now -= graph.usage.most - left_by(graph);
  return submit_graph(stream, executable.graph);
}
CUresult cuGraphExecDestroy(CUgraphExec executable) {
  CALL;
  delete (Executable *)executable;
  return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) {
  CALL;
  delete (std::shared_ptr<Graph> *)graph;
  return CUDA_SUCCESS;
}
CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *) {
  CALL;
  note("%s is not covered", __func__);
  return CUDA_ERROR_NOT_SUPPORTED;
}
}
