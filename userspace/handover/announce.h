// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "model/workload.h"

// Tells the segment where a service is now: gratuitous ARP (request and reply, hosts differ in which they believe) and
// unsolicited neighbour advertisements, with the service's MAC as Ethernet source, so that switches learn the port.
//
// Life: open(), then send_round() at each offset of kAnnounceOffsets from the commit, by the caller's timer; nothing
// blocks and nothing is kept.
namespace mose::handover {

// The first in the commit itself; the later ones because a frame may be lost or a switch slow.
inline constexpr std::array<Nanoseconds, 4> kAnnounceOffsets{
    std::chrono::milliseconds(0), std::chrono::milliseconds(50), std::chrono::milliseconds(200),
    std::chrono::milliseconds(1000)};

class Announcer {
 public:
  // `device`: the uplink, in the caller's network namespace.
  [[nodiscard]] static Result<Announcer> open(unsigned device_ifindex, const std::vector<ServiceAddress>& addresses,
                                              const MacAddress& mac);

  // One round for every address. Tries all of them; the first failure is returned.
  [[nodiscard]] Status send_round() const;

 private:
  Announcer(Fd socket, std::vector<std::vector<uint8_t>> frames)
      : socket_(std::move(socket)), frames_(std::move(frames)) {}

  Fd socket_;
  std::vector<std::vector<uint8_t>> frames_;
};

}  // namespace mose::handover
