// SPDX-License-Identifier: MIT
// A live Redis moved between two nodes whose uplinks redirect at XDP, for a client that sends to the old node until the
// old node says no more.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "counting.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"
#include "live_lab.h"
#include "model/workload.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;
constexpr const char* kLab = "t-lab-xdp";

class Xdp : public test::LiveLab {
 protected:
  Xdp() : LiveLab(kLab) {}

  // Frames that the agent says it has redirected at XDP when that ended; waits for the end.
  [[nodiscard]] std::optional<uint64_t> redirected(const std::string& node) const {
    for (int i = 0; i < 500; ++i, ::usleep(20'000)) {
      std::string text = agent_log(node);
      size_t at = text.find("the redirection at XDP ends"), end = text.find('\n', at);
      if (at == std::string::npos || end == std::string::npos) continue;
      size_t frames = text.find("frames", at);
      if (frames == std::string::npos || frames > end) return std::nullopt;
      return std::strtoull(text.c_str() + text.find_first_of("0123456789", frames), nullptr, 10);
    }
    return std::nullopt;
  }
};

TEST_F(Xdp, AClientWithAStaleEntryLosesNothing) {
  LabOptions options;
  options.steer = "xdp";
  ASSERT_NO_FATAL_FAILURE(make_lab(options));
  auto started = start_redis();
  ASSERT_EQ(started.exit_code, 0) << started.err << agent_log("a");

  // Whatever it is told, the client sends to the uplink of a.
  std::string mac;
  auto a = open_file(names_.netns_path("a"), O_RDONLY);
  ASSERT_TRUE(a);
  auto found = in_netns(a->get(), [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto link, netlink.link(kUplink));
    mac = format_mac(link.mac);
    return {};
  });
  ASSERT_TRUE(found) << found.error().what;
  const std::string entry = std::string(kServiceAddress) + " lladdr " + mac + " dev " + kClientDevice;
  ASSERT_TRUE(run_ip(names_.netns("client"), "neigh replace " + entry + " nud permanent\n"));
  Counting client(names_.netns_path("client"));
  for (int i = 0; i < 500 && client.count() < 100; ++i) ::usleep(10'000);
  ASSERT_GE(client.count(), 100u);

  auto moved = mose("a", {"migrate", "redis", "--to", "b", "--steer", "xdp", "--json"});
  const uint64_t moved_at = client.count();
  ASSERT_EQ(moved.exit_code, 0) << moved.err << moved.out;
  Json report = Json::parse(moved.out, nullptr, false);
  ASSERT_TRUE(report.is_object());
  EXPECT_EQ(report["steer"]["layer"], "xdp");
  EXPECT_EQ(report["packets"]["dropped"], 0);
  // One machine, one clock: by the thaw, which both have seen, it is longer by the way of one message.
  const Json& packets = report["packets"];
  ASSERT_TRUE(packets["silence_ms"].is_number()) << packets;
  const double by_stamps = static_cast<double>(packets["first_out_us"].get<int64_t>() - packets["last_out_us"].get<int64_t>()) / 1000;
  EXPECT_GT(by_stamps, 0);
  EXPECT_GE(packets["silence_ms"].get<double>(), by_stamps);
  EXPECT_LT(packets["silence_ms"].get<double>(), report["total_ms"].get<double>());
  // Before a ends it, about half a second from here: the client must know better by then.
  client.stop();
  EXPECT_EQ(client.problem(), "");
  EXPECT_GT(moved_at, 100u);
  auto at_xdp = redirected("a");
  ASSERT_TRUE(at_xdp) << agent_log("a");
  EXPECT_GT(*at_xdp, 0u);

  // b knows the service as its own; what a has left of it is nothing.
  Json there = Json::parse(mose("b", {"steer", "show", "--json"}).out, nullptr, false);
  ASSERT_EQ(there.size(), 1u) << there;
  EXPECT_EQ(there[0]["uplink"]["state"], "local");
  EXPECT_EQ(there[0]["uplink"]["mode"], "native");
  EXPECT_GT(there[0]["uplink"]["taken"], 0);
  EXPECT_THAT(mose("b", {"cleanup"}).out, HasSubstr("nothing to clean up")) << "b still needs its program";
  EXPECT_THAT(mose("a", {"cleanup"}).out, HasSubstr("the XDP program of uplink up is detached"));

  // Back, to a node that attaches its program again for it, restarts, and still knows the service.
  ASSERT_TRUE(
      run_ip(names_.netns("client"), std::string("neigh del ") + kServiceAddress + " dev " + kClientDevice + "\n"));
  auto back = mose("b", {"migrate", "redis", "--to", "a", "--json"});
  ASSERT_EQ(back.exit_code, 0) << back.err << back.out;
  EXPECT_EQ(Json::parse(back.out, nullptr, false)["steer"]["layer"], "xdp");
  ASSERT_TRUE(redirected("b"));
  Json here = Json::parse(mose("a", {"steer", "show", "--json"}).out, nullptr, false);
  ASSERT_EQ(here.size(), 1u) << here;
  EXPECT_EQ(here[0]["uplink"]["state"], "local");
  auto again = restart_agent(names_, state_, "a");
  ASSERT_TRUE(again) << again.error().what;
  EXPECT_THAT(agent_log("a"), HasSubstr("the uplink's XDP program was adopted"));
  here = Json::parse(mose("a", {"steer", "show", "--json"}).out, nullptr, false);
  EXPECT_EQ(here[0]["uplink"]["state"], "local") << "the entry is there after a restart";
  ProgramResult last{3, "", ""};
  for (int i = 0; i < 300 && last.exit_code == 3; ++i) {  // its CRIU is not ready at once
    if (i > 0) ::usleep(100'000);
    last = mose("a", {"migrate", "redis", "--to", "b", "--steer", "tc", "--json"});
  }
  ASSERT_EQ(last.exit_code, 0) << last.err << last.out;
  EXPECT_EQ(Json::parse(last.out, nullptr, false)["steer"]["layer"], "tc");
  EXPECT_EQ(mose("b", {"stop", "redis"}).exit_code, 0);
  EXPECT_THAT(mose("b", {"cleanup"}).out, HasSubstr("the XDP program of uplink up is detached"));
}

}  // namespace
}  // namespace mose::lab
