// SPDX-License-Identifier: MIT
#include "client/reset_watch.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>

namespace mose::client {
namespace {

constexpr uint32_t kProtocolAt = 9, kFragmentAt = 6, kFlagsAt = 13;  // of the IPv4 and of the TCP header
constexpr uint32_t kFragmentMask = 0x1fff, kRst = 0x04;

// The packet begins with its IPv4 header. One byte of a reset is taken: only its number counts.
constexpr std::array<sock_filter, 9> kResets = {{
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, kProtocolAt),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 0, 6),
    BPF_STMT(BPF_LD | BPF_H | BPF_ABS, kFragmentAt),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, kFragmentMask, 4, 0),
    BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0),
    BPF_STMT(BPF_LD | BPF_B | BPF_IND, kFlagsAt),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, kRst, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, 1),
    BPF_STMT(BPF_RET | BPF_K, 0),
}};

}  // namespace

Result<ResetWatch> ResetWatch::open() {
  // No protocol: nothing is taken before the filter stands.
  Fd fd(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("packet socket");
  sock_fprog program{static_cast<unsigned short>(kResets.size()), const_cast<sock_filter*>(kResets.data())};
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0) {
    return fail_errno("filter of a packet socket");
  }
  sockaddr_ll all{};
  all.sll_family = AF_PACKET;
  all.sll_protocol = htons(ETH_P_IP);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&all), sizeof all) != 0) return fail_errno("bind a packet socket");
  return ResetWatch(std::move(fd));
}

std::optional<uint64_t> ResetWatch::take() {
  tpacket_stats stats{};
  socklen_t size = sizeof stats;
  // Reading sets it to zero; those for which the socket had no room any more are counted too.
  if (::getsockopt(socket_.get(), SOL_PACKET, PACKET_STATISTICS, &stats, &size) != 0) return std::nullopt;
  return stats.tp_packets;
}

}  // namespace mose::client
