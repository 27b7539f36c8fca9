// SPDX-License-Identifier: MIT
#include "model/flow.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>
#include <utility>
#include <vector>

namespace mose {
namespace {

constexpr std::string_view kExample = "tcp 192.0.2.9:40000 192.0.2.10:6379 [syn]";

std::unexpected<Error> bad_flow(std::string_view text, std::string_view why) {
  return fail(fmt::format("\"{}\" is not a flow such as \"{}\": {}", text, kExample, why));
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    size_t end = text.find(' ');
    if (end != 0) words.push_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return words;
}

bool read_address(std::string_view text, ServiceAddress& out) {
  std::string host(text);
  out.family = host.find(':') == std::string::npos ? AF_INET : AF_INET6;
  out.prefix = out.family == AF_INET ? 32 : 128;
  return inet_pton(out.family, host.c_str(), out.bytes.data()) == 1;
}

// "192.0.2.9:40000" or "[2001:db8::9]:40000".
bool read_end(std::string_view text, ServiceAddress& address, uint16_t& port) {
  size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return false;
  std::string_view host = text.substr(0, colon), digits = text.substr(colon + 1);
  bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (!read_address(host, address) || bracketed != (address.family == AF_INET6)) return false;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  return error == std::errc() && end == digits.data() + digits.size() && port != 0;
}

std::string format_end(const ServiceAddress& address, uint16_t port) {
  std::string host = format_address(address);
  if (port == 0) return host;
  return address.family == AF_INET ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

}  // namespace

std::string_view to_string(FlowProtocol protocol) {
  switch (protocol) {
    case FlowProtocol::icmp:
      return "icmp";
    case FlowProtocol::tcp:
      return "tcp";
    case FlowProtocol::udp:
      return "udp";
  }
  return "?";
}

Result<Flow> parse_flow(std::string_view text) {
  std::vector<std::string_view> words = words_of(text);
  Flow flow;
  if (words.size() == 4 && words[3] == "syn") {
    flow.opens = true;
    words.pop_back();
  }
  if (words.size() != 3) return bad_flow(text, "a protocol, the source and the destination are wanted");
  bool known = false;
  for (FlowProtocol protocol : {FlowProtocol::icmp, FlowProtocol::tcp, FlowProtocol::udp}) {
    if (words[0] != to_string(protocol)) continue;
    flow.protocol = protocol;
    known = true;
  }
  if (!known) return bad_flow(text, fmt::format("\"{}\" is not tcp, udp or icmp", words[0]));
  if (flow.opens && flow.protocol != FlowProtocol::tcp) return bad_flow(text, "only tcp has a connection request");
  for (auto [word, address, port] : {std::tuple{words[1], &flow.source, &flow.source_port},
                                     std::tuple{words[2], &flow.destination, &flow.destination_port}}) {
    bool read = flow.protocol == FlowProtocol::icmp ? read_address(word, *address) : read_end(word, *address, *port);
    if (!read) {
      return bad_flow(text, fmt::format("\"{}\" is not an address{}", word,
                                        flow.protocol == FlowProtocol::icmp ? "" : " and a port (IPv6: [address]:port)"));
    }
  }
  if (flow.source.family != flow.destination.family) return bad_flow(text, "the two addresses are of different families");
  return flow;
}

std::string format_flow(const Flow& flow) {
  return fmt::format("{} {} {}{}", to_string(flow.protocol), format_end(flow.source, flow.source_port),
                     format_end(flow.destination, flow.destination_port), flow.opens ? " syn" : "");
}

}  // namespace mose
