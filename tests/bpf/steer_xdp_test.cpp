// SPDX-License-Identifier: MIT
// The steering program of an uplink by rows: a frame goes in by BPF_PROG_TEST_RUN, verdict, frame and counter come out.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>

#include "frames.h"
#include "mose/bpf/steer.h"
#include "own_loopback.h"
#include "steer_xdp.skel.h"
#include "support/support.h"

namespace mose::test {
namespace {

constexpr Mac kService{2, 0, 0, 0, 0, 0x10}, kClient{2, 0, 0, 0, 0, 2}, kUplink{2, 0, 0, 0, 1, 1},
    kPeer{2, 0, 0, 0, 1, 2}, kStranger{2, 0, 0, 0, 9, 9};
constexpr Mac kBroadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr V4 kHere4{192, 0, 2, 10}, kGone4{192, 0, 2, 11}, kBroken4{192, 0, 2, 12}, kClient4{192, 0, 2, 2},
    kOther4{192, 0, 2, 99};
constexpr V6 kHere6{0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10};
constexpr V6 kGone6{0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11};
constexpr V6 kClient6{0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
// Shares its first 32 bits with a service: the whole address counts.
constexpr V6 kOther6{0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x11};

// Verdicts, with names that are no macros of the kernel's headers.
constexpr uint32_t kDrop = 1, kUp = 2, kTx = 3, kRedirect = 4;
constexpr uint32_t kUplinkDevice = 1;  // BPF_PROG_TEST_RUN gives the loopback as the device of a frame
constexpr uint32_t kOtherDevice = 72;

enum Slot : uint32_t { kNone = 0, kHereSlot4, kHereSlot6, kGoneSlot4, kGoneSlot6, kBrokenSlot, kAcrossSlot, kFarSlot4, kFarSlot6, kFarAcrossSlot, kSlots };
constexpr V4 kAcross4{192, 0, 2, 13};  // gone as well, by another device than it came from
// Gone to a node behind a router, by a tunnel of IPv4 and one of IPv6.
constexpr V4 kFar4{192, 0, 2, 14}, kFarAcross4{192, 0, 2, 15};
constexpr V6 kFar6{0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12};
constexpr V4 kLocal4{198, 51, 100, 1}, kRemote4{203, 0, 113, 2};
constexpr V6 kLocal6{0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
constexpr V6 kRemote6{0x20, 1, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
constexpr unsigned kMtu = 1500;  // of the loopback of the test's own namespace

class Program {
 public:
  static Program& get() {
    static Program program;
    return program;
  }

  struct Outcome {
    uint32_t verdict = 0;
    Bytes frame;
  };
  Outcome run(const Bytes& frame) {
    Outcome outcome;
    outcome.frame.resize(frame.size() + 128);
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_out = outcome.frame.data(),
                .data_size_in = static_cast<uint32_t>(frame.size()),
                .data_size_out = static_cast<uint32_t>(outcome.frame.size()));
    int code = bpf_prog_test_run_opts(bpf_program__fd(skeleton_->progs.steer_xdp), &options);
    EXPECT_EQ(code, 0) << strerror(-code);
    outcome.verdict = options.retval;
    outcome.frame.resize(options.data_size_out);
    return outcome;
  }
  void clear() {
    std::vector<mose_uplink_counts> zero(cpus());
    for (const mose_steer_service& key : keys_) {
      ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.mose_uplink_counts), &key, zero.data(), 0), 0);
    }
  }
  uint64_t frames(uint32_t slot, uint32_t reason) {
    uint64_t sum = 0;
    for (const auto& cpu : counts(slot)) {
      if (const mose_steer_count* count = of(cpu, reason)) sum += count->frames;
    }
    return sum;
  }
  uint64_t frames_of_all() {
    uint64_t sum = 0;
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      for (uint32_t reason = 0; reason < MOSE_STEER_R_MAX; ++reason) sum += frames(slot, reason);
    }
    return sum;
  }
  std::vector<mose_uplink_counts> counts(uint32_t slot) {
    std::vector<mose_uplink_counts> each(cpus());
    EXPECT_EQ(bpf_map_lookup_elem(bpf_map__fd(skeleton_->maps.mose_uplink_counts), &keys_[slot], each.data()), 0);
    return each;
  }
  // As while its entry comes or goes.
  void without_counts(uint32_t slot, const std::function<void()>& what) {
    EXPECT_EQ(bpf_map_delete_elem(bpf_map__fd(skeleton_->maps.mose_uplink_counts), &keys_[slot]), 0);
    what();
    std::vector<mose_uplink_counts> zero(cpus());
    EXPECT_EQ(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.mose_uplink_counts), &keys_[slot], zero.data(), 0), 0);
  }

 private:
  Program() {
    if (geteuid() != 0) skip_process("BPF programs need root");
    libbpf_set_print(nullptr);
    enter_own_loopback(kMtu);
    skeleton_.reset(steer_xdp__open());
    if (!skeleton_) skip_process("the BPF object cannot be opened");
    mose_uplink_config config{.version = MOSE_STEER_VERSION, .ifindex = kUplinkDevice};
    std::copy(kUplink.begin(), kUplink.end(), config.mac);
    std::memcpy(const_cast<mose_uplink_config*>(&skeleton_->rodata->mose_config), &config, sizeof config);
    bpf_map__set_max_entries(skeleton_->maps.mose_uplink, 16);
    bpf_map__set_max_entries(skeleton_->maps.mose_uplink_counts, kSlots);
    if (int code = steer_xdp__load(skeleton_.get()); code != 0) {
      if (code == -EPERM) skip_process("this host does not allow BPF programs");
      ADD_FAILURE() << "load: " << strerror(-code);
      std::abort();
    }
    add(kHere4, 4, MOSE_UPLINK_LOCAL, kHereSlot4);
    add(kHere6, 6, MOSE_UPLINK_LOCAL, kHereSlot6);
    add(kGone4, 4, MOSE_UPLINK_REDIRECT, kGoneSlot4);
    add(kGone6, 6, MOSE_UPLINK_REDIRECT, kGoneSlot6);
    add(kBroken4, 4, MOSE_UPLINK_INVALID, kBrokenSlot);
    add(kAcross4, 4, MOSE_UPLINK_REDIRECT, kAcrossSlot, kOtherDevice);
    add(kFar4, 4, MOSE_UPLINK_REDIRECT, kFarSlot4, kUplinkDevice, tunnel(4, kLocal4, kRemote4));
    add(kFar6, 6, MOSE_UPLINK_REDIRECT, kFarSlot6, kUplinkDevice, tunnel(6, kLocal6, kRemote6));
    add(kFarAcross4, 4, MOSE_UPLINK_REDIRECT, kFarAcrossSlot, kOtherDevice, tunnel(4, kLocal4, kRemote4));
  }
  template <typename Address>
  static mose_steer_tunnel tunnel(uint8_t family, const Address& local, const Address& remote) {
    mose_steer_tunnel tunnel{.port = htons(4789), .family = family};
    std::copy(local.begin(), local.end(), tunnel.local);
    std::copy(remote.begin(), remote.end(), tunnel.remote);
    return tunnel;
  }
  template <typename Address>
  void add(const Address& address, uint8_t family, mose_uplink_state state, uint32_t slot,
           uint32_t device = kUplinkDevice, const mose_steer_tunnel& tunnel = {}) {
    mose_steer_service key{};
    std::copy(address.begin(), address.end(), key.address);
    key.family = family;
    keys_[slot] = key;
    mose_uplink_entry entry{.state = state, .epoch = 1, .peer_ifindex = device};
    std::copy(kService.begin(), kService.end(), entry.service_mac);
    std::copy(kPeer.begin(), kPeer.end(), entry.peer_mac);
    std::copy(kUplink.begin(), kUplink.end(), entry.own_mac);
    entry.tunnel = tunnel;
    EXPECT_EQ(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.mose_uplink), &key, &entry, BPF_ANY), 0);
  }
  static const mose_steer_count* of(const mose_uplink_counts& counts, uint32_t reason) {
    switch (reason) {
      case MOSE_STEER_R_PASSED:
        return &counts.passed;
      case MOSE_STEER_R_TAKEN:
        return &counts.taken;
      case MOSE_STEER_R_REDIRECTED:
        return &counts.redirected;
      case MOSE_STEER_R_DROP_LOOP:
        return &counts.drop_loop;
      case MOSE_STEER_R_DROP_REWRITE:
        return &counts.drop_rewrite;
      case MOSE_STEER_R_DROP_MTU:
        return &counts.drop_mtu;
      default:
        return nullptr;
    }
  }
  static size_t cpus() { return static_cast<size_t>(libbpf_num_possible_cpus()); }

  struct Destroy {
    void operator()(steer_xdp* skeleton) const { steer_xdp__destroy(skeleton); }
  };
  std::unique_ptr<steer_xdp, Destroy> skeleton_;
  std::array<mose_steer_service, kSlots> keys_{};  // by Slot
};

Bytes packet4(const V4& to, const Bytes& payload, uint8_t protocol = kTcp, const Mac& mac = kService) {
  return eth(mac, kClient, kIpv4) | ipv4(kClient4, to, protocol) | payload;
}
Bytes packet6(const V6& to, const Bytes& payload, uint8_t next = kTcp, const Mac& mac = kService) {
  return eth(mac, kClient, kIpv6) | ipv6(kClient6, to, next) | payload;
}
Bytes with_macs(Bytes frame, const Mac& to, const Mac& from) {
  std::copy(to.begin(), to.end(), frame.begin());
  std::copy(from.begin(), from.end(), frame.begin() + 6);
  return frame;
}
Bytes sent_on(const Bytes& frame) {
  return with_macs(frame, kPeer, kUplink);
}
Bytes from_peer(const Bytes& frame) {
  return with_macs(frame, kUplink, kPeer);
}
Bytes taken(const Bytes& frame) {
  return with_macs(frame, kService, kPeer);
}
Bytes tagged4(const V4& to) {
  return eth(kService, kClient, kVlan) | vlan(7, kIpv4) | ipv4(kClient4, to, kTcp) | tcp(kAck);
}
Bytes tagged6(const V6& to) {
  return eth(kService, kClient, kVlan) | vlan(7, kIpv6) | ipv6(kClient6, to, kTcp) | tcp(kAck);
}
Bytes fragment4(const V4& to, unsigned fragment) {
  return eth(kService, kClient, kIpv4) | ipv4(kClient4, to, kUdp, 5, fragment) | udp();
}

const Bytes kOut4 = packet4(kGone4, tcp(kAck)), kOut6 = packet6(kGone6, tcp(kAck));
const Bytes kIn4 = packet4(kHere4, tcp(kAck)), kIn6 = packet6(kHere6, tcp(kAck));
const Bytes kTwice4 =
    eth(kService, kClient, kQinq) | vlan(7, kVlan) | vlan(8, kIpv4) | ipv4(kClient4, kGone4, kTcp) | tcp(kAck);
const Bytes kThrice4 = eth(kService, kClient, kQinq) | vlan(7, kVlan) | vlan(8, kVlan) | vlan(9, kIpv4) |
                       ipv4(kClient4, kGone4, kTcp) | tcp(kAck);
const Bytes kOptions4 = eth(kService, kClient, kIpv4) | ipv4(kClient4, kGone4, kTcp, 15) | tcp(kAck);
const Bytes kExtended6 = packet6(kGone6, extension(kRouting) | extension(kDest) | extension(kTcp, 1) | tcp(kAck), kHop);
const Bytes kFirst6 = packet6(kGone6, fragment(kUdp, 0, true) | udp(), kFragment);
const Bytes kLater6 = packet6(kGone6, fragment(kUdp, 80) | udp(), kFragment);
const Bytes kError4 = packet4(kGone4, Bytes{3, 4} | Bytes(6, 0) | ipv4(kGone4, kClient4, kTcp) | Bytes(8, 1), kIcmp);
const Bytes kError6 = packet6(kGone6, Bytes{2, 0} | Bytes(6, 0) | ipv6(kGone6, kClient6, kTcp) | Bytes(8, 1), kIcmpv6);
const Bytes kJumbo4 = kOut4 | Bytes(1400, 0x55);
const Bytes kAcross = packet4(kAcross4, tcp(kAck));

struct Row {
  const char* name;
  Bytes frame;
  uint32_t verdict;
  uint32_t slot;
  uint32_t reason;
  Bytes out = {};  // empty: as it came in
};
std::ostream& operator<<(std::ostream& out, const Row& row) {
  return out << row.name;
}

constexpr uint32_t kPassed = MOSE_STEER_R_PASSED, kRedirected = MOSE_STEER_R_REDIRECTED, kTaken = MOSE_STEER_R_TAKEN;

const Row kRows[] = {
    {"redirect IPv4", kOut4, kTx, kGoneSlot4, kRedirected, sent_on(kOut4)},
    {"redirect IPv6", kOut6, kTx, kGoneSlot6, kRedirected, sent_on(kOut6)},
    {"redirect by another device", kAcross, kRedirect, kAcrossSlot, kRedirected, sent_on(kAcross)},
    {"redirect UDP", packet4(kGone4, udp(), kUdp), kTx, kGoneSlot4, kRedirected, sent_on(packet4(kGone4, udp(), kUdp))},
    {"redirect a connection request", packet4(kGone4, tcp(kSyn)), kTx, kGoneSlot4, kRedirected,
     sent_on(packet4(kGone4, tcp(kSyn)))},
    {"redirect a full frame", kJumbo4, kTx, kGoneSlot4, kRedirected, sent_on(kJumbo4)},
    {"redirect keeps the tag, IPv4", tagged4(kGone4), kTx, kGoneSlot4, kRedirected, sent_on(tagged4(kGone4))},
    {"redirect keeps the tag, IPv6", tagged6(kGone6), kTx, kGoneSlot6, kRedirected, sent_on(tagged6(kGone6))},
    {"redirect keeps two tags", kTwice4, kTx, kGoneSlot4, kRedirected, sent_on(kTwice4)},
    {"redirect IPv4 with options", kOptions4, kTx, kGoneSlot4, kRedirected, sent_on(kOptions4)},
    {"redirect IPv6 with extension headers", kExtended6, kTx, kGoneSlot6, kRedirected, sent_on(kExtended6)},
    {"redirect a first fragment, IPv4", fragment4(kGone4, 0x2000), kTx, kGoneSlot4, kRedirected,
     sent_on(fragment4(kGone4, 0x2000))},
    {"redirect a later fragment, IPv4", fragment4(kGone4, 100), kTx, kGoneSlot4, kRedirected,
     sent_on(fragment4(kGone4, 100))},
    {"redirect a first fragment, IPv6", kFirst6, kTx, kGoneSlot6, kRedirected, sent_on(kFirst6)},
    {"redirect a later fragment, IPv6", kLater6, kTx, kGoneSlot6, kRedirected, sent_on(kLater6)},
    {"redirect an ICMP error about a flow", kError4, kTx, kGoneSlot4, kRedirected, sent_on(kError4)},
    {"redirect an ICMPv6 error about a flow", kError6, kTx, kGoneSlot6, kRedirected, sent_on(kError6)},
    {"redirect a cut TCP header: the address is whole", cut(kOut4, 40), kTx, kGoneSlot4, kRedirected,
     sent_on(cut(kOut4, 40))},
    {"redirect a cut extension header, IPv6", cut(kExtended6, 56), kTx, kGoneSlot6, kRedirected,
     sent_on(cut(kExtended6, 56))},
    {"redirect a service that moved on from here", with_macs(kOut4, kUplink, kStranger), kTx, kGoneSlot4, kRedirected,
     sent_on(kOut4)},
    {"redirect what a client at the peer sends, IPv4", with_macs(kOut4, kService, kPeer), kTx, kGoneSlot4, kRedirected,
     sent_on(kOut4)},
    {"redirect what a client at the peer sends, IPv6", with_macs(kOut6, kService, kPeer), kTx, kGoneSlot6, kRedirected,
     sent_on(kOut6)},
    {"not back to where it came from, IPv4", from_peer(kOut4), kDrop, kGoneSlot4, MOSE_STEER_R_DROP_LOOP},
    {"not back to where it came from, IPv6", from_peer(kOut6), kDrop, kGoneSlot6, MOSE_STEER_R_DROP_LOOP},

    {"take IPv4 for a service", from_peer(kIn4), kUp, kHereSlot4, kTaken, taken(kIn4)},
    {"take IPv6 for a service", from_peer(kIn6), kUp, kHereSlot6, kTaken, taken(kIn6)},
    {"take tagged IPv4", from_peer(tagged4(kHere4)), kUp, kHereSlot4, kTaken, taken(tagged4(kHere4))},
    {"take tagged IPv6", from_peer(tagged6(kHere6)), kUp, kHereSlot6, kTaken, taken(tagged6(kHere6))},
    {"take a later fragment", from_peer(fragment4(kHere4, 100)), kUp, kHereSlot4, kTaken,
     taken(fragment4(kHere4, 100))},
    {"take a cut TCP header", from_peer(cut(kIn4, 36)), kUp, kHereSlot4, kTaken, taken(cut(kIn4, 36))},

    {"a service that is here goes up, IPv4", kIn4, kUp, kHereSlot4, kPassed},
    {"a service that is here goes up, IPv6", kIn6, kUp, kHereSlot6, kPassed},
    {"an entry without a state goes up", packet4(kBroken4, tcp(kAck)), kUp, kBrokenSlot, kPassed},
    {"an entry without a state takes nothing", from_peer(packet4(kBroken4, tcp(kAck))), kUp, kBrokenSlot, kPassed},
    {"another IPv4 address goes up", packet4(kOther4, tcp(kAck)), kUp, kNone, kPassed},
    {"another IPv6 address goes up", packet6(kOther6, tcp(kAck)), kUp, kNone, kPassed},
    {"the node's own packets go up", packet4(kOther4, tcp(kAck), kTcp, kUplink), kUp, kNone, kPassed},
    {"a flooded frame for another MAC goes up", packet4(kGone4, tcp(kAck), kTcp, kStranger), kUp, kGoneSlot4, kPassed},
    {"broadcast to a moved address goes up", packet4(kGone4, udp(), kUdp, kBroadcast), kUp, kGoneSlot4, kPassed},
    {"ARP goes up", eth(kBroadcast, kClient, kArp) | arp(), kUp, kNone, kPassed},
    {"tagged ARP goes up", eth(kBroadcast, kClient, kVlan) | vlan(7, kArp) | arp(), kUp, kNone, kPassed},
    {"a solicitation goes up", packet6(kGone6, icmpv6(135), kIcmpv6), kUp, kNone, kPassed},
    {"an advertisement goes up", packet6(kGone6, icmpv6(136), kIcmpv6), kUp, kNone, kPassed},
    {"a solicitation behind an extension header goes up", packet6(kGone6, extension(kIcmpv6) | icmpv6(135), kHop), kUp,
     kNone, kPassed},
    {"ICMPv6 echo is not neighbour discovery", packet6(kGone6, icmpv6(128), kIcmpv6), kTx, kGoneSlot6, kRedirected,
     sent_on(packet6(kGone6, icmpv6(128), kIcmpv6))},
    {"other protocols go up", eth(kService, kClient, kLldp) | Bytes(40, 1), kUp, kNone, kPassed},
    {"three tags go up", kThrice4, kUp, kNone, kPassed},

    {"only an Ethernet header", cut(kOut4, 14), kUp, kNone, kPassed},
    {"IPv4 cut in its header", cut(kOut4, 33), kUp, kNone, kPassed},
    {"IPv4 cut in its first byte", cut(kOut4, 15), kUp, kNone, kPassed},
    {"IPv4 cut in its options", cut(kOptions4, 60), kUp, kNone, kPassed},
    {"IPv4 whole but for its payload", cut(kOut4, 34), kTx, kGoneSlot4, kRedirected, sent_on(cut(kOut4, 34))},
    {"IPv6 cut in its header", cut(kOut6, 53), kUp, kNone, kPassed},
    {"IPv6 whole but for its payload", cut(kOut6, 54), kTx, kGoneSlot6, kRedirected, sent_on(cut(kOut6, 54))},
    {"cut in a tag", cut(tagged4(kGone4), 16), kUp, kNone, kPassed},
    {"cut between tag and header", cut(tagged4(kGone4), 18), kUp, kNone, kPassed},
    {"cut in the second tag", cut(kTwice4, 20), kUp, kNone, kPassed},
    {"IPv4 with a header length below 5", eth(kService, kClient, kIpv4) | ipv4(kClient4, kGone4, kTcp, 4) | tcp(kAck),
     kUp, kNone, kPassed},
    {"IPv4 of version 5", eth(kService, kClient, kIpv4) | ipv4(kClient4, kGone4, kTcp, 5, 0, 5) | tcp(kAck), kUp, kNone,
     kPassed},
    {"IPv6 of version 4", eth(kService, kClient, kIpv6) | ipv6(kClient6, kGone6, kTcp, 4) | tcp(kAck), kUp, kNone,
     kPassed},
    {"IPv4 in an IPv6 frame", eth(kService, kClient, kIpv6) | ipv4(kClient4, kGone4, kTcp) | tcp(kAck), kUp, kNone,
     kPassed},
    {"IPv6 in an IPv4 frame", eth(kService, kClient, kIpv4) | ipv6(kClient6, kGone6, kTcp) | tcp(kAck), kUp, kNone,
     kPassed},
};

class SteerXdp : public testing::TestWithParam<Row> {};
TEST_P(SteerXdp, Row) {
  Program& program = Program::get();
  const Row& row = GetParam();
  program.clear();
  auto outcome = program.run(row.frame);
  EXPECT_EQ(outcome.verdict, row.verdict);
  EXPECT_EQ(outcome.frame, row.out.empty() ? row.frame : row.out);
  EXPECT_EQ(program.frames(row.slot, row.reason), 1u) << "reason " << row.reason;
  EXPECT_EQ(program.frames_of_all(), 1u);
}
INSTANTIATE_TEST_SUITE_P(Rows, SteerXdp, testing::ValuesIn(kRows));
static_assert(std::size(kRows) >= 60);

Bytes filled(const Bytes& frame, size_t size) { return frame | Bytes(size - frame.size(), 0x55); }
const Bytes kFarOut4 = packet4(kFar4, tcp(kAck)), kFarOut6 = packet6(kFar6, tcp(kAck));

struct TunnelRow {
  const char* name;
  Bytes frame;
  uint32_t verdict;
  uint32_t slot;
  uint32_t reason;
};
std::ostream& operator<<(std::ostream& out, const TunnelRow& row) {
  return out << row.name;
}
constexpr uint32_t kTooLarge = MOSE_STEER_R_DROP_MTU;
const TunnelRow kTunnelRows[] = {
    {"IPv4", kFarOut4, kTx, kFarSlot4, kRedirected},
    {"IPv6", kFarOut6, kTx, kFarSlot6, kRedirected},
    {"a connection request", packet4(kFar4, tcp(kSyn)), kTx, kFarSlot4, kRedirected},
    {"a datagram", packet6(kFar6, udp(), kUdp), kTx, kFarSlot6, kRedirected},
    {"a later fragment", fragment4(kFar4, 100), kTx, kFarSlot4, kRedirected},
    {"what the next hop itself brought", from_peer(kFarOut4), kTx, kFarSlot4, kRedirected},
    {"a cut TCP header", cut(kFarOut4, 40), kTx, kFarSlot4, kRedirected},
    {"as large as fits, IPv4", filled(kFarOut4, 14 + kMtu - 50), kTx, kFarSlot4, kRedirected},
    {"as large as fits, IPv6", filled(kFarOut6, 14 + kMtu - 70), kTx, kFarSlot6, kRedirected},
    {"one byte too large, IPv4", filled(kFarOut4, 14 + kMtu - 49), kDrop, kFarSlot4, kTooLarge},
    {"one byte too large, IPv6", filled(kFarOut6, 14 + kMtu - 69), kDrop, kFarSlot6, kTooLarge},
    {"by a device that is gone", packet4(kFarAcross4, tcp(kAck)), kDrop, kFarAcrossSlot, MOSE_STEER_R_DROP_REWRITE},
    {"a tag goes up, IPv4", tagged4(kFar4), kUp, kFarSlot4, kPassed},
    {"a tag goes up, IPv6", tagged6(kFar6), kUp, kFarSlot6, kPassed},
    {"to another MAC goes up", packet4(kFar4, tcp(kAck), kTcp, kStranger), kUp, kFarSlot4, kPassed},
    {"what comes by a tunnel goes up, IPv4", in_tunnel4(kUplink, kStranger, kRemote4, kLocal4, kIn4), kUp, kNone, kPassed},
    {"what comes by a tunnel goes up, IPv6", in_tunnel6(kUplink, kStranger, kRemote6, kLocal6, kIn6), kUp, kNone, kPassed},
    {"what comes by a tunnel for one that is gone goes up", in_tunnel4(kUplink, kStranger, kRemote4, kLocal4, kOut4), kUp,
     kNone, kPassed},
};

class SteerXdpTunnel : public testing::TestWithParam<TunnelRow> {};
TEST_P(SteerXdpTunnel, Row) {
  Program& program = Program::get();
  const TunnelRow& row = GetParam();
  program.clear();
  auto outcome = program.run(row.frame);
  EXPECT_EQ(outcome.verdict, row.verdict);
  EXPECT_EQ(program.frames(row.slot, row.reason), 1u) << "reason " << row.reason;
  EXPECT_EQ(program.frames_of_all(), 1u);
  if (row.reason != kRedirected) {
    EXPECT_EQ(outcome.frame, row.frame);
    return;
  }
  const Tunnelled with{.source_port = source_port_of(outcome.frame)};
  EXPECT_GE(with.source_port, 0xc000u);
  EXPECT_EQ(outcome.frame, row.slot == kFarSlot4 ? in_tunnel4(kPeer, kUplink, kLocal4, kRemote4, row.frame, with)
                                                 : in_tunnel6(kPeer, kUplink, kLocal6, kRemote6, row.frame, with));
}
INSTANTIATE_TEST_SUITE_P(Rows, SteerXdpTunnel, testing::ValuesIn(kTunnelRows));

TEST(SteerXdpStamps, SayWhenTheFirstAndTheLastFrameWereRedirected) {
  Program& program = Program::get();
  program.clear();
  for (int i = 0; i < 3; ++i) program.run(kOut4);
  mose_steer_stamp stamp{};
  for (const auto& cpu : program.counts(kGoneSlot4)) {
    if (cpu.redirect_stamp.first_ns != 0) stamp = cpu.redirect_stamp;
  }
  EXPECT_EQ(stamp.epoch, 1u);
  EXPECT_NE(stamp.first_ns, 0u);
  EXPECT_GE(stamp.last_ns, stamp.first_ns);
}

// Between the two, while an entry comes or goes, TC must see the frame: a drop here would be one more to explain.
TEST(SteerXdpEntry, WithoutItsCountersLetsFramesUp) {
  Program& program = Program::get();
  program.without_counts(kGoneSlot4, [&] {
    auto outcome = program.run(kOut4);
    EXPECT_EQ(outcome.verdict, kUp);
    EXPECT_EQ(outcome.frame, kOut4);
  });
  EXPECT_EQ(program.run(kOut4).verdict, kTx);
}

}  // namespace
}  // namespace mose::test
