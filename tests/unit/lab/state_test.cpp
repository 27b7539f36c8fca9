// SPDX-License-Identifier: MIT
#include "lab/state.h"

#include <gtest/gtest.h>

#include "lab/agent.h"

namespace mose::lab {
namespace {

TEST(LabState, ComesBackAsItWas) {
  LabState s;
  s.lab = "x";
  s.complete = true;
  s.netns = {"mose-lab-x-sw"};
  s.cgroup = "/sys/fs/cgroup/mose-lab-x";
  s.disk = "/var/lib/mose/lab/x";
  s.made_disk_parent = true;
  s.keepers["a"] = {123, 456789};
  s.agents["b"] = {124, 456790};
  s.run = ProcessRecord{7, 8};
  s.link_rate_mbit = 1000;
  s.link = ProcessRecord{9, 10};
  auto back = state_from_json(to_json(s));
  ASSERT_TRUE(back);
  EXPECT_EQ(to_json(*back), to_json(s));
  EXPECT_EQ(back->keepers["a"].start_time, 456789u);
  EXPECT_EQ(back->link_rtt_ms, std::nullopt);
}

TEST(LabState, HalfWrittenOrForeignFilesDoNoHarm) {
  EXPECT_FALSE(state_from_json(""));
  EXPECT_FALSE(state_from_json("{\"lab\":"));
  EXPECT_FALSE(state_from_json("[]"));
  auto empty = state_from_json(R"({"netns":[1,null],"keepers":{"a":{"pid":"x"}},"agents":3})");
  ASSERT_TRUE(empty);
  EXPECT_TRUE(empty->netns.empty());
  EXPECT_TRUE(empty->keepers.empty());
  EXPECT_FALSE(empty->complete);
}

TEST(LabNames, FollowFromTheLab) {
  Names names("x");
  EXPECT_EQ(names.netns("a"), "mose-lab-x-a");
  EXPECT_EQ(names.node_root("b"), "/var/lib/mose/lab/x/b/root");
  EXPECT_EQ(node_address("a"), "198.51.100.11");
  EXPECT_EQ(node_address("b"), "198.51.100.12");
  EXPECT_TRUE(is_node("a"));
  EXPECT_FALSE(is_node("client"));
}

TEST(LabAgent, ConfigurationNamesTheNodeAndItsPeer) {
  std::string config = agent_config(Names("x"), "b", "", false);
  EXPECT_NE(config.find("name = \"b\""), std::string::npos);
  EXPECT_NE(config.find("listen = \"198.51.100.12:7400\""), std::string::npos);
  EXPECT_NE(config.find("[peers.a]\naddress = \"198.51.100.11:7400\""), std::string::npos);
  EXPECT_NE(config.find("mose-lab-x/b"), std::string::npos);
  EXPECT_EQ(config.find("steer"), std::string::npos);
  EXPECT_NE(config.find("[tls]\nplain_text = true\n\n[peers.a]"), std::string::npos);
  const std::string certified = agent_config(Names("x"), "b", "", true);
  EXPECT_NE(certified.find("certificate = \"/etc/mose/pki/b.crt\""), std::string::npos);
  EXPECT_NE(certified.find("revoked = \"/etc/mose/pki/revoked.pem\"\n\n[peers.a]"), std::string::npos);
  EXPECT_EQ(certified.find("plain_text"), std::string::npos);
  EXPECT_NE(agent_config(Names("x"), "b", "xdp", false).find("steer = \"xdp\"\n\n[tls]"), std::string::npos);
}

}  // namespace
}  // namespace mose::lab
