// SPDX-License-Identifier: MIT
#include "sim/network.h"

#include <algorithm>

namespace mose::sim {

Nanoseconds Network::delay() {
  return bench_.duration(2ms);
}

Network::Id Network::connect() {
  connections_.push_back(std::make_shared<Connection>());
  return connections_.size();
}

void Network::send(Id id, Side from, plan::Message message, const std::string& reason) {
  if (!alive(id)) return;
  Side to = from == Side::source ? Side::destination : Side::source;
  bench_.note(from, std::string("sends ") + plan::to_string(message) + " on connection " + std::to_string(id));
  auto connection = connections_[id - 1];
  int index = static_cast<int>(to);
  Direction& direction = connection->to[index];
  uint64_t number = direction.sent++;
  direction.last = std::max(direction.last, bench_.loop.now() + delay());
  bool twice = message == plan::Message::commit && bench_.faulty() && bench_.random.chance(bench_.faults.duplicate);
  bench_.loop.after(direction.last - bench_.loop.now(), [this, connection, index, number, id, message, reason, twice] {
    if (number >= connection->to[index].limit) return;
    connection->to[index].delivered = number + 1;
    for (int copy = 0; copy < (twice ? 2 : 1); ++copy) receivers_[index].message(id, message, reason);
  });
}

void Network::lose(Id id) {
  if (!alive(id)) return;
  auto connection = connections_[id - 1];
  connection->alive = false;
  for (int index : {0, 1}) {
    Direction& direction = connection->to[index];
    // What has reached the receiver's kernel still arrives.
    direction.limit = direction.delivered + bench_.random.below(direction.sent - direction.delivered + 1);
    Timestamp news = std::max(direction.last, bench_.loop.now()) + delay();
    bench_.loop.after(news - bench_.loop.now(), [this, index, id] { receivers_[index].lost(id); });
  }
}

void Network::lose_all() {
  for (Id id = 1; id <= connections_.size(); ++id) lose(id);
}

}  // namespace mose::sim
