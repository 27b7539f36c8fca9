// SPDX-License-Identifier: MIT
#include "agent/workload_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/workload_start.h"
#include "temp_dir.h"

namespace mose::agent {
namespace {

using testing::HasSubstr;

WorkloadSpec example() {
  WorkloadSpec spec;
  spec.name = "redis";
  spec.addresses = {*parse_service_address("192.0.2.10/24"), *parse_service_address("2001:db8::10/64")};
  spec.mac = mac_for(spec.addresses[0]);
  spec.gateway = "192.0.2.1";
  spec.root = "/srv/redis";
  spec.mounts = {{"/srv/data", "/data", MountMode::copy, true}};
  spec.command = {"/usr/bin/redis-server", "--save", ""};
  spec.environment = {"LANG=C", "ODD=\xff"};
  return spec;
}

TEST(WorkloadRecord, GivesBackWhatWasWritten) {
  WorkloadRecord record;
  record.workload.spec = example();
  record.workload.spec.environment = {"LANG=C"};
  record.workload.state = WorkloadState::moving;
  record.workload.origin = WorkloadOrigin::moved;
  record.workload.cgroup = "/sys/fs/cgroup/mose/redis";
  record.workload.migration = "00ff";
  record.pid = 77;
  record.start_time = 123456789012;
  record.boot = "b";
  auto again = decode_record(encode_record(record));
  ASSERT_TRUE(again) << again.error().what;
  EXPECT_EQ(again->workload.spec, record.workload.spec);
  EXPECT_EQ(again->workload.state, WorkloadState::moving);
  EXPECT_EQ(again->workload.origin, WorkloadOrigin::moved);
  EXPECT_EQ(again->workload.migration, "00ff");
  EXPECT_EQ(again->pid, 77);
  EXPECT_EQ(again->start_time, 123456789012u);
}

TEST(WorkloadRecord, RefusesEveryRecordWithAPartMissing) {
  WorkloadRecord record;
  record.workload.spec = example();
  std::string text = encode_record(record);
  for (const char* key : {"\"format\"", "\"spec\"", "\"state\"", "\"pid\"", "\"start_time\"", "\"boot\"", "\"name\"",
                          "\"mode\"", "\"read_only\"", "\"mac\"", "\"addresses\"", "\"command\""}) {
    std::string broken = text;
    size_t at = broken.find(key);
    ASSERT_NE(at, std::string::npos) << key;
    broken.replace(at, 2, "\"_");
    EXPECT_FALSE(decode_record(broken)) << key;
  }
  EXPECT_FALSE(decode_record(""));
  EXPECT_FALSE(decode_record("[]"));
  EXPECT_FALSE(decode_record(text.substr(0, text.size() / 2)));
}

struct BadDescription {
  const char* name;
  const char* text;
  const char* error;
};
class DescriptionRefuses : public testing::TestWithParam<BadDescription> {};

TEST_P(DescriptionRefuses, WithPlaceAndReason) {
  auto description = parse_description("web", GetParam().text, "web.toml");
  ASSERT_FALSE(description);
  EXPECT_THAT(description.error().what, HasSubstr(GetParam().error));
}

INSTANTIATE_TEST_SUITE_P(
    Table, DescriptionRefuses,
    testing::Values(
        BadDescription{"UnknownKey", "cgroup = \"/x\"\nadress = 3\n", "web.toml:2: unknown key \"adress\""},
        BadDescription{"NoPlace", "addresses = [\"192.0.2.1/24\"]\n", "web.toml:1: give either cgroup or pid"},
        BadDescription{"BothPlaces", "cgroup = \"/x\"\npid = 3\naddresses = [\"192.0.2.1/24\"]\n",
                       "give either cgroup or pid"},
        BadDescription{"Pid", "pid = -3\n", "web.toml:1: pid must be a process id"},
        BadDescription{"AddressType", "pid = 3\naddresses = [4]\n", "web.toml:2: addresses must be a list of strings"},
        BadDescription{"Address", "pid = 3\naddresses = [\"192.0.2.1\"]\n",
                       "web.toml:2: \"192.0.2.1\" is not an address with a prefix"},
        BadDescription{"NoAddress", "pid = 3\n", "web.toml:1: workload web has no address"},
        BadDescription{"Mount", "pid = 3\nmounts = [\"/a:/b\"]\n", "web.toml:2: \"/a:/b\" is not a mount"},
        BadDescription{"Cgroup", "cgroup = \"x\"\naddresses = [\"192.0.2.1/24\"]\n",
                       "cgroup \"x\" is not an absolute path"},
        BadDescription{"NotToml", "pid = \n", "web.toml:"}),
    [](const auto& param) { return param.param.name; });

TEST(Description, OfAnotherOnesCgroup) {
  auto description = parse_description(
      "web", "cgroup = \"/sys/fs/cgroup/web\"\naddresses = [\"192.0.2.1/24\"]\nmounts = [\"/a:/b:shared:ro\"]\n",
      "web.toml");
  ASSERT_TRUE(description) << description.error().what;
  EXPECT_EQ(description->spec.name, "web");
  EXPECT_EQ(description->spec.mac, mac_for(description->spec.addresses[0]));
  EXPECT_TRUE(description->spec.mounts[0].read_only);
}

// A root with a program, a link that leads out of it and a mount that hides a part.
class ProgramTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"root/usr/bin/tool", "outside/evil", "data/bin/extra"}) {
      std::filesystem::permissions(dir_.write(name, "#!"), std::filesystem::perms::owner_all);
    }
    dir_.write("root/usr/bin/text", "not executable");
    std::filesystem::create_symlink("/usr/bin", dir_.path() + "/root/bin");
    std::filesystem::create_symlink(dir_.path() + "/outside/evil", dir_.path() + "/root/usr/bin/evil");
    spec_ = example();
    spec_.root = dir_.path() + "/root";
    spec_.mounts = {{dir_.path() + "/data", "/data", MountMode::identical, true}};
  }
  test::TempDir dir_;
  WorkloadSpec spec_;
};

TEST_F(ProgramTest, IsFoundInsideTheRootOnly) {
  EXPECT_EQ(*find_program(spec_, "tool"), "/usr/bin/tool");
  EXPECT_EQ(*find_program(spec_, "/bin/tool"), "/bin/tool") << "an absolute link is resolved inside the root";
  EXPECT_FALSE(find_program(spec_, "/usr/bin/evil")) << "a link that leads out finds nothing";
  EXPECT_FALSE(find_program(spec_, "/../outside/evil"));
  EXPECT_FALSE(find_program(spec_, "text"));
  EXPECT_FALSE(find_program(spec_, "./tool"));
  EXPECT_THAT(find_program(spec_, "sh").error().what, HasSubstr("command sh is not found in root"));
}

TEST_F(ProgramTest, IsFoundOnADeclaredMount) {
  EXPECT_EQ(*find_program(spec_, "/data/bin/extra"), "/data/bin/extra");
  spec_.environment = {"PATH=/data/bin"};
  EXPECT_EQ(*find_program(spec_, "extra"), "/data/bin/extra");
  EXPECT_FALSE(find_program(spec_, "tool")) << "its PATH counts";
}

}  // namespace
}  // namespace mose::agent
