// SPDX-License-Identifier: MIT
#include "counters.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "kernel/netns.h"
#include "kernel/procfs.h"

namespace mose::test {
namespace {

// Pairs of lines, names and values: "TcpExt: TCPTimeouts ..." / "TcpExt: 0 ...".
void add_file(std::map<std::string, uint64_t>& out, const std::string& text) {
  std::istringstream lines(text);
  for (std::string names, values; std::getline(lines, names) && std::getline(lines, values);) {
    std::istringstream name_of(names), value_of(values);
    std::string group, name, value;
    name_of >> group;
    value_of >> value;
    while (name_of >> name && value_of >> value) out[group + name] = std::strtoull(value.c_str(), nullptr, 10);
  }
}

}  // namespace

TcpCounters tcp_counters(const Fd& netns) {
  std::map<std::string, uint64_t> all;
  auto read = in_netns(netns.get(), [&]() -> Status {
    for (const char* file : {"snmp", "netstat"}) {
      MOSE_ASSIGN(std::string text, read_file(std::string("/proc/thread-self/net/") + file));
      add_file(all, text);
    }
    return {};
  });
  EXPECT_TRUE(read.has_value()) << read.error().what;
  EXPECT_TRUE(all.contains("TcpExt:TCPTimeouts")) << "the kernel names its counters otherwise";
  return {.timeouts = all["TcpExt:TCPTimeouts"],
          .loss_probes = all["TcpExt:TCPLossProbes"],
          .retransmitted = all["Tcp:RetransSegs"],
          .syn_retries = all["TcpExt:TCPSynRetrans"],
          .resets_sent = all["Tcp:OutRsts"],
          .resets_received = all["Tcp:EstabResets"],
          .listen_drops = all["TcpExt:ListenDrops"]};
}

TcpCounters TcpCounters::since(const TcpCounters& earlier) const {
  return {.timeouts = timeouts - earlier.timeouts,
          .loss_probes = loss_probes - earlier.loss_probes,
          .retransmitted = retransmitted - earlier.retransmitted,
          .syn_retries = syn_retries - earlier.syn_retries,
          .resets_sent = resets_sent - earlier.resets_sent,
          .resets_received = resets_received - earlier.resets_received,
          .listen_drops = listen_drops - earlier.listen_drops};
}

std::string TcpCounters::text() const {
  return fmt::format("{} time-outs, {} probes, {} retransmitted, {} SYN retries, {} RST out, {} in, {} listen drops",
                     timeouts, loss_probes, retransmitted, syn_retries, resets_sent, resets_received, listen_drops);
}

}  // namespace mose::test
