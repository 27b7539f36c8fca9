// SPDX-License-Identifier: MIT
#include "model/flow.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

namespace mose {
namespace {

TEST(Flow, ReadsWhatItWrites) {
  for (const char* text : {"tcp 192.0.2.9:40000 192.0.2.10:6379", "tcp 192.0.2.9:40000 192.0.2.10:6379 syn",
                           "udp [2001:db8::9]:40000 [2001:db8::10]:53", "icmp 192.0.2.9 192.0.2.10",
                           "icmp 2001:db8::9 2001:db8::10"}) {
    auto flow = parse_flow(text);
    ASSERT_TRUE(flow) << text << ": " << flow.error().what;
    EXPECT_EQ(format_flow(*flow), text);
  }
  auto flow = parse_flow("tcp  192.0.2.9:1   192.0.2.10:65535 syn ");
  ASSERT_TRUE(flow);
  EXPECT_EQ(flow->source.family, AF_INET);
  EXPECT_EQ(flow->destination_port, 65535);
  EXPECT_TRUE(flow->opens);
}

TEST(Flow, SaysWhatIsWrong) {
  const struct {
    const char *text, *why;
  } rows[] = {
      {"", "a protocol, the source"},
      {"tcp 192.0.2.9:1", "a protocol, the source"},
      {"tcp 192.0.2.9:1 192.0.2.10:2 ack", "a protocol, the source"},
      {"sctp 192.0.2.9:1 192.0.2.10:2", "\"sctp\""},
      {"udp 192.0.2.9:1 192.0.2.10:2 syn", "only tcp"},
      {"tcp 192.0.2.9 192.0.2.10:2", "\"192.0.2.9\""},
      {"tcp 192.0.2.9:0 192.0.2.10:2", "\"192.0.2.9:0\""},
      {"tcp 192.0.2.9:65536 192.0.2.10:2", "\"192.0.2.9:65536\""},
      {"tcp 2001:db8::9:1 [2001:db8::10]:2", "\"2001:db8::9:1\""},
      {"tcp [192.0.2.9]:1 192.0.2.10:2", "\"[192.0.2.9]:1\""},
      {"icmp 192.0.2.9:7 192.0.2.10", "\"192.0.2.9:7\""},
      {"tcp 192.0.2.9:1 [2001:db8::10]:2", "different families"},
  };
  for (const auto& row : rows) {
    auto flow = parse_flow(row.text);
    ASSERT_FALSE(flow) << row.text;
    EXPECT_NE(flow.error().what.find(row.why), std::string::npos) << flow.error().what;
  }
}

}  // namespace
}  // namespace mose
