// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "model/workload.h"

namespace mose {
namespace {

WorkloadSpec redis() {
  WorkloadSpec spec;
  spec.name = "redis";
  spec.addresses = {parse_service_address("192.0.2.10/24").value()};
  spec.root = "/srv/redis";
  spec.mounts = {{"/srv/data", "/data", MountMode::identical, false}};
  return spec;
}

void expect_error(const WorkloadSpec& spec, std::string_view part) {
  Status status = validate(spec);
  ASSERT_FALSE(status) << "expected: " << part;
  EXPECT_NE(status.error().what.find(part), std::string::npos) << status.error().what;
}

TEST(ServiceAddress, BothFamiliesSurviveTheirText) {
  for (const char* text : {"192.0.2.10/24", "192.0.2.1/32", "10.9.0.10/1", "2001:db8::10/64", "2001:db8::1/128"}) {
    auto address = parse_service_address(text);
    ASSERT_TRUE(address) << text;
    EXPECT_EQ(format_with_prefix(*address), text);
  }
  EXPECT_EQ(parse_service_address("192.0.2.10/24")->family, AF_INET);
  EXPECT_EQ(parse_service_address("2001:db8::10/64")->family, AF_INET6);
  EXPECT_EQ(format_address(parse_service_address("192.0.2.10/24").value()), "192.0.2.10");
}

TEST(ServiceAddress, RefusesWithTheTextAndTheReason) {
  struct Row {
    const char* text;
    const char* why;
  };
  for (Row row : {Row{"192.0.2.10", "prefix length is missing"}, Row{"192.0.2.300/24", "cannot be read"},
                  Row{"/24", "cannot be read"}, Row{"redis/24", "cannot be read"}, Row{"192.0.2.10/", "1 to 32"},
                  Row{"192.0.2.10/33", "1 to 32"}, Row{"192.0.2.10/0", "1 to 32"}, Row{"192.0.2.10/24x", "1 to 32"},
                  Row{"192.0.2.10/-1", "1 to 32"}, Row{"192.0.2.10/99999999999", "1 to 32"},
                  Row{"2001:db8::10/129", "1 to 128"}, Row{"2001:db8::g/64", "cannot be read"}}) {
    auto address = parse_service_address(row.text);
    ASSERT_FALSE(address) << row.text;
    EXPECT_NE(address.error().what.find(row.text), std::string::npos);
    EXPECT_NE(address.error().what.find(row.why), std::string::npos) << address.error().what;
  }
}

TEST(MacAddress, SurvivesItsText) {
  EXPECT_EQ(format_mac(parse_mac("02:00:5e:10:00:ff").value()), "02:00:5e:10:00:ff");
  EXPECT_EQ(format_mac(parse_mac("02:00:5E:10:00:FF").value()), "02:00:5e:10:00:ff");
  for (const char* bad : {"", "02:00:5e:10:00", "02:00:5e:10:00:ff:00", "2:0:5e:10:0:f", "02-00-5e-10-00-ff",
                          "0x:00:00:00:00:00", "02:00:5e:10:00:fg", "02:00:5e:10:00:+f"}) {
    EXPECT_FALSE(parse_mac(bad)) << bad;
  }
}

TEST(MacAddress, FollowsFromTheAddressAloneAndIsLocalUnicast) {
  ServiceAddress a = parse_service_address("192.0.2.10/24").value();
  ServiceAddress same = parse_service_address("192.0.2.10/16").value();
  ServiceAddress other = parse_service_address("192.0.2.11/24").value();
  EXPECT_EQ(mac_for(a), mac_for(same)) << "the prefix is not the identity";
  EXPECT_NE(mac_for(a), mac_for(other));
  for (const ServiceAddress& address : {a, other, parse_service_address("2001:db8::10/64").value()}) {
    EXPECT_EQ(mac_for(address)[0] & 0x03, 0x02);
  }
}

TEST(Mount, IsReadFromItsText) {
  EXPECT_EQ(parse_mount("/srv/data:/data:identical").value(),
            (WorkloadMount{"/srv/data", "/data", MountMode::identical, false}));
  EXPECT_EQ(parse_mount("/nfs:/data:shared:ro").value(), (WorkloadMount{"/nfs", "/data", MountMode::shared, true}));
  EXPECT_EQ(parse_mount("/x:/y:copy")->mode, MountMode::copy);
  for (MountMode mode : {MountMode::identical, MountMode::shared, MountMode::copy}) {
    EXPECT_EQ(parse_mount_mode(to_string(mode)).value(), mode);
  }
}

TEST(Mount, RefusesWhatIsNone) {
  for (const char* bad : {"", "/a", "/a:/b", "/a:/b:", "/a:/b:rw", "/a:/b:copy:rw", "/a:/b:copy:ro:x", "/a:/b:Copy"}) {
    EXPECT_FALSE(parse_mount(bad)) << bad;
  }
  EXPECT_NE(parse_mount("/a:/b:rw").error().what.find("identical, shared or copy"), std::string::npos);
}

TEST(Workload, AGoodOneIsValid) {
  EXPECT_TRUE(validate(redis()));
  WorkloadSpec spec = redis();
  spec.root = "/";
  spec.mounts.clear();
  spec.name = std::string(31, 'a');
  EXPECT_TRUE(validate(spec));
  spec.name = "0-redis-2";
  EXPECT_TRUE(validate(spec));
}

TEST(Workload, NamesAreShortAndPlain) {
  for (std::string bad : {std::string(), std::string("-redis"), std::string("Redis"), std::string("re_dis"),
                          std::string("re/dis"), std::string("..").append("x"), std::string("red is"),
                          std::string("r\xc3\xa9"), std::string(32, 'a'), std::string("a\0b", 3)}) {
    WorkloadSpec spec = redis();
    spec.name = bad;
    expect_error(spec, "is not a workload name");
  }
}

TEST(Workload, NeedsAddressesThatDiffer) {
  WorkloadSpec spec = redis();
  spec.addresses.clear();
  expect_error(spec, "has no address");
  spec.addresses = {parse_service_address("192.0.2.10/24").value(), parse_service_address("192.0.2.10/16").value()};
  expect_error(spec, "192.0.2.10 is given twice");
  spec.addresses[1] = parse_service_address("2001:db8::10/64").value();
  EXPECT_TRUE(validate(spec));
}

TEST(Workload, AddressesAreThoseOfAHost) {
  struct Row {
    const char* address;
    const char* why;
  };
  for (Row row : {Row{"224.0.0.5/24", "multicast"}, Row{"239.255.255.250/32", "multicast"}, Row{"198.51.100.0/24", "of its network"},
                  Row{"198.51.100.255/24", "broadcast address of its network"}, Row{"198.51.100.4/30", "of its network"},
                  Row{"198.51.100.7/30", "broadcast address of its network"}, Row{"198.51.100.0/23", "of its network"},
                  Row{"0.0.0.0/24", "every address"}, Row{"0.0.0.0/32", "every address"}, Row{"255.255.255.255/32", "broadcast"},
                  Row{"127.0.0.1/8", "loopback"}, Row{"127.1.2.3/32", "loopback"}, Row{"::/128", "every address"},
                  Row{"::1/128", "loopback"}, Row{"ff02::1/64", "multicast"}, Row{"2001:db8::/64", "anycast"},
                  Row{"2001:db8::/126", "anycast"}, Row{"2001:db8:0:8000::/49", "anycast"}}) {
    WorkloadSpec spec = redis();
    spec.addresses = {parse_service_address(row.address).value()};
    expect_error(spec, "address " + std::string(row.address) + " cannot be a service's: ");
    expect_error(spec, row.why);
  }
  for (const char* good : {"198.51.100.1/24", "198.51.100.254/24", "198.51.101.0/23", "198.51.100.255/23",
                           "198.51.100.0/31", "198.51.100.1/31", "198.51.100.0/32", "198.51.100.255/32", "223.255.255.254/24",
                           "169.254.1.1/16", "2001:db8::/127", "2001:db8::/128", "2001:db8::1/64", "2001:db8::ffff:ffff:ffff:ffff/64",
                           "fe80::10/64"}) {
    WorkloadSpec spec = redis();
    spec.addresses = {parse_service_address(good).value()};
    Status status = validate(spec);
    EXPECT_TRUE(status) << good << ": " << status.error().what;
  }
}

TEST(Workload, PathsAreAbsoluteAndHaveOneSpelling) {
  for (const char* bad :
       {"", "srv", "./srv", "/srv/../etc", "/..", "/srv/..", "/srv/./x", "/srv/", "//srv", "/srv//x", "/."}) {
    WorkloadSpec spec = redis();
    spec.root = bad;
    expect_error(spec, "root \"" + std::string(bad) + "\"");
    spec = redis();
    spec.mounts[0].source = bad;
    expect_error(spec, "mount path");
    spec = redis();
    spec.mounts[0].target = bad;
    expect_error(spec, "mount path");
  }
  WorkloadSpec spec = redis();
  spec.root = "/srv/..data/...";
  EXPECT_TRUE(validate(spec)) << "dots in names are names";
}

TEST(Workload, MountTargetsDifferAndSpareRootAndProc) {
  WorkloadSpec spec = redis();
  spec.mounts.push_back({"/other", "/data", MountMode::shared, true});
  expect_error(spec, "/data is declared twice");
  for (const char* bad : {"/", "/proc"}) {
    spec = redis();
    spec.mounts[0].target = bad;
    expect_error(spec, "cannot be mounted over");
  }
}

}  // namespace
}  // namespace mose
