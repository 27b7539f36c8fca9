// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "frame_proxy.h"

// The fault matrix: what is done, to whom, at which step, and what must come of it.
namespace mose::test {

enum class Kind : uint8_t {
  kill,   // SIGKILL
  hang,   // SIGSTOP, and SIGCONT kHangFor later; CRIU is left so. Of a link: a frame and all behind it wait so long
  error,  // CRIU is refused an answer and fails, a frame arrives damaged, or nothing can be written to a file for kHangFor
  cut,    // the connection of a frame is ended, or a cable is pulled
};
// Longer than the source waits for an agent that says nothing while its workload is frozen.
inline constexpr Nanoseconds kHangFor = std::chrono::milliseconds(2500);

enum class Victim : uint8_t {
  source_agent,
  destination_agent,
  both_agents,
  criu,
  pager,
  guardian,
  link,               // the frame's connection
  source_cable,       // nothing leaves or reaches the node for kHangFor
  destination_cable,
};

// Which side has the workload afterwards. `either`: the harm races with the commit record or with a bound, and both
// ends are right.
enum class Side : uint8_t { source, destination, either };

// Who sees to it that a workload runs again.
enum class WayBack : uint8_t {
  itself,    // what is alive, at once or after a bound
  restart,   // a service manager, which starts what is dead
  operators  // `mose recover`
};

struct FaultCase {
  std::string name;
  Kind kind = Kind::kill;
  Victim victim = Victim::source_agent;
  Side expected = Side::source;
  WayBack way = WayBack::itself;
  // Of the move: empty: the agent's choice.
  std::string strategy;
  uint64_t max_bandwidth_bps = 0;
  bool standby = false;  // one is made: what comes first at CRIU is its dump and its restore
  // At a point of CRIU's dump or restore (see criu_interposer.cpp) ...
  std::string role, point, moment;
  // ... or at a frame between the agents.
  std::optional<FrameRule> frame;
};

// With MOSE_FULL in the environment every row, else every kSampled-th one.
[[nodiscard]] const std::vector<FaultCase>& fault_cases();
[[nodiscard]] std::vector<FaultCase> fault_cases(Kind kind);
inline constexpr size_t kSampled = 12;

[[nodiscard]] const char* to_string(Side side);
[[nodiscard]] const char* to_string(Kind kind);
[[nodiscard]] const char* to_string(WayBack way);
[[nodiscard]] const char* name_of(Victim victim);
std::ostream& operator<<(std::ostream& out, const FaultCase& row);

// The parts of the table.
class CaseTable {
 public:
  explicit CaseTable(Kind kind) : kind_(kind) {}

  // Of the moves of the rows that follow: their names begin with `prefix`.
  struct Move {
    std::string prefix, strategy;
    uint64_t max_bandwidth_bps = 0;
    bool standby = false;
  };
  void moves(Move move) { move_ = std::move(move); }

  FaultCase& at_criu(const std::string& role, const std::string& point, const std::string& moment, Victim victim, Side expected = Side::source);
  FaultCase& at_frame(const std::string& name, wire::FrameType type, Direction direction, Moment moment, Victim victim, Side expected);
  std::vector<FaultCase> take() { return std::move(rows_); }

 private:
  FaultCase& add(const std::string& name, Victim victim, Side expected);

  Kind kind_;
  Move move_;
  std::vector<FaultCase> rows_;
};
[[nodiscard]] std::vector<FaultCase> kills();
[[nodiscard]] std::vector<FaultCase> hangs();
[[nodiscard]] std::vector<FaultCase> errors();
[[nodiscard]] std::vector<FaultCase> cuts();

}  // namespace mose::test
