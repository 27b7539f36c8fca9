// SPDX-License-Identifier: MIT
#include "client/tcp_counters.h"

#include <sstream>

#include "base/fd.h"

namespace mose::client {
namespace {

// Both files hold pairs of lines that begin with the same word: names, then values.
std::optional<uint64_t> value_of(const std::string& text, const std::string& group, const std::string& name) {
  std::istringstream lines(text);
  std::string names, values;
  while (std::getline(lines, names) && std::getline(lines, values)) {
    if (!names.starts_with(group + ":")) continue;
    std::istringstream name_words(names), value_words(values);
    std::string n, v;
    while (name_words >> n && value_words >> v) {
      if (n == name) return std::stoull(v);
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<TcpCounters> parse_tcp_counters(const std::string& snmp, const std::string& netstat) {
  auto timeouts = value_of(netstat, "TcpExt", "TCPTimeouts");
  auto probes = value_of(netstat, "TcpExt", "TCPLossProbes");
  auto retransmits = value_of(snmp, "Tcp", "RetransSegs");
  auto sent = value_of(snmp, "Tcp", "OutRsts");
  auto established = value_of(snmp, "Tcp", "EstabResets");
  if (!timeouts || !probes || !retransmits || !sent || !established) return std::nullopt;
  return TcpCounters{*timeouts, *retransmits, *probes, *sent, *established};
}

std::optional<TcpCounters> read_tcp_counters(const std::string& process) {
  auto snmp = read_file("/proc/" + process + "/net/snmp");
  auto netstat = read_file("/proc/" + process + "/net/netstat");
  if (!snmp || !netstat) return std::nullopt;
  return parse_tcp_counters(*snmp, *netstat);
}

}  // namespace mose::client
