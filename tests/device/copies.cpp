// Copies and fills.
#include <cstring>
#include "device.hpp"

namespace sim {
namespace {

bool is_pinned(const void *host) {
  auto found = holding((uint64_t)host);
  return found != state.memory.end() && found->second.kind == Kind::pinned && (uint64_t)host < found->first + found->second.size;
}

// A copy whose ends are on the device, or page-locked; both ends are checked.
CUresult copy(const char *name, void *to, const void *from, size_t bytes, Stream *stream) {
  Range target = writes(to, bytes), source = reads(from, bytes);
  if (!alive(target, name) || !alive(source, name)) return CUDA_ERROR_INVALID_VALUE;
  return submit(stream, {name, at_once([=] { memmove(to, from, bytes); }), {target, source}});
}

// The driver takes pageable memory over before it returns.
CUresult copy_from_pageable(const char *name, void *to, const void *from, size_t bytes, Stream *stream) {
  Range target = writes(to, bytes);
  if (!alive(target, name)) return CUDA_ERROR_INVALID_VALUE;
  if (on_device((uint64_t)from)) hazard("%s: the source is device memory", name);
  if (stream->capture) hazard("%s: %zu bytes of pageable memory go into a graph, which will read them when it is launched", name, bytes);
  auto kept = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
  return submit(stream, {name, at_once([=] { memcpy(to, kept->data(), bytes); }), {target}});
}

// Waits for the copy, as the driver does.
CUresult copy_to_pageable(const char *name, void *to, const void *from, size_t bytes, Stream *stream) {
  Range source = reads(from, bytes);
  if (!alive(source, name)) return CUDA_ERROR_INVALID_VALUE;
  if (on_device((uint64_t)to)) hazard("%s: the target is device memory", name);
  if (stream->capture) hazard("%s: a copy of %zu bytes to pageable memory goes into a graph", name, bytes);
  if (CUresult failed = submit(stream, {name, at_once([=] { memcpy(to, from, bytes); }), {source}})) return failed;
  if (!stream->capture) wait_for(stream);
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace sim

using namespace sim;

extern "C" {
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream handle) {
  CALL;
  if (!bytes) return CUDA_SUCCESS;
  auto from_host = is_pinned(from) ? copy : copy_from_pageable;
  return from_host("copy to the device", (void *)to, from, bytes, stream_of(handle));
}
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream handle) {
  CALL;
  if (!bytes) return CUDA_SUCCESS;
  auto to_host = is_pinned(to) ? copy : copy_to_pageable;
  return to_host("copy to the host", to, (const void *)from, bytes, stream_of(handle));
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle) {
  CALL;
  return bytes ? copy("copy on the device", (void *)to, (const void *)from, bytes, stream_of(handle)) : CUDA_SUCCESS;
}
CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream handle) { return cuMemcpyDtoDAsync(to, from, bytes, handle); }
CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
  CALL;
  if (CUresult refused = legacy_call(__func__)) return refused;
  if (CUresult failed = cuMemcpyHtoDAsync(to, from, bytes, nullptr)) return failed;
  wait_for(legacy_stream());
  return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
  CALL;
  if (CUresult refused = legacy_call(__func__)) return refused;
  if (CUresult failed = cuMemcpyDtoHAsync(to, from, bytes, nullptr)) return failed;
  wait_for(legacy_stream());
  return CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream handle) {
  CALL;
  if (!bytes) return CUDA_SUCCESS;
  Range target = writes((const void *)to, bytes);
  if (!alive(target, "fill")) return CUDA_ERROR_INVALID_VALUE;
  return submit(stream_of(handle), {"fill", at_once([=] { memset((void *)to, value, bytes); }), {target}});
}
CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t bytes) {
  CALL;
  if (CUresult refused = legacy_call(__func__)) return refused;
  return cuMemsetD8Async(to, value, bytes, nullptr);
}
}
