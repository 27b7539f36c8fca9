// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <thread>

#include "agent/file_sync.h"
#include "restore/standby_refresh.h"
#include "steps.h"

namespace mose::test {

// Two places behind one client: the client's network namespace reaches either of them, never both, under the same
// address.
class StandbyBed {
 public:
  StandbyBed();
  CriuBed bed{{}};
  Fd client;
  // Lets the place reach the client and the client this place.
  void connect(CriuBed::Node& node);
  // Packets of either side go nowhere.
  void hold();
  void shut(CriuBed::Node& node);

  // A dump with all memory into NODE.images/NAME. The tree is frozen afterwards.
  [[nodiscard]] Status dump_into(CriuBed::Node& node, const std::string& name);
  // What an early dump is good for: the images lie in to.images/early, the standby stands in `to`. `from` runs again.
  [[nodiscard]] Status make_standby(CriuBed::Node& from, CriuBed::Node& to);
  // Images of `from` as `name` at `to`, and its files.
  [[nodiscard]] Status carry(CriuBed::Node& from, CriuBed::Node& to, const std::string& name, agent::CopyTarget holds);
  [[nodiscard]] static Result<restore::ImageSet> images(const CriuBed::Node& node, const std::string& name);

  struct Move {
    restore::StandbyTimes times;
    Nanoseconds load{}, compare{};
    size_t pages = 0, zeroed = 0;
    std::map<restore::StandbyWatch::Change, size_t> watches;  // of epolls
    size_t connections = 0, unread = 0, unacknowledged = 0, unsent = 0;  // the last three: with bytes in that queue
  };
  // The switchover: final dump, comparison, refresh, thaw. `from` is empty afterwards. `leave_unread`: requests arrive
  // after it has been frozen; else the answers find nobody who would acknowledge them.
  [[nodiscard]] Result<Move> switch_over(CriuBed::Node& from, CriuBed::Node& to, bool leave_unread);

 private:
  void run(int net, const std::string& command) const;
};

// A client on a thread of its own, in the client's namespace, until stop() or its first error.
class StandbyClient {
 public:
  using Work = std::function<std::string(const std::atomic<bool>& stop, std::atomic<uint64_t>& answers)>;
  StandbyClient(int net, Work work);
  ~StandbyClient();
  // The error, empty when all went well.
  std::string stop();
  [[nodiscard]] uint64_t answers() const { return answers_; }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> answers_{0};
  std::string error_;
  std::thread thread_;
};

// A connection to the workload at the place that is connected; the third kind is IPv4 on an IPv6 socket.
enum class Family { ipv4, ipv6, mapped };
[[nodiscard]] Result<Fd> connect_to(Family family, uint16_t port4, uint16_t port6);

}  // namespace mose::test
