// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "sim/bench.h"

// Control connections between the two agents. Within one direction of one connection messages keep their order, as TCP
// does; connections know nothing of each other, so that a message of a lost one may come after one of its successor.
// A loss cuts each direction somewhere, and each side hears of it on its own, perhaps much later.
namespace mose::sim {

class Network {
 public:
  using Id = uint64_t;  // ascending; 0: none
  struct Receiver {
    std::function<void(Id, plan::Message, const std::string& reason)> message;
    std::function<void(Id)> lost;
  };

  explicit Network(Bench& bench) : bench_(bench) {}
  void attach(Side side, Receiver receiver) { receivers_[static_cast<int>(side)] = std::move(receiver); }

  bool up = true;  // false: nothing can be connected
  Id connect();
  [[nodiscard]] bool alive(Id id) const { return id != 0 && connections_[id - 1]->alive; }
  void send(Id id, Side from, plan::Message message, const std::string& reason);
  void lose(Id id);
  void lose_all();

 private:
  struct Direction {
    Timestamp last{};
    uint64_t sent = 0, limit = ~uint64_t{0};
    uint64_t delivered = 0;
  };
  struct Connection {
    bool alive = true;
    Direction to[2];
  };
  Nanoseconds delay();

  Bench& bench_;
  Receiver receivers_[2];
  std::vector<std::shared_ptr<Connection>> connections_;
};

}  // namespace mose::sim
