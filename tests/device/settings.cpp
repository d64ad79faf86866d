// Settings, reports and counts.
#include <stdarg.h>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include "device.hpp"

namespace sim {
namespace {

struct Count {
  size_t calls = 0;
  double seconds = 0;
};
std::map<std::string, Count> counts;
size_t hazards;

void report() {
  if (hazards) fprintf(stderr, "sim: %zu hazards\n", hazards);
  const char *path = setting("SIM_COUNTS", nullptr);
  FILE *file = path ? fopen(path, "w") : nullptr;
  if (!file) return;
  for (auto &[name, count] : counts) fprintf(file, "%10zu %9.3f %s\n", count.calls, count.seconds, name.c_str());
  fprintf(file, "# most memory used: %zu, by graphs: %zu, hazards: %zu\n", state.pool.most, state.graph_reserve.most, hazards);
  fclose(file);
}

// A function's name without the version behind it: cuMemAlloc_v2 is cuMemAlloc to a user.
std::string plain(const std::string &call) {
  size_t version = call.rfind("_v");
  return version != std::string::npos && version + 3 == call.size() ? call.substr(0, version) : call;
}

}  // namespace

const char *setting(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value ? value : otherwise;
}

size_t number(const char *name, size_t otherwise) {
  const char *value = getenv(name);
  return value ? strtoull(value, nullptr, 10) : otherwise;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void count(const std::string &name, double seconds) {
  Count &count = counts[name];
  count.calls++;
  count.seconds += seconds;
}

// SIM_FAIL=NAME:N:CODE is about the N-th call, NAME:N+:CODE about all from the N-th on.
int asked_failure(const char *call) {
  static const char *const asked = setting("SIM_FAIL", nullptr);
  if (!asked) return 0;
  std::lock_guard<std::recursive_mutex> guard(state.mutex);
  static const std::string name(asked, strcspn(asked, ":"));
  if (name != call && name != plain(call)) return 0;
  static long calls;
  char *end;
  long which = strtol(asked + name.size() + 1, &end, 10);
  bool onwards = *end == '+';
  calls++;
  if (calls != which && !(onwards && calls > which)) return 0;
  note("%s fails as asked, its call %ld", call, calls);
  return atoi(end + (onwards ? 2 : 1));
}

void hazard(const char *format, ...) {
  static const size_t most = number("SIM_REPORTS", 20);
  if (hazards++ >= most) return;
  va_list arguments;
  va_start(arguments, format);
  char text[512];
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  // One write: other threads and processes write to stderr too.
  fprintf(stderr, "sim: HAZARD: %s\n", text);
  if (is_set("SIM_ABORT")) abort();
}

void note(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char text[512];
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fprintf(stderr, "sim: %s\n", text);
}

void report_at_exit() { atexit(report); }

}  // namespace sim
