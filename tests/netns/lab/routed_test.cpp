// SPDX-License-Identifier: MIT
// A live Redis moved to a node behind a router, for a client that goes on sending to where it was.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "counting.h"
#include "kernel/netns.h"
#include "live_lab.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;
constexpr const char* kLab = "t-lab-routed";

// In the router's namespace.
Status forward() {
  MOSE_TRY(set_net_sysctl("ipv4/conf/all/forwarding", "1"));
  MOSE_TRY(set_net_sysctl("ipv4/conf/all/rp_filter", "0"));
  for (const char* port : {"pb", "br0"}) {
    MOSE_TRY(set_net_sysctl(std::string("ipv4/conf/") + port + "/rp_filter", "0"));
    // Redirects would tell the client a way that there is not.
    MOSE_TRY(set_net_sysctl(std::string("ipv4/conf/") + port + "/send_redirects", "0"));
  }
  MOSE_TRY(set_net_sysctl("ipv4/conf/pb/proxy_arp", "1"));
  MOSE_TRY(set_net_sysctl("ipv4/neigh/pb/proxy_delay", "0"));
  return {};
}

// The switch becomes a router between the segment of a and the client, and that of b. Addresses stay: host routes lead
// to b, and the router answers on its segment for those of the other.
Status put_router_between(const Names& names) {
  MOSE_TRY(run_ip(names.netns("sw"),
                  "link set pb nomaster\n"
                  "addr add 198.51.100.1/24 dev br0\n"
                  "addr add 198.51.100.1/32 dev pb\n"
                  "route add 198.51.100.12/32 dev pb\n"));
  MOSE_ASSIGN(auto sw, Place::of_netns(names.netns_path("sw")));
  MOSE_TRY(in_place(sw, [] { return forward(); }));
  MOSE_TRY(run_ip(names.netns("a"), "route add 198.51.100.12/32 via 198.51.100.1 dev br0\n"));
  return run_ip(names.netns("b"),
                "addr del 198.51.100.12/24 dev br0\n"
                "addr add 198.51.100.12/32 dev br0\n"
                "route add 198.51.100.1/32 dev br0\n"
                "route add default via 198.51.100.1 dev br0\n");
}

// Room for the tunnel's headers between the nodes; workloads keep their 1500. A bridge follows its ports until it is
// set.
Status widen(const Names& names) {
  for (const char* node : kNodes) {
    MOSE_TRY(run_ip(names.netns("sw"), std::string("link set p") + node + " mtu 1600\n"));
    MOSE_TRY(run_ip(names.netns(node), "link set dev up mtu 1600\nlink set br0 mtu 1500\n"));
  }
  return {};
}

class Routed : public test::LiveLab {
 protected:
  Routed() : LiveLab(kLab) {}

  void expect_goes_on(const Counting& client, const std::string& when) {
    const uint64_t from = client.count();
    for (int i = 0; i < 500 && client.count() < from + 500; ++i) ::usleep(10'000);
    EXPECT_GE(client.count(), from + 500) << when;
  }
};

TEST_F(Routed, AClientGoesOnForAsLongAsTheOldPlaceRedirects) {
  ASSERT_NO_FATAL_FAILURE(make_lab());
  auto routed = put_router_between(names_);
  ASSERT_TRUE(routed) << routed.error().what;
  auto started = start_redis();
  ASSERT_EQ(started.exit_code, 0) << started.err;
  Counting client(names_.netns_path("client"));
  expect_goes_on(client, "before the move");

  // What does not fit is refused before anything is touched.
  auto refused = mose("a", {"migrate", "redis", "--to", "b"});
  EXPECT_EQ(refused.exit_code, 3) << refused.err << refused.out;
  EXPECT_THAT(refused.err + refused.out,
              HasSubstr("1550 in the VXLAN tunnel to 198.51.100.12, and uplink up takes 1500"));
  EXPECT_THAT(mose("a", {"check", "redis", "--to", "b"}).out, HasSubstr("1550 in the VXLAN tunnel"));
  expect_goes_on(client, "after the refusal");
  auto wide = widen(names_);
  ASSERT_TRUE(wide) << wide.error().what;

  auto moved = mose("a", {"migrate", "redis", "--to", "b", "--json"});
  ASSERT_EQ(moved.exit_code, 0) << moved.err << moved.out << read_file(names_.agent_log("a")).value_or("");
  Json report = Json::parse(moved.out, nullptr, false);
  ASSERT_TRUE(report.is_object());
  EXPECT_EQ(report["steer"]["mode"], "vxlan");
  EXPECT_EQ(report["packets"]["dropped"], 0);
  ::sleep(1);  // longer than stragglers are redirected on a segment
  expect_goes_on(client, "after the move");
  ASSERT_TRUE(
      run_ip(names_.netns("client"), std::string("neigh del ") + kServiceAddress + " dev " + kClientDevice + "\n"));
  expect_goes_on(client, "when the old place had to be asked for again");

  EXPECT_THAT(mose("a", {"steer", "show"}).out, HasSubstr("redirect (vxlan to 198.51.100.12)"));
  EXPECT_THAT(mose("a", {"steer", "explain", "tcp", "198.51.100.2:40000", std::string(kServiceAddress) + ":6379"}).out,
              HasSubstr("in a tunnel (VXLAN from 198.51.100.11 to 198.51.100.12, port 4789)"));
  Json there = Json::parse(mose("b", {"steer", "show", "--json"}).out, nullptr, false);
  ASSERT_EQ(there.size(), 1u) << there;
  EXPECT_EQ(there[0]["taken_from"]["remote"], "198.51.100.11");
  EXPECT_GT(there[0]["uplink_tc"]["frames"]["taken"], 0);
  EXPECT_FALSE(there[0]["uplink_tc"]["frames"].contains("held"));
  EXPECT_THAT(mose("b", {"steer", "show"}).out, HasSubstr("redis uplink: taken "));

  auto again = restart_agent(names_, state_, "a");
  ASSERT_TRUE(again) << again.error().what;
  expect_goes_on(client, "without the agent that had begun it");

  // Back: its clients come by a, so that an end of the redirection is for somebody to decide.
  auto back = mose("b", {"migrate", "redis", "--to", "a", "--json"});
  EXPECT_EQ(back.exit_code, 3) << back.out;
  EXPECT_THAT(back.out + back.err, HasSubstr("node a still redirects the packets of redis by VXLAN"));
  expect_goes_on(client, "after the refused return");
  auto released = mose("a", {"steer", "release", "redis"});
  EXPECT_EQ(released.exit_code, 0) << released.err;
  back = mose("b", {"migrate", "redis", "--to", "a", "--json"});
  ASSERT_EQ(back.exit_code, 0) << back.err << back.out;
  expect_goes_on(client, "back where it was");
  client.stop();
  EXPECT_EQ(client.problem(), "");
  // b's side of it, and what it has kept, goes.
  EXPECT_THAT(mose("b", {"cleanup"}).out, HasSubstr("workload redis forgotten"));
}

}  // namespace
}  // namespace mose::lab
