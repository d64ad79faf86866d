// Which work has happened before which, whatever order it is run in here: vector clocks of the host and of the streams,
// and the last accesses to every byte of an allocation.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace sim {

using Time = uint64_t;

// The host is one agent, all its threads together: what they tell each other is not seen here. Streams are the others.
constexpr unsigned HOST = 0;

// For every agent, how much of its work is known to have happened.
class Clock {
 public:
  Time of(unsigned agent) const { return agent < known_.size() ? known_[agent] : 0; }
  Time advance(unsigned agent) { return ++at(agent); }
  void join(const Clock &other) {
    for (unsigned agent = 0; agent < other.known_.size(); agent++)
      if (other.known_[agent] > of(agent)) at(agent) = other.known_[agent];
  }

 private:
  Time &at(unsigned agent) {
    if (agent >= known_.size()) known_.resize(agent + 1);
    return known_[agent];
  }
  std::vector<Time> known_;
};

struct Access {
  unsigned agent = HOST;
  Time time = 0;
  const char *what = "";
  bool writes = false;

  bool before(const Clock &clock) const { return time <= clock.of(agent); }
};

// The accesses to one allocation, by offset: of every byte the last write, and each agent's last read since.
class History {
 public:
  explicit History(size_t bytes = 0, Access first = {});
  // Adds an access to the bytes from `begin` to `end`. An earlier one that `clock` does not know to have happened, where
  // one of the two writes, is given back.
  std::optional<Access> add(size_t begin, size_t end, const Access &access, const Clock &clock);

 private:
  struct Cell {
    Access written;
    std::vector<Access> read;
  };
  void split(size_t at);
  std::map<size_t, Cell> cells_;  // by where they begin; each ends where the next begins
  size_t bytes_;
};

}  // namespace sim
