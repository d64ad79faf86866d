// Modules are the program's PTX: what a kernel takes, how many threads and how much shared memory it may have, is read
// there, and must be what the C++ that runs in its place says.
#include <dlfcn.h>
#include <unistd.h>
#include <cstdlib>
#include "device.hpp"

namespace sim {
namespace {

// The PTX and the capability that the driver of this device (580, CUDA 13.0) takes.
constexpr int MOST_PTX = 90;
constexpr size_t SHARED_BY_DEFAULT = 48 << 10;

const char *const LIBRARIES[] = {"affine",    "binary",        "cast",     "fill",       "indexing", "ternary",    "unary",       "reduce",    "own_adamw",
                                 "own_attention", "own_decode", "own_head", "own_norm", "own_rotary", "own_sampler", "own_sum_squares", "own_swiglu", "faults"};
std::map<std::string, const Entry *> entries;

// Where a kernel may read and write while it runs (SIM_CHECK_ACCESS).
const std::vector<Range> *allowed;

// Asked by the instrumented kernels about every access to what is not their stack, parameters or shared memory.
bool access_allowed(uintptr_t address, size_t bytes, bool writes) {
  if (!allowed) return true;
  for (const Range &range : *allowed)
    if (address >= range.address && address + bytes <= range.address + range.bytes && (range.writes || !writes)) return true;
  return false;
}

size_t align(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

struct Text {
  std::string ptx;
  // The bytes of the shared variables between two places.
  size_t shared_between(size_t begin, size_t end) const {
    size_t bytes = 0;
    for (size_t at = begin; (at = ptx.find("\t.shared ", at)) < end; at++) {
      size_t size = ptx.find('[', at);
      if (size < ptx.find('\n', at)) bytes = align(bytes, 16) + strtoul(&ptx[size + 1], nullptr, 10);
    }
    return bytes;
  }
};

size_t parameter_size(const std::string &declaration) {
  unsigned alignment;
  char type[16];
  if (sscanf(declaration.c_str(), " .align %u .b8 ", &alignment) == 1) return strtoul(&declaration[declaration.find('[') + 1], nullptr, 10);
  if (sscanf(declaration.c_str(), " .%15s", type) == 1) return strtoul(type + 1, nullptr, 10) / 8;
  return 0;
}

void compare(const Function &function) {
  const Entry &entry = *function.entry;
  const char *name = entry.name;
  if (entry.parameters != function.sizes.size()) return hazard("%s: %zu parameters in PTX, %u in the C++", name, function.sizes.size(), entry.parameters);
  for (size_t i = 0; i < function.sizes.size(); i++)
    if (entry.sizes[i] != function.sizes[i]) hazard("%s: parameter %zu has %zu bytes in PTX, %zu in the C++", name, i, function.sizes[i], entry.sizes[i]);
}

// `.entry name(.param …, .param …) .maxntid … { … }`, from behind `.entry ` on; `end` is where the next begins.
std::unique_ptr<Function> parse_entry(const Text &text, size_t at, size_t end) {
  const std::string &ptx = text.ptx;
  auto function = std::make_unique<Function>();
  function->name = ptx.substr(at, ptx.find_first_of("( \n", at) - at);
  size_t open = ptx.find('(', at), close = ptx.find(')', open), body = ptx.find('{', close);
  for (size_t p = open; (p = ptx.find(".param", p)) < close; p += 6) function->sizes.push_back(parameter_size(ptx.substr(p + 6, ptx.find_first_of(",)", p) - p - 6)));
  size_t threads = ptx.find(".maxntid", close);
  if (threads < body) function->most_threads = strtoul(&ptx[threads + 8], nullptr, 10);
  function->static_shared = text.shared_between(body, end);
  function->most_dynamic = SHARED_BY_DEFAULT - std::min(SHARED_BY_DEFAULT, function->static_shared);
  auto found = entries.find(function->name);
  if (found != entries.end()) {
    function->entry = found->second;
    compare(*function);
  }
  return function;
}

void parse(const Text &text, Module &module) {
  for (size_t at = text.ptx.find(".entry "); at != std::string::npos;) {
    size_t next = text.ptx.find(".entry ", at + 7);
    auto function = parse_entry(text, at + 7, std::min(next, text.ptx.size()));
    module.functions[function->name] = std::move(function);
    at = next;
  }
}

CUresult version_error(const std::string &ptx) {
  int major = 0, minor = 0, target = 0;
  size_t version = ptx.find(".version "), architecture = ptx.find(".target sm_");
  if (version == std::string::npos || architecture == std::string::npos) return CUDA_ERROR_INVALID_PTX;
  sscanf(&ptx[version], ".version %d.%d", &major, &minor);
  sscanf(&ptx[architecture], ".target sm_%d", &target);
  if (major * 10 + minor > MOST_PTX) return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
  return target > (int)number("SIM_CAPABILITY", 90) ? CUDA_ERROR_INVALID_PTX : CUDA_SUCCESS;
}

// --- launches

struct Launch {
  const Function *function;
  Shape shape;
  std::vector<std::vector<char>> values;  // of the parameters: the driver copies them at the call
};

bool within_limits(const Function &function, const Shape &shape) {
  auto [gx, gy, gz] = shape.grid;
  auto [bx, by, bz] = shape.block;
  size_t threads = (size_t)bx * by * bz;
  bool fits = gx && gy && gz && gx <= 2147483647u && gy <= 65535 && gz <= 65535 && threads && threads <= function.most_threads && bz <= 64 && shape.shared <= function.most_dynamic;
  if (!fits)
    note("launch of %s refused: grid %u %u %u, block %u %u %u (at most %zu threads), dynamic shared memory %u (at most %zu beside %zu static)", function.name.c_str(), gx, gy, gz, bx, by, bz,
         function.most_threads, shape.shared, function.most_dynamic, function.static_shared);
  return fits;
}

// The memory that a kernel touches: from each of its pointers to the end of what that points into.
std::vector<Range> ranges_of(const Launch &launch, const char *name) {
  std::vector<Range> ranges;
  const Entry &entry = *launch.function->entry;
  for (unsigned i = 0; i < entry.parameters; i++) {
    if (entry.kinds[i] == 'v') continue;
    uint64_t address;
    memcpy(&address, launch.values[i].data(), sizeof address);
    if (!address) continue;
    auto found = holding(address);
    if (found == state.memory.end()) {
      hazard("%s: parameter %u, %#lx, is not allocated (or was freed before)", name, i, address);
      continue;
    }
    ranges.push_back({address, found->first + found->second.size - address, entry.kinds[i] == 'w'});
  }
  return ranges;
}

void run(const Launch &launch, const std::vector<Range> &ranges) {
  std::vector<const void *> pointers;
  for (auto &value : launch.values) pointers.push_back(value.data());
  allowed = &ranges;
  std::string failure = launch.function->entry->run(launch.function->name.c_str(), launch.shape, pointers.data());
  if (!failure.empty()) hazard("%s", failure.c_str());
  allowed = nullptr;
}

// A name that lives as long as the process, for counts and reports.
const char *label(const Function &function) {
  static std::set<std::string> labels;
  return labels.insert("kernel " + function.name).first->c_str();
}

}  // namespace

void load_kernels() {
  Dl_info self;
  dladdr((void *)load_kernels, &self);
  std::string folder = self.dli_fname;
  folder = folder.substr(0, folder.rfind('/'));
  for (std::string name : LIBRARIES) {
    std::string plain = folder + "/kernels_" + name + ".so", checked = folder + "/kernels_checked_" + name + ".so";
    // Candle's are not built checked.
    bool check = is_set("SIM_CHECK_ACCESS") && access(checked.c_str(), R_OK) == 0;
    void *library = dlopen((check ? checked : plain).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      if (name != "faults") note("%s", dlerror());
      continue;
    }
    for (auto entry = (const Entry *)dlsym(library, "device_entries"); entry->name; entry++) entries[entry->name] = entry;
    if (auto ask = (AccessAllowed *)dlsym(library, "access_allowed")) *ask = access_allowed;
  }
}

}  // namespace sim

using namespace sim;

extern "C" {
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  CALL;
  if (CUresult refused = unsafe_call(__func__)) return refused;
  if (!image || !*(const char *)image) return CUDA_ERROR_INVALID_PTX;
  Text text = {(const char *)image};
  if (CUresult refused = version_error(text.ptx)) return refused;
  auto loaded = new Module;
  parse(text, *loaded);
  *module = (CUmodule)loaded;
  return CUDA_SUCCESS;
}
CUresult cuModuleLoad(CUmodule *, const char *) {
  CALL;
  return CUDA_ERROR_FILE_NOT_FOUND;
}
// Kept: queued work may still call its kernels.
CUresult cuModuleUnload(CUmodule) {
  CALL;
  return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  CALL;
  auto &functions = ((Module *)module)->functions;
  auto found = functions.find(name);
  if (found == functions.end()) {
    note("there is no kernel %s in the module", name);
    return CUDA_ERROR_NOT_FOUND;
  }
  *function = (CUfunction)found->second.get();
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction of_function, CUfunction_attribute attribute, int value) {
  CALL;
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
  auto &function = *(Function *)of_function;
  int most;
  cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0);
  if (value < 0 || function.static_shared + value > (size_t)most) {
    note("%s: %d bytes of dynamic shared memory beside %zu static, at most %d", function.name.c_str(), value, function.static_shared, most);
    return CUDA_ERROR_INVALID_VALUE;
  }
  function.most_dynamic = value;
  return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction of_function) {
  CALL;
  auto &function = *(Function *)of_function;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = (int)function.most_threads; break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = (int)function.static_shared; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = (int)function.most_dynamic; break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction of_function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream handle, void **values, void **) {
  CALL;
  auto &function = *(Function *)of_function;
  Stream *stream = stream_of(handle);
  Launch launch = {&function, {{gx, gy, gz}, {bx, by, bz}, shared}, {}};
  if (!within_limits(function, launch.shape)) return CUDA_ERROR_INVALID_VALUE;
  if (!function.entry) {
    hazard("there is no C++ of kernel %s", function.name.c_str());
    abort();
  }
  for (size_t i = 0; i < function.sizes.size(); i++) launch.values.emplace_back((const char *)values[i], (const char *)values[i] + function.sizes[i]);
  const char *name = label(function);
  auto ranges = ranges_of(launch, name);
  return submit(stream, {name, at_once([launch, ranges] { run(launch, ranges); }), ranges});
}
}
