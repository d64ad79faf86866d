// Does the device see what is wrong? One planted fault a case.
//
//   faults list          a case a line: its name, the environment that it needs, what the device must say, what is wrong
//   faults NAME          runs a case; "refused: CODE" for each call that the driver refuses
//
// The case `correct` does the same things rightly: nothing may be said about it.
#include <cuda.h>
#include <unistd.h>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

// A call that a correct program could rely on.
void must(CUresult result, const char *call) {
  if (result == CUDA_SUCCESS) return;
  const char *name = "?";
  cuGetErrorName(result, &name);
  fprintf(stderr, "%s: %s\n", call, name);
  exit(1);
}
#define MUST(call) must(call, #call)

// A call that may be refused.
void may(CUresult result) {
  const char *name = "?";
  cuGetErrorName(result, &name);
  if (result != CUDA_SUCCESS) printf("refused: %s\n", name);
}

std::string ptx() {
  char path[4096] = "";
  if (readlink("/proc/self/exe", path, sizeof path - 1) < 0) exit(1);
  std::string folder = path;
  std::stringstream text;
  text << std::ifstream(folder.substr(0, folder.rfind('/')) + "/faults.ptx").rdbuf();
  return text.str();
}

constexpr int COUNT = 1000;
constexpr size_t BYTES = COUNT * sizeof(float);

CUstream computing, copying;
CUmodule module;

CUfunction kernel(const char *name) {
  CUfunction function;
  MUST(cuModuleGetFunction(&function, module, name));
  return function;
}

CUdeviceptr allocated(CUstream stream, size_t bytes = BYTES) {
  CUdeviceptr address;
  MUST(cuMemAllocAsync(&address, bytes, stream));
  return address;
}

// Zeros, and memory for what becomes of them; all queued work is done.
struct Buffers {
  CUdeviceptr from = allocated(computing), to = allocated(computing);
  Buffers() {
    MUST(cuMemsetD8Async(from, 0, BYTES, computing));
    MUST(cuMemsetD8Async(to, 0, BYTES, computing));
    MUST(cuStreamSynchronize(computing));
  }
};

CUresult copy(CUdeviceptr from, CUdeviceptr to, CUstream stream, int count = COUNT, unsigned threads = 256) {
  void *values[] = {&from, &to, &count};
  return cuLaunchKernel(kernel("fault_copy"), (count + threads - 1) / threads, 1, 1, threads, 1, 1, 0, stream, values, nullptr);
}

CUresult copy_wide(CUdeviceptr from, CUdeviceptr to, int offset) {
  void *values[] = {&from, &to, &offset};
  return cuLaunchKernel(kernel("fault_copy_wide"), 1, 1, 1, 64, 1, 1, 0, computing, values, nullptr);
}

CUresult neighbour(CUdeviceptr from, CUdeviceptr to, int waits) {
  void *values[] = {&from, &to, &waits};
  return cuLaunchKernel(kernel("fault_neighbour"), 1, 1, 1, 256, 1, 1, 0, computing, values, nullptr);
}

CUresult use_shared(CUdeviceptr to, int bytes) {
  int given = bytes / (int)sizeof(float);
  void *values[] = {&to, &given};
  return cuLaunchKernel(kernel("fault_shared"), 1, 1, 1, 256, 1, 1, bytes, computing, values, nullptr);
}

float *pinned(float value) {
  void *host;
  MUST(cuMemHostAlloc(&host, BYTES, 0));
  std::fill_n((float *)host, COUNT, value);
  return (float *)host;
}

// `stream` goes on when `other` is as far as it is now.
void order(CUstream stream, CUstream other) {
  CUevent event;
  MUST(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  MUST(cuEventRecord(event, other));
  MUST(cuStreamWaitEvent(stream, event, 0));
  MUST(cuEventDestroy(event));
}

void begin(CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED) { MUST(cuStreamBeginCapture(computing, mode)); }

// Ends a capture and launches what it gave.
void launch_captured() {
  CUgraph graph = nullptr;
  CUresult result = cuStreamEndCapture(computing, &graph);
  may(result);
  if (!graph) return;
  CUgraphExec executable;
  MUST(cuGraphInstantiate(&executable, graph, 0));
  may(cuGraphLaunch(executable, computing));
  MUST(cuStreamSynchronize(computing));
  MUST(cuGraphExecDestroy(executable));
  MUST(cuGraphDestroy(graph));
}

void use_after_free() {
  Buffers b;
  MUST(cuMemFreeAsync(b.from, computing));
  may(copy(b.from, b.to, computing));
}
void double_free() {
  Buffers b;
  MUST(cuMemFreeAsync(b.from, computing));
  may(cuMemFreeAsync(b.from, computing));
}
void free_while_in_use() {
  Buffers b;
  MUST(copy(b.from, b.to, copying));
  MUST(cuMemFreeAsync(b.from, computing));
}
void missing_wait() {
  Buffers b;
  float *host = pinned(1);
  MUST(cuMemcpyHtoDAsync(b.from, host, BYTES, copying));
  MUST(copy(b.from, b.to, computing));
}
void race_between_kernels() {
  Buffers b;
  CUdeviceptr other = allocated(computing);
  MUST(cuStreamSynchronize(computing));
  MUST(copy(b.from, b.to, computing));
  MUST(copy(other, b.to, copying));
}
void upload_freed_early() {
  Buffers b;
  float *host = pinned(1);
  MUST(cuMemcpyHtoDAsync(b.from, host, BYTES, copying));
  MUST(cuMemFreeHost(host));
}
void upload_refilled_early() {
  Buffers b;
  float *host = pinned(1);
  MUST(cuMemcpyHtoDAsync(b.from, host, BYTES, copying));
  std::fill_n(host, COUNT, 2.0f);
  MUST(cuStreamSynchronize(copying));
}
void download_freed_early() {
  Buffers b;
  float *host = pinned(1);
  MUST(cuMemcpyDtoHAsync(host, b.from, BYTES, copying));
  MUST(cuMemFreeHost(host));
}
void free_of_foreign_memory_in_capture() {
  Buffers b;
  begin();
  may(cuMemFreeAsync(b.from, computing));
  launch_captured();
}
void copy_to_host_in_capture() {
  Buffers b;
  std::vector<float> host(COUNT);
  begin();
  may(cuMemcpyDtoHAsync(host.data(), b.from, BYTES, computing));
  launch_captured();
}
void pageable_memory_in_graph() {
  Buffers b;
  std::vector<float> host(COUNT);
  begin();
  may(cuMemcpyHtoDAsync(b.from, host.data(), BYTES, computing));
  launch_captured();
}
void synchronise_in_capture() {
  Buffers b;
  begin();
  may(cuStreamSynchronize(computing));
  may(copy(b.from, b.to, computing));
  launch_captured();
}
void allocate_in_capture() {
  CUdeviceptr address;
  begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
  std::thread([&] { may(cuMemAlloc(&address, BYTES)); }).join();
  launch_captured();
}
void wait_for_outside_in_capture() {
  CUevent event;
  MUST(cuEventCreate(&event, 0));
  MUST(cuEventRecord(event, copying));
  begin();
  may(cuStreamWaitEvent(computing, event, 0));
  launch_captured();
}
void other_thread_in_capture() {
  Buffers b;
  CUcontext context;
  MUST(cuCtxGetCurrent(&context));
  begin();
  std::thread([&] {
    MUST(cuCtxSetCurrent(context));
    MUST(copy(b.from, b.to, computing));
  }).join();
  launch_captured();
}
void freed_under_graph() {
  Buffers b;
  begin();
  MUST(copy(b.from, b.to, computing));
  CUgraph graph;
  CUgraphExec executable;
  MUST(cuStreamEndCapture(computing, &graph));
  MUST(cuGraphInstantiate(&executable, graph, 0));
  MUST(cuMemFreeAsync(b.from, computing));
  MUST(cuGraphLaunch(executable, computing));
}
void no_context() {
  Buffers b;
  std::thread([&] { may(copy(b.from, b.to, computing)); }).join();
}
void copy_beyond_allocation() {
  Buffers b;
  may(cuMemcpyDtoDAsync(b.to, b.from + 4, BYTES, computing));
}
void write_behind_the_end() {
  CUdeviceptr from = allocated(computing, BYTES + 4), to = allocated(computing);
  MUST(copy(from, to, computing, COUNT + 1));
  MUST(cuMemFreeAsync(to, computing));
}
void read_out_of_bounds() {
  CUdeviceptr from = allocated(computing), to = allocated(computing, BYTES + 4);
  MUST(copy(from, to, computing, COUNT + 1));
}
void write_out_of_bounds() {
  CUdeviceptr from = allocated(computing, BYTES + 4), to = allocated(computing);
  MUST(copy(from, to, computing, COUNT + 1));
}
void misaligned_access() {
  Buffers b;
  MUST(copy_wide(b.from, b.to, 1));
}
void missing_barrier() {
  Buffers b;
  MUST(neighbour(b.from, b.to, 0));
}
void too_much_shared_memory() {
  Buffers b;
  may(use_shared(b.to, 16 << 10));
}
void too_much_shared_memory_at_all() {
  // An H100 has 227 KiB for a block, 40 of which this kernel has by itself.
  may(cuFuncSetAttribute(kernel("fault_shared"), CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 200 << 10));
}
void too_many_threads() {
  Buffers b;
  may(copy(b.from, b.to, computing, COUNT, 512));
}
void wrong_parameter_size() {
  std::string text = ptx();
  size_t at = text.find(".param .u32 fault_copy_param_2");
  if (at == std::string::npos) exit(1);
  text.replace(at + 7, 4, ".u64");
  CUmodule other;
  MUST(cuModuleLoadData(&other, text.c_str()));
}
void too_new_ptx() {
  std::string text = ptx();
  size_t at = text.find(".version "), end = text.find('\n', at);
  text.replace(at, end - at, ".version 9.3");
  CUmodule other;
  may(cuModuleLoadData(&other, text.c_str()));
}
void out_of_memory() {
  CUdeviceptr address;
  may(cuMemAllocAsync(&address, 1ull << 40, computing));
}

void correct() {
  Buffers b;
  float *up = pinned(1), *down = pinned(0);
  MUST(cuMemcpyHtoDAsync(b.from, up, BYTES, copying));
  order(computing, copying);
  MUST(copy(b.from, b.to, computing));
  order(copying, computing);
  MUST(copy(b.to, b.from, copying));
  order(computing, copying);
  MUST(copy_wide(b.from, b.to, 4));
  MUST(neighbour(b.from, b.to, 1));
  MUST(use_shared(b.from, 8 << 10));
  MUST(cuFuncSetAttribute(kernel("fault_shared"), CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 16 << 10));
  MUST(use_shared(b.from, 16 << 10));
  // In a graph: memory of its own, and what is there longer than it.
  begin();
  CUdeviceptr own = allocated(computing);
  MUST(copy(b.to, own, computing));
  MUST(copy(own, b.from, computing));
  MUST(cuMemFreeAsync(own, computing));
  launch_captured();
  MUST(cuMemcpyDtoHAsync(down, b.from, BYTES, computing));
  MUST(cuStreamSynchronize(computing));
  for (int i = 0; i < COUNT; i++)
    if (down[i] != 1) exit((printf("wrong: %g at %d\n", down[i], i), 1));
  std::fill_n(up, COUNT, 2.0f);
  MUST(cuMemFreeHost(up));
  MUST(cuMemFreeHost(down));
  MUST(cuMemFreeAsync(b.from, computing));
  MUST(cuMemFreeAsync(b.to, computing));
  MUST(cuStreamSynchronize(computing));
}

struct Case {
  const char *name;
  void (*run)();
  const char *environment, *seen, *what;
};
#define CASE(name, environment, seen, what) {#name, name, environment, seen, what}
#define CHECKED "SIM_CHECK_ACCESS=1"
const Case CASES[] = {
    CASE(correct, CHECKED, "", "nothing: all of this done rightly"),
    CASE(use_after_free, "-", "is not allocated (or was freed before)", "a kernel is given freed memory"),
    CASE(double_free, "-", "is no allocation (or was freed before)", "memory is freed twice"),
    CASE(free_while_in_use, "-", "race: free", "memory is freed while another stream still reads it"),
    CASE(missing_wait, "-", "race: kernel fault_copy (reads", "a kernel reads what another stream copies, without a wait between"),
    CASE(race_between_kernels, "-", "race: kernel fault_copy (writes", "kernels on two streams write the same memory"),
    CASE(upload_freed_early, "-", "race: the free of it by the host", "page-locked memory is freed before it is copied to the device"),
    CASE(upload_refilled_early, "-", "the host has changed page-locked memory", "page-locked memory is filled again before it is copied to the device"),
    CASE(download_freed_early, "-", "race: the free of it by the host", "page-locked memory is freed before a copy to it has come"),
    CASE(free_of_foreign_memory_in_capture, "-", "is not of that graph", "memory from outside is freed in a capture"),
    CASE(copy_to_host_in_capture, "-", "to pageable memory goes into a graph", "a capture copies to the host"),
    CASE(pageable_memory_in_graph, "-", "of pageable memory go into a graph", "a graph reads the host's pageable memory"),
    CASE(synchronise_in_capture, "-", "refused: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "the host waits for a stream that captures"),
    CASE(allocate_in_capture, "-", "refused: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "another thread allocates during a capture in global mode"),
    CASE(wait_for_outside_in_capture, "-", "refused: CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "a capture waits for work outside"),
    CASE(other_thread_in_capture, "-", "of another thread goes into the graph", "another thread's work is captured"),
    CASE(freed_under_graph, "-", "is not allocated (or was freed before)", "a graph is launched whose memory was freed"),
    CASE(no_context, "-", "no context is current", "a thread without a context"),
    CASE(copy_beyond_allocation, "-", "bytes at offset 4 of an allocation of 4000", "a copy beyond the end of memory"),
    CASE(write_behind_the_end, "-", "behind the end of an allocation", "a kernel writes behind the end of memory, without checked accesses"),
    CASE(read_out_of_bounds, CHECKED, "reads 4 bytes, out of bounds", "a kernel reads one value beyond the end"),
    CASE(write_out_of_bounds, CHECKED, "writes 4 bytes, out of bounds", "a kernel writes one value beyond the end"),
    CASE(misaligned_access, CHECKED, "misaligned", "16 bytes are read from an address that 16 does not divide"),
    CASE(missing_barrier, CHECKED, "race at", "shared memory is read without a barrier behind the write"),
    CASE(too_much_shared_memory, "-", "refused: CUDA_ERROR_INVALID_VALUE", "40 KiB static and 16 KiB dynamic shared memory without leave for more than 48"),
    CASE(too_much_shared_memory_at_all, "-", "refused: CUDA_ERROR_INVALID_VALUE", "more shared memory than a multiprocessor has"),
    CASE(too_many_threads, "-", "refused: CUDA_ERROR_INVALID_VALUE", "more threads than the kernel was compiled for"),
    CASE(wrong_parameter_size, "-", "parameter 2 has 8 bytes in PTX, 4 in the C++", "the PTX takes other parameters"),
    CASE(too_new_ptx, "-", "refused: CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "PTX of a newer toolkit than the driver"),
    CASE(out_of_memory, "-", "refused: CUDA_ERROR_OUT_OF_MEMORY", "more memory than there is"),
};

void open_device() {
  CUcontext context;
  MUST(cuInit(0));
  MUST(cuDevicePrimaryCtxRetain(&context, 0));
  MUST(cuCtxSetCurrent(context));
  MUST(cuStreamCreate(&computing, CU_STREAM_NON_BLOCKING));
  MUST(cuStreamCreate(&copying, CU_STREAM_NON_BLOCKING));
  MUST(cuModuleLoadData(&module, ptx().c_str()));
}

}  // namespace

int main(int count, char **arguments) {
  std::string asked = count == 2 ? arguments[1] : "";
  for (const Case &fault : CASES) {
    if (asked == "list") printf("%s\t%s\t%s\t%s\n", fault.name, fault.environment, fault.seen, fault.what);
    if (asked != fault.name) continue;
    open_device();
    fault.run();
    return 0;
  }
  if (asked == "list") return 0;
  fprintf(stderr, "usage: faults list | faults NAME\n");
  return 2;
}
