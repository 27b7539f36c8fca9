// SPDX-License-Identifier: MIT
#include "agent/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/migration_paths.h"
#include "temp_dir.h"

namespace mose::agent {
namespace {

using testing::HasSubstr;

std::string error_of(const std::string& text) {
  Config config;
  auto status = merge_config(config, text, "m.toml");
  if (status) status = complete_config(config);
  return status ? "no error" : status.error().what;
}

struct BadConfig {
  const char* name;
  const char* text;
  const char* error;
};
class ConfigRefuses : public testing::TestWithParam<BadConfig> {};

TEST_P(ConfigRefuses, WithPlaceAndReason) {
  EXPECT_THAT(error_of(GetParam().text), HasSubstr(GetParam().error));
}

INSTANTIATE_TEST_SUITE_P(
    Table, ConfigRefuses,
    testing::Values(
        BadConfig{"UnknownKey", "[node]\nname = \"a\"\nnam = \"a\"\n",
                  "m.toml:3: unknown key \"nam\" in [node]; known are name, listen"},
        BadConfig{"UnknownSection", "\n[nodes]\n",
                  "m.toml:2: unknown section \"nodes\"; known sections are node, control, tls, metrics, limits, log, peers"},
        BadConfig{"KeyOutsideSection", "name = \"a\"\n", "m.toml:1: unknown key \"name\""},
        BadConfig{"SectionIsValue", "node = 3\n", "m.toml:1: \"node\" must be a section"},
        BadConfig{"WrongType", "[node]\nname = 3\n", "m.toml:2: node.name must be a string"},
        BadConfig{"NumberAsText", "[limits]\nhold_packets_max = \"many\"\n",
                  "m.toml:2: limits.hold_packets_max must be a positive whole number"},
        BadConfig{"NumberTooSmall", "[limits]\nhold_packets_max = 0\n",
                  "m.toml:2: limits.hold_packets_max must be a positive whole number: 0 is out of range (1 to 19999)"},
        BadConfig{"HoldAsLongAsTheTap", "[limits]\nhold_packets_max = 20000\n", "20000 is out of range (1 to 19999)"},
        BadConfig{"HoldOfNoBytes", "[limits]\nhold_bytes_max = \"0B\"\n",
                  "m.toml:2: limits.hold_bytes_max must be a size with a unit such as \"64MiB\": 0B is out of range"},
        BadConfig{"ImagesOfNoBytes", "[limits]\nimages_bytes_max = \"0B\"\n", "0B is out of range (64"},
        BadConfig{"ImagesLargerThanAFrame", "[limits]\nimages_bytes_max = \"257MiB\"\n", "257MiB is out of range"},
        BadConfig{"BandwidthWithoutUnit", "[limits]\nbandwidth_max = \"500\"\n", "m.toml:2: limits.bandwidth_max must be a bandwidth"},
        BadConfig{"StoreOfNothing", "[limits]\nstore_bytes_max = \"4KiB\"\n", "4KiB is out of range"},
        BadConfig{"NumberNegative", "[limits]\nhistory_max = -1\n", "-1 is out of range"},
        BadConfig{"NumberTooLarge", "[limits]\nconnections_max = 4294967296\n", "4294967296 is out of range"},
        BadConfig{"HistoryTooLong", "[limits]\nhistory_max = 1001\n", "1001 is out of range (1 to 1000)"},
        BadConfig{"SizeWithoutUnit", "[limits]\nimages_bytes_max = 100\n",
                  "m.toml:2: limits.images_bytes_max must be a size with a unit"},
        BadConfig{"SizeUnknownUnit", "[limits]\nhold_bytes_max = \"1 parsec\"\n",
                  "m.toml:2: limits.hold_bytes_max must be a size"},
        BadConfig{"DurationZero", "[limits]\nstop_grace = \"0s\"\n", "must be longer than 0"},
        BadConfig{"LevelUnknown", "[log]\nlevel = \"loud\"\n",
                  "m.toml:2: log.level must be debug, info, warn or error"},
        BadConfig{"SteerUnknown", "[node]\nsteer = \"nftables\"\n",
                  "m.toml:2: node.steer must be auto, tc, xdp or xdp-generic"},
        BadConfig{"SteerWrongType", "[node]\nsteer = true\n", "m.toml:2: node.steer must be auto, tc, xdp"},
        BadConfig{"PeerNotTable", "[peers]\nb = \"192.0.2.2:7946\"\n", "m.toml:2: a peer is a table: [peers.b]"},
        BadConfig{"PeerUnknownKey", "[peers.b]\nadress = \"192.0.2.2:7946\"\n",
                  "m.toml:2: unknown key \"adress\" in [peers.b]"},
        BadConfig{"PeerWithoutAddress", "[peers.b]\n", "peer b has no address"},
        BadConfig{"PeerPort", "[node]\nname=\"a\"\n[peers.b]\naddress = \"192.0.2.2\"\n",
                  "peers.b.address: '192.0.2.2' is not an address with a port, e.g. 192.0.2.1:7946"},
        BadConfig{"PeerIsSelf", "[node]\nname=\"a\"\n[peers.a]\naddress = \"192.0.2.2:1\"\n",
                  "peers.a is this node itself"},
        BadConfig{"ListenPort", "[node]\nname=\"a\"\nlisten = \"0.0.0.0:70000\"\n",
                  "node.listen: '0.0.0.0:70000' is not an address with a port"},
        BadConfig{"ListenPortZero", "[node]\nname=\"a\"\nlisten = \"0.0.0.0:0\"\n",
                  "node.listen: '0.0.0.0:0' has no port from 1 to 65535"},
        BadConfig{"ListenName", "[node]\nname=\"a\"\nlisten = \"a.example:7946\"\n",
                  "node.listen: 'a.example:7946' is not an address with a port"},
        BadConfig{"PeerName", "[node]\nname=\"a\"\n[peers.b]\naddress = \"no.such.host:7000\"\n",
                  "peers.b.address: 'no.such.host:7000' is not an address with a port"},
        BadConfig{"PeerHalfBracket", "[node]\nname=\"a\"\n[peers.b]\naddress = \"[::1:70\"\n",
                  "peers.b.address: '[::1:70' is not an address with a port"},
        BadConfig{"PeerBareIpv6", "[node]\nname=\"a\"\n[peers.b]\naddress = \"2001:db8::1:70\"\n",
                  "peers.b.address: '2001:db8::1:70' is not an address with a port"},
        BadConfig{"DataAddressWithPort",
                  "[node]\nname=\"a\"\n[peers.b]\naddress = \"192.0.2.2:1\"\ndata_address = \"192.0.2.2:1\"\n",
                  "peers.b.data_address"},
        BadConfig{"DataAddressWrongType", "[peers.b]\ndata_address = 1\n",
                  "m.toml:2: peers.b.data_address must be a string"},
        BadConfig{"VxlanPortZero", "[node]\nvxlan_port = 0\n", "0 is out of range (1 to 65535)"},
        BadConfig{"TlsHalf", "[node]\nname=\"a\"\n[tls]\ncertificate = \"/a.crt\"\nkey = \"/a.key\"\n", "tls.authorities is missing"},
        BadConfig{"TlsRelative", "[node]\nname=\"a\"\n[tls]\ncertificate = \"a.crt\"\nkey = \"/a.key\"\nauthorities = \"/c\"\n",
                  "tls.certificate = \"a.crt\" is not an absolute path"},
        BadConfig{"TlsAndPlainText",
                  "[node]\nname=\"a\"\n[tls]\ncertificate = \"/a\"\nkey = \"/k\"\nauthorities = \"/c\"\nplain_text = true\n",
                  "tls.plain_text = true and certificates"},
        BadConfig{"RevokedAlone", "[tls]\nrevoked = \"/r\"\nplain_text = true\n", "tls.revoked says nothing without certificates"},
        BadConfig{"PlainTextIsText", "[tls]\nplain_text = \"yes\"\n", "m.toml:2: tls.plain_text must be true or false"},
        BadConfig{"RoleUnknown", "[peers.b]\naddress = \"192.0.2.2:1\"\nroles = [\"admin\"]\n",
                  "m.toml:3: peers.b.roles: role \"admin\" is unknown"},
        BadConfig{"RolesNone", "[peers.b]\naddress = \"192.0.2.2:1\"\nroles = []\n", "peers.b.roles: no role is named"},
        BadConfig{"RolesText", "[peers.b]\naddress = \"192.0.2.2:1\"\nroles = \"source\"\n", "peers.b.roles: must be a list"},
        BadConfig{"NodeName", "[node]\nname = \"a b\"\n", "node.name = \"a b\" is not a name"},
        BadConfig{"RelativePath", "[node]\nname=\"a\"\nstate_dir = \"var\"\n",
                  "node.state_dir = \"var\" is not an absolute path"},
        BadConfig{"CgroupOfAll", "[node]\nname=\"a\"\ncgroup = \"/\"\n",
                  "node.cgroup = \"/\" is the root of all processes"},
        BadConfig{"DeviceIsPath", "[node]\nname=\"a\"\nbridge = \"br/0\"\n",
                  "node.bridge = \"br/0\" is not the name of a network device"},
        BadConfig{"DeviceTooLong", "[node]\nname=\"a\"\nuplink = \"sixteen-letters-\"\n",
                  "node.uplink = \"sixteen-letters-\" is not the name of a network device: at most 15"},
        BadConfig{"OneDirectory", "[node]\nname=\"a\"\nstate_dir = \"/srv/m\"\nruntime_dir = \"/srv/m/\"\n",
                  "node.runtime_dir and node.state_dir are both \"/srv/m\""},
        BadConfig{"PeerWildcard", "[node]\nname=\"a\"\n[peers.b]\naddress = \"0.0.0.0:7400\"\n",
                  "peers.b.address = \"0.0.0.0:7400\" is no address that can be connected to"},
        BadConfig{"PeerWildcardIpv6", "[node]\nname=\"a\"\n[peers.b]\naddress = \"[::]:7400\"\n",
                  "peers.b.address = \"[::]:7400\" is no address"},
        BadConfig{
            "PeersOfOneAddress",
            "[node]\nname=\"a\"\n[peers.b]\naddress = \"192.0.2.2:7400\"\n[peers.c]\naddress = \"192.0.2.2:7400\"\n",
            "peers.c.address = \"192.0.2.2:7400\" is that of peers.b as well"},
        BadConfig{"PeerIsOwnListen",
                  "[node]\nname=\"a\"\nlisten = \"192.0.2.1:7400\"\n[peers.b]\naddress = \"192.0.2.1:7400\"\n",
                  "peers.b.address = \"192.0.2.1:7400\" is where this node itself listens"},
        BadConfig{"MetricsForOthers", "[node]\nname=\"a\"\n[metrics]\nlisten = \"192.0.2.1:9477\"\n",
                  "metrics.listen = \"192.0.2.1:9477\" can be reached from other machines"},
        BadConfig{"MetricsForAll", "[node]\nname=\"a\"\n[metrics]\nlisten = \"0.0.0.0:9477\"\n", "can be reached from other machines"},
        BadConfig{"MetricsForAllByIpv6", "[node]\nname=\"a\"\n[metrics]\nlisten = \"[::]:9477\"\n", "can be reached from other machines"},
        BadConfig{"MetricsMapped", "[node]\nname=\"a\"\n[metrics]\nlisten = \"[::ffff:192.0.2.1]:9477\"\n", "can be reached from other machines"},
        BadConfig{"MetricsPort", "[node]\nname=\"a\"\n[metrics]\nlisten = \"127.0.0.1\"\n", "metrics.listen: '127.0.0.1' is not an address with a port"},
        BadConfig{"MetricsPath", "[node]\nname=\"a\"\n[metrics]\nsocket = \"m.sock\"\n", "metrics.socket = \"m.sock\" is not an absolute path"},
        BadConfig{"MetricsAtControl", "[node]\nname=\"a\"\n[metrics]\nsocket = \"/run/mose/mosed.sock\"\n",
                  "metrics.socket and control.socket are both \"/run/mose/mosed.sock\""},
        BadConfig{"LetterOutsideOfText", "[node]\nlisten\xc9\xb2 = 3\n", "m.toml:2:"},
        BadConfig{"NotToml", "[node\n", "m.toml:1:"}),
    [](const auto& param) { return param.param.name; });

TEST(Config, SaysHowOtherNodesAreSpokenTo) {
  Config config;
  ASSERT_TRUE(merge_config(config, "[node]\nname = \"a\"\n[peers.b]\naddress = \"192.0.2.2:1\"\nroles = [\"source\"]\n", "m.toml"));
  ASSERT_TRUE(complete_config(config)) << "who only reads the file needs neither";
  ASSERT_FALSE(check_transport(config));
  EXPECT_THAT(check_transport(config).error().what, HasSubstr("`mose pki init` and `mose pki issue a`"));
  EXPECT_FALSE(config.peers.at("b").roles.destination);
  EXPECT_THAT(format_config(config), HasSubstr("roles = [\"source\"]"));
  ASSERT_TRUE(merge_config(config, "[tls]\nplain_text = true\n", "m.toml"));
  EXPECT_TRUE(check_transport(config));
  EXPECT_THAT(format_config(config), HasSubstr("plain_text = true"));
}

TEST(Config, GivesEveryKeyItsValueBack) {
  Config config;
  ASSERT_TRUE(merge_config(
      config,
      "[node]\nname = \"a\"\nbridge = \"br0\"\n[limits]\nhold_bytes_max = \"4MiB\"\nbandwidth_max = \"500mbit\"\nstop_grace = \"1500ms\"\n"
      "[log]\nlevel = \"debug\"\n[peers.b]\naddress = \"192.0.2.2:7946\"\n",
      "m.toml"));
  ASSERT_TRUE(complete_config(config));
  std::string text = format_config(config);
  EXPECT_THAT(text, HasSubstr("hold_bytes_max = \"4194304B\""));
  EXPECT_THAT(text, HasSubstr("bandwidth_max = \"500000000bit\""));
  EXPECT_THAT(text, HasSubstr("stop_grace = \"1500ms\""));
  Config again;
  ASSERT_TRUE(merge_config(again, text, "printed")) << text;
  EXPECT_EQ(format_config(again), text);
  EXPECT_EQ(again.peers.at("b").address, "192.0.2.2:7946");
}

TEST(Config, PrintsWhateverAnOperatorMayHaveWritten) {
  Config config;
  ASSERT_TRUE(merge_config(config,
                           "[node]\nname = \"a.example\"\nworkloads_dir = \"/a\\nb\\t\\u0001\\u007f\\\\\\\"c\"\n"
                           "[peers.\"b.example\"]\naddress = \"192.0.2.2:7946\"\n",
                           "m.toml"));
  ASSERT_TRUE(complete_config(config));
  const std::string text = format_config(config);
  Config again;
  auto read = merge_config(again, text, "printed");
  ASSERT_TRUE(read) << read.error().what << "\n" << text;
  EXPECT_EQ(again.node.workloads_dir, "/a\nb\t\x01\x7f\\\"c");
  EXPECT_EQ(again.peers.at("b.example").address, "192.0.2.2:7946");
  EXPECT_EQ(format_config(again), text);
}

TEST(Config, APeersDataAddressIsThatOfItsEndpointUnlessGiven) {
  auto address = [](const PeerConfig& peer) { return format_with_prefix(*peer_data_address(peer)); };
  EXPECT_EQ(address({.address = "192.0.2.2:7946"}), "192.0.2.2/32");
  EXPECT_EQ(address({.address = "[2001:db8::2]:7946"}), "2001:db8::2/128");
  EXPECT_EQ(address({.address = "192.0.2.2:7946", .data_address = "203.0.113.2"}), "203.0.113.2/32");
  Config config;
  ASSERT_TRUE(merge_config(config,
                           "[node]\nname = \"a\"\nvxlan_port = 8472\n[peers.b]\naddress = \"192.0.2.2:7946\"\n"
                           "data_address = \"203.0.113.2\"\n",
                           "m.toml"));
  ASSERT_TRUE(complete_config(config));
  const std::string text = format_config(config);
  EXPECT_THAT(text, HasSubstr("vxlan_port = 8472\n"));
  Config again;
  ASSERT_TRUE(merge_config(again, text, "printed")) << text;
  EXPECT_EQ(again.peers.at("b").data_address, "203.0.113.2");
}

TEST(Config, EveryWayOfSteeringIsTakenAndPrinted) {
  EXPECT_THAT(format_config(Config{}), HasSubstr("steer = \"auto\""));
  for (SteerMode mode : {SteerMode::automatic, SteerMode::tc, SteerMode::xdp, SteerMode::xdp_generic}) {
    Config config;
    std::string line = std::string("steer = \"") + to_string(mode) + "\"\n";
    ASSERT_TRUE(merge_config(config, "[node]\n" + line, "m.toml")) << line;
    EXPECT_EQ(config.node.steer, mode);
    EXPECT_THAT(format_config(config), HasSubstr(line));
  }
}

TEST(Config, TheBoundsOfAHoldReachTheNetworksOfWorkloads) {
  Config config;
  ASSERT_TRUE(merge_config(config, "[node]\nname = \"a\"\n[limits]\nhold_packets_max = 70\nhold_bytes_max = \"1MiB\"\n",
                           "m.toml"));
  ASSERT_TRUE(complete_config(config));
  WorkloadSpec spec;
  spec.name = "redis";
  auto network = network_config(config, spec);
  EXPECT_EQ(network.hold_packets_max, 70u);
  EXPECT_EQ(network.hold_bytes_max, 1u << 20);
  EXPECT_EQ(network_config(Config(), spec).hold_packets_max, handover::kHoldPacketsMax);
}

TEST(Config, DefaultsThatFollowFromOtherKeys) {
  Config config;
  ASSERT_TRUE(merge_config(config, "[node]\nname = \"a\"\nruntime_dir = \"/run/x\"\n", "m.toml"));
  ASSERT_TRUE(complete_config(config));
  EXPECT_EQ(config.control.socket, "/run/x/mosed.sock");
  EXPECT_EQ(config.metrics.socket, "/run/x/metrics.sock");
  EXPECT_THAT(config.node.cgroup, testing::EndsWith("/mose"));
  EXPECT_THAT(config.node.criu, testing::EndsWith("criu/bin/criu"));
}

TEST(Config, MetricsAreForThisMachineAlone) {
  for (const char* listen : {"127.0.0.1:9477", "127.9.9.9:9477", "[::1]:9477"}) {
    Config config;
    ASSERT_TRUE(merge_config(config, std::string("[node]\nname = \"a\"\n[metrics]\nenabled = false\nlisten = \"") + listen + "\"\n", "m.toml"));
    ASSERT_TRUE(complete_config(config)) << listen;
    EXPECT_FALSE(config.metrics.enabled);
    EXPECT_THAT(format_config(config), HasSubstr(listen));
  }
}

TEST(Config, LaterFilesOverrideSingleKeys) {
  test::TempDir dir;
  std::string main = dir.write("mose.toml", "[node]\nname = \"a\"\nbridge = \"br0\"\n");
  dir.write("conf.d/20-b.toml", "[node]\nbridge = \"br2\"\n");
  dir.write("conf.d/10-a.toml", "[node]\nbridge = \"br1\"\nuplink = \"up\"\n");
  dir.write("conf.d/notes.txt", "not read");
  auto config = load_config(main, true);
  ASSERT_TRUE(config) << config.error().what;
  EXPECT_EQ(config->node.bridge, "br2");
  EXPECT_EQ(config->node.uplink, "up");
  EXPECT_EQ(config->files.size(), 3u);
}

TEST(Config, AnErrorInAFragmentNamesTheFragment) {
  test::TempDir dir;
  std::string main = dir.write("mose.toml", "[node]\nname = \"a\"\n");
  dir.write("conf.d/bad.toml", "\n\n[limits]\nholds = 3\n");
  auto config = load_config(main, true);
  ASSERT_FALSE(config);
  EXPECT_THAT(config.error().what, HasSubstr("conf.d/bad.toml:4: unknown key \"holds\""));
}

TEST(Config, AMissingFileIsAnErrorOnlyWhenItWasAskedFor) {
  test::TempDir dir;
  EXPECT_FALSE(load_config(dir.path() + "/none.toml", true));
  EXPECT_TRUE(load_config(dir.path() + "/none.toml", false));
}

}  // namespace
}  // namespace mose::agent
