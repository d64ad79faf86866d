#include "clocks.hpp"

namespace sim {

History::History(size_t bytes, Access first) : bytes_(bytes) { cells_[0].written = first; }

// Makes a cell begin at `at`.
void History::split(size_t at) {
  if (at >= bytes_) return;
  auto next = cells_.upper_bound(at);
  auto holding = std::prev(next);
  if (holding->first != at) cells_.emplace_hint(next, at, holding->second);
}

std::optional<Access> History::add(size_t begin, size_t end, const Access &access, const Clock &clock) {
  std::optional<Access> conflict;
  auto check = [&](const Access &earlier) {
    if (!conflict && !earlier.before(clock)) conflict = earlier;
  };
  split(begin);
  split(end);
  auto first = cells_.find(begin), last = cells_.lower_bound(end);
  for (auto cell = first; cell != last; ++cell) {
    check(cell->second.written);
    auto &read = cell->second.read;
    bool known = false;
    for (Access &earlier : read) {
      if (access.writes) check(earlier);
      else if (earlier.agent == access.agent) earlier = access, known = true;
    }
    if (!access.writes && !known) read.push_back(access);
  }
  if (access.writes && first != last) {
    // One cell again: what was there before is ordered before this write, or has been reported.
    first->second = {access, {}};
    cells_.erase(std::next(first), last);
  }
  return conflict;
}

}  // namespace sim
