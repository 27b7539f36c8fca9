// SPDX-License-Identifier: MIT
// The commands of docs/steering.md, run against a live pinned set.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "bed.h"
#include "handover/uplink_steering.h"
#include "kernel/netlink.h"

namespace mose::test {
namespace {

std::vector<std::string> commands_of(const std::string& path) {
  std::vector<std::string> commands;
  std::ifstream file(path);
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("```")) {
      inside = line == "```sh";
    } else if (inside) {
      commands.push_back(line);
    }
  }
  return commands;
}

std::string output_of(const std::string& command, int& code) {
  std::string out;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return out;
  char buffer[4096];
  while (size_t got = fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, got);
  code = pclose(pipe);
  return out;
}

TEST(SteeringGuide, ItsCommandsWork) {
  Bed bed;
  handover::WorkloadNetwork network = bed.create(bed.a);
  setenv("PINS", (bed.a.bpffs + "/mose/mnet-redis").c_str(), 1);
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto link, netlink.link("up"));
    MOSE_ASSIGN(auto uplink, handover::UplinkSteering::attach({.device = "up",
                                                               .ifindex = link.ifindex,
                                                               .mac = bed.a.uplink_mac,
                                                               .bpffs = bed.a.bpffs}));
    return uplink.put(service4(), {.workload = "mnet-redis", .service_mac = mac_for(service4())});
  });
  setenv("UPLINK", (bed.a.bpffs + "/mose/uplink:up").c_str(), 1);
  setenv("PATH", (std::string(MOSE_TEST_PREFIX "/bin:") + getenv("PATH")).c_str(), 1);
  std::vector<std::string> commands = commands_of(MOSE_TEST_GUIDE);
  ASSERT_EQ(commands.size(), 8u);
  std::string all;
  for (const std::string& command : commands) {
    int code = -1;
    std::string out = output_of(command, code);
    EXPECT_EQ(code, 0) << command << "\n" << out;
    all += out;
  }
  // Names, not bytes: the maps carry their types.
  for (const char* name : {"\"state\": \"MOSE_STEER_PASS\"", "hold_packets_max", "queued", "service_mac", "stamps",
                           "\"state\": \"MOSE_UPLINK_LOCAL\""}) {
    EXPECT_NE(all.find(name), std::string::npos) << name << " in\n" << all.substr(0, 4000);
  }
}

}  // namespace
}  // namespace mose::test
