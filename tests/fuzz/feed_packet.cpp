// SPDX-License-Identifier: MIT
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "base/check.h"
#include "fuzz/packet_host.h"
#include "fuzz/targets.h"

namespace mose::fuzz {
namespace {

static_assert(sizeof(parsed_packet) == 64);
constexpr size_t kFrameMax = 64u << 10;

// A frame that ends where the memory ends, so that a byte read beyond it is seen.
class Place {
 public:
  Place() {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    auto* at = static_cast<uint8_t*>(mmap(nullptr, kFrameMax + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
    MOSE_CHECK(at != MAP_FAILED && mprotect(at + kFrameMax, page, PROT_NONE) == 0, "memory for a frame");
    end_ = at + kFrameMax;
  }
  const uint8_t* put(Input frame) {
    memcpy(end_ - frame.size(), frame.data(), frame.size());
    return end_ - frame.size();
  }

 private:
  uint8_t* end_ = nullptr;
};

void check_packet(const parsed_packet& packet, size_t bytes) {
  MOSE_CHECK(packet.kind <= 3, "a kind that there is");
  if (packet.kind != 2) return;
  MOSE_CHECK(packet.family == 4 || packet.family == 6, "IP is of version 4 or 6");
  const size_t least = packet.family == 4 ? 20 : 40;
  MOSE_CHECK(packet.l3_offset >= 14 && packet.l3_offset + least <= bytes, "the header of IP is there");
  MOSE_CHECK(packet.l4_offset == 0 || packet.l4_offset >= packet.l3_offset + least, "what IP carries lies behind it");
  MOSE_CHECK(packet.tcp_flags == 0 || (packet.protocol == 6 && packet.l4_offset + 14 <= bytes), "flags are those of TCP");
  MOSE_CHECK(packet.tcp_fragment == 0 || packet.fragment != 0, "a fragment of TCP is one");
}

}  // namespace

// The first two bytes: how much of the frame is in memory. What a frame is does not depend on it.
void feed_packet(Input input) {
  static Place place;
  if (input.size() < 2 || input.size() - 2 > kFrameMax) return;
  const Input frame = input.subspan(2);
  const auto bytes = static_cast<uint32_t>(frame.size());
  const uint32_t some = bytes == 0 ? 0 : (static_cast<uint32_t>(input[0]) | static_cast<uint32_t>(input[1]) << 8) % (bytes + 1);
  const uint8_t* at = place.put(frame);
  parsed_packet whole{}, part{};
  parse_on_host(at, bytes, bytes, &whole);
  check_packet(whole, bytes);
  for (uint32_t linear : {0u, some}) {
    part = {};
    parse_on_host(at, bytes, linear, &part);
    MOSE_CHECK(memcmp(&whole, &part, sizeof whole) == 0, "a frame is what it is, wherever its bytes lie");
  }
}

}  // namespace mose::fuzz
