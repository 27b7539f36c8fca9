// SPDX-License-Identifier: MIT
// A workload's network: made whole or not at all, removed whole, and what it knows of its segment.
#include <gtest/gtest.h>
#include <net/if.h>

#include <algorithm>
#include <cstdlib>

#include "handover.h"
#include "handover/announce.h"
#include "kernel/bpf_object.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"

namespace mose::test {
namespace {

using handover::WorkloadNetwork;

unsigned program_id(const Bed::Node& node) {
  auto program = bpf::open_pinned(node.bpffs + "/mose/mnet-redis/tap_program");
  if (!program) return 0;
  auto text = read_file("/proc/self/fdinfo/" + std::to_string(program->get()));
  size_t at = text ? text->find("prog_id:") : std::string::npos;
  return at == std::string::npos ? 0 : static_cast<unsigned>(std::stoul(text->substr(at + 8)));
}

TEST(Destroy, LeavesNothing) {
  Bed bed;
  unsigned id = 0;
  std::string device = handover::host_device_name("mnet-redis");
  {
    WorkloadNetwork network = bed.create(bed.a);
    EXPECT_EQ(bed.pins(bed.a).size(), 10u);
    id = program_id(bed.a);
    EXPECT_NE(id, 0u);
  }
  bed.in(bed.a.netns, [&]() -> Status {
    EXPECT_NE(if_nametoindex(device.c_str()), 0u);
    MOSE_TRY(WorkloadNetwork::destroy("mnet-redis", bed.a.bpffs));
    EXPECT_EQ(if_nametoindex(device.c_str()), 0u);
    return WorkloadNetwork::destroy("mnet-redis", bed.a.bpffs);  // again: nothing to do, no error
  });
  EXPECT_TRUE(bed.pins(bed.a).empty());
  WorkloadNetwork again = bed.create(bed.a);  // and the way is free
}

TEST(Create, LeavesNothingWhenItFails) {
  Bed bed;
  auto attempt = [&](const handover::WorkloadNetworkConfig& config) {
    auto result = in_netns_get<WorkloadNetwork>(bed.a.netns.get(),
                                                [&] { return WorkloadNetwork::create(config, bed.a.workload.get()); });
    EXPECT_FALSE(result.has_value());
    return result ? std::string() : result.error().what;
  };
  auto nothing_left = [&] {
    EXPECT_TRUE(bed.pins(bed.a).empty());
    bed.in(bed.a.netns, [&]() -> Status {
      EXPECT_EQ(if_nametoindex(handover::host_device_name("mnet-redis").c_str()), 0u);
      return {};
    });
  };
  auto config = bed.config(bed.a);
  config.bridge = "nosuch0";
  EXPECT_NE(attempt(config).find("nosuch0"), std::string::npos);
  nothing_left();
  config = bed.config(bed.a);
  config.uplink = "nosuch1";
  EXPECT_NE(attempt(config).find("nosuch1"), std::string::npos);
  nothing_left();
  config = bed.config(bed.a);
  config.bpffs = "/proc/nosuch";
  attempt(config);
  nothing_left();
  config = bed.config(bed.a);
  config.gateway = "198.51.100.1";  // not on the segment
  EXPECT_NE(attempt(config).find("198.51.100.1"), std::string::npos);
  nothing_left();
  config = bed.config(bed.a);
  config.addresses.assign(9, service4());
  attempt(config);
  nothing_left();
  WorkloadNetwork network = bed.create(bed.a);
  config = bed.config(bed.a);
  attempt(config);  // a second one of the same name
  EXPECT_EQ(bed.pins(bed.a).size(), 10u) << "the first one was damaged";
}

TEST(ProbeAddress, FindsWhoAnswers) {
  Bed bed;
  auto probe = [&](const char* text) {
    auto found = in_netns_get<std::vector<MacAddress>>(
        bed.b.netns.get(), [&] { return handover::probe_address("br0", *parse_service_address(text)); });
    EXPECT_TRUE(found.has_value());
    return found.value_or(std::vector<MacAddress>{});
  };
  EXPECT_TRUE(probe(kServiceText4).empty());
  EXPECT_TRUE(probe(kServiceText6).empty());
  EXPECT_EQ(probe(kClientText4), (std::vector<MacAddress>{{2, 0, 0, 0, 0, 2}}));
  EXPECT_EQ(probe(kClientText6), (std::vector<MacAddress>{{2, 0, 0, 0, 0, 2}}));
  WorkloadNetwork source = bed.create(bed.a);
  EXPECT_EQ(probe(kServiceText4), std::vector<MacAddress>{mac_for(service4())});
  EXPECT_EQ(probe(kServiceText6), std::vector<MacAddress>{mac_for(service4())});
}

TEST(Neighbours, AreReadAndGiven) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  handover::Neighbour extra{*parse_service_address("192.0.2.77/32"), {2, 0, 0, 0, 0, 0x77}};
  EXPECT_OK(network.add_neighbours({extra}));
  auto list = network.neighbours();
  ASSERT_TRUE(list.has_value());
  EXPECT_NE(std::find(list->begin(), list->end(), extra), list->end());
  EXPECT_EQ(list->size(), 3u);
}

}  // namespace
}  // namespace mose::test
