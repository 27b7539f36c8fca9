// SPDX-License-Identifier: MIT
// Each steering program by rows: a frame goes in by BPF_PROG_TEST_RUN, verdict, frame and counter come out.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <tuple>

#include "frames.h"
#include "mose/bpf/steer.h"
#include "own_loopback.h"
#include "steer_tc.skel.h"
#include "support/support.h"

namespace mose::test {
namespace {

// Values that no enumerator has may stand in the map; as an enumeration they could not even be read.
void put_state(mose_steer_policy& policy, uint32_t state) { std::memcpy(&policy.state, &state, sizeof state); }
uint32_t state_of(const mose_steer_policy& policy) {
  uint32_t state = 0;
  std::memcpy(&state, &policy.state, sizeof state);
  return state;
}

constexpr Mac kService{2, 0, 0, 0, 0, 0x10}, kClient{2, 0, 0, 0, 0, 2}, kUplink{2, 0, 0, 0, 1, 1},
    kPeer{2, 0, 0, 0, 1, 2};
constexpr Mac kBroadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr V4 kService4{192, 0, 2, 10}, kClient4{192, 0, 2, 2}, kOther4{192, 0, 2, 99}, kAll4{192, 0, 2, 255};
constexpr V6 kService6{0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10};
constexpr V6 kClient6{0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
constexpr V6 kOther6{0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x10};
constexpr unsigned kTap = 71, kUplinkDevice = 72, kHost = 73;
// A tunnel's device is looked at: the loopback of the test's own namespace, with this MTU.
constexpr unsigned kLoopback = 1, kMtu = 1500;
constexpr V4 kLocal4{198, 51, 100, 1}, kRemote4{203, 0, 113, 2};
constexpr V6 kLocal6{0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
constexpr V6 kRemote6{0x20, 1, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};

constexpr int kNext = -1, kShot = 2, kStolen = 4, kRedirect = 7;

// The state a row finds.
struct Given {
  uint32_t state = MOSE_STEER_PASS;
  uint32_t after_drain = MOSE_STEER_PASS;
  bool silent = false;
  uint64_t queued = 0, drained = 0;
  bool marked = false;
  uint64_t packets_max = 100, bytes_max = 100000;
  uint64_t deadline_ns = 0;
  uint32_t on_expiry = MOSE_STEER_PASS;
  uint8_t tunnel = 0;  // its family
  bool settled = false;
  uint32_t drain_packets_max = 0;
};

struct Row {
  const char* name;
  Given given;
  Bytes frame;
  int verdict;
  uint32_t reason;
  Bytes out = {};       // empty: as it came in
  bool queues = false;  // one more frame in the tap
  uint32_t state = 0;   // afterwards, 0: as before
};
std::ostream& operator<<(std::ostream& out, const Row& row) {
  return out << row.name;
}

mose_steer_tunnel tunnel_of(uint8_t family) {
  mose_steer_tunnel tunnel{};
  if (family == 0) return tunnel;
  tunnel.family = family;
  tunnel.port = htons(4789);
  if (family == 4) {
    std::copy(kLocal4.begin(), kLocal4.end(), tunnel.local);
    std::copy(kRemote4.begin(), kRemote4.end(), tunnel.remote);
  } else {
    std::copy(kLocal6.begin(), kLocal6.end(), tunnel.local);
    std::copy(kRemote6.begin(), kRemote6.end(), tunnel.remote);
  }
  return tunnel;
}

class Programs {
 public:
  static Programs& get() {
    static Programs programs;
    return programs;
  }

  struct Outcome {
    int verdict = 0;
    Bytes frame;
    uint32_t mark = 0;
  };

  Outcome run(const bpf_program* program, const Bytes& frame, uint32_t mark) {
    Outcome outcome;
    outcome.frame.resize(frame.size() + 128);
    __sk_buff in{}, out{};
    in.mark = mark;
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_out = outcome.frame.data(),
                .data_size_in = static_cast<uint32_t>(frame.size()),
                .data_size_out = static_cast<uint32_t>(outcome.frame.size()), .ctx_in = &in, .ctx_out = &out,
                .ctx_size_in = sizeof in, .ctx_size_out = sizeof out);
    int code = bpf_prog_test_run_opts(bpf_program__fd(program), &options);
    EXPECT_EQ(code, 0) << strerror(-code);
    outcome.verdict = static_cast<int>(options.retval);
    outcome.frame.resize(options.data_size_out);
    outcome.mark = out.mark;
    return outcome;
  }

  void set(uint32_t direction, const Given& given) {
    mose_steer_policy policy{};
    put_state(policy, given.state);
    policy.after_drain = static_cast<mose_steer_state>(given.after_drain);
    policy.on_expiry = static_cast<mose_steer_state>(given.on_expiry);
    policy.deadline_ns = given.deadline_ns;
    policy.epoch = ++epoch_;
    policy.silent = given.silent ? 1 : 0;
    policy.tap_ifindex = kTap;
    policy.peer_ifindex = given.tunnel != 0 ? kLoopback : kUplinkDevice;
    policy.tunnel = tunnel_of(given.tunnel);
    policy.peer_settled = given.settled ? 1 : 0;
    std::copy(kPeer.begin(), kPeer.end(), policy.peer_mac);
    std::copy(kUplink.begin(), kUplink.end(), policy.own_mac);
    policy.hold_packets_max = given.packets_max;
    policy.hold_bytes_max = given.bytes_max;
    policy.drain_packets_max = given.drain_packets_max;
    mose_steer_queue queue{.queued = given.queued};
    mose_steer_drained drained{.frames = given.drained};
    mose_steer_drained_bytes drained_bytes{};
    std::vector<mose_steer_counts> zero(cpus());
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(maps().mose_services), &direction, &policy, BPF_F_LOCK), 0);
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(maps().mose_queues), &direction, &queue, 0), 0);
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(maps().mose_drained), &direction, &drained, 0), 0);
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(maps().mose_drained_bytes), &direction, &drained_bytes, 0), 0);
    for (uint32_t slot = 0; slot < MOSE_STEER_SLOTS; ++slot) {
      uint32_t key = MOSE_STEER_COUNTS_KEY(direction, slot);
      ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(maps().mose_counts), &key, zero.data(), 0), 0);
    }
  }

  uint64_t frames(uint32_t direction, uint32_t reason) {
    uint64_t sum = 0;
    for (const auto& cpu : counts(direction)) sum += cpu.frames[reason];
    return sum;
  }
  uint64_t frames_of_all_reasons(uint32_t direction) {
    uint64_t sum = 0;
    for (const auto& cpu : counts(direction)) {
      for (uint64_t frames : cpu.frames) sum += frames;
    }
    return sum;
  }
  std::vector<mose_steer_counts> counts(uint32_t direction) {
    std::vector<mose_steer_counts> all;
    for (uint32_t slot = 0; slot < MOSE_STEER_SLOTS; ++slot) {
      auto each = counts(direction, slot);
      all.insert(all.end(), each.begin(), each.end());
    }
    return all;
  }
  std::vector<mose_steer_counts> counts(uint32_t direction, uint32_t slot) {
    std::vector<mose_steer_counts> each(cpus());
    uint32_t key = MOSE_STEER_COUNTS_KEY(direction, slot);
    EXPECT_EQ(bpf_map_lookup_elem(bpf_map__fd(maps().mose_counts), &key, each.data()), 0);
    return each;
  }
  mose_steer_policy policy(uint32_t direction) {
    mose_steer_policy value{};
    EXPECT_EQ(bpf_map_lookup_elem(bpf_map__fd(maps().mose_services), &direction, &value), 0);
    return value;
  }
  mose_steer_queue queue(uint32_t direction) {
    mose_steer_queue value{};
    EXPECT_EQ(bpf_map_lookup_elem(bpf_map__fd(maps().mose_queues), &direction, &value), 0);
    return value;
  }
  steer_tc& skeleton() { return *skeleton_; }

 private:
  Programs() {
    if (geteuid() != 0) skip_process("BPF programs need root");
    libbpf_set_print(nullptr);
    enter_own_loopback(kMtu);
    skeleton_.reset(steer_tc__open());
    if (!skeleton_) skip_process("the BPF object cannot be opened");
    mose_steer_config config{};
    config.version = MOSE_STEER_VERSION;
    config.services_count = 2;
    config.services[0].family = 4;
    std::copy(kService4.begin(), kService4.end(), config.services[0].address);
    config.services[1].family = 6;
    std::copy(kService6.begin(), kService6.end(), config.services[1].address);
    config.host_ifindex = kHost;
    std::copy(kService.begin(), kService.end(), config.service_mac);
    std::copy(kUplink.begin(), kUplink.end(), config.uplink_mac);
    std::memcpy(const_cast<mose_steer_config*>(&skeleton_->rodata->mose_config), &config, sizeof config);
    if (int code = steer_tc__load(skeleton_.get()); code != 0) {
      if (code == -EPERM) skip_process("this host does not allow BPF programs");
      ADD_FAILURE() << "load: " << strerror(-code);
      std::abort();
    }
  }
  static size_t cpus() { return static_cast<size_t>(libbpf_num_possible_cpus()); }
  decltype(steer_tc::maps)& maps() { return skeleton_->maps; }

  struct Destroy {
    void operator()(steer_tc* skeleton) const { steer_tc__destroy(skeleton); }
  };
  std::unique_ptr<steer_tc, Destroy> skeleton_;
  uint32_t epoch_ = 0;
};

void expect_row(const Row& row, uint32_t direction, const bpf_program* program) {
  Programs& programs = Programs::get();
  programs.set(direction, row.given);
  auto outcome = programs.run(program, row.frame, row.given.marked ? MOSE_STEER_MARK : 0);
  EXPECT_EQ(outcome.verdict, row.verdict);
  EXPECT_EQ(outcome.frame, row.out.empty() ? row.frame : row.out);
  EXPECT_EQ(outcome.mark, 0u);
  EXPECT_EQ(programs.frames(direction, row.reason), 1u) << "reason " << row.reason;
  EXPECT_EQ(programs.frames(direction, MOSE_STEER_R_REINJECTED), row.given.marked ? 1u : 0u);
  EXPECT_EQ(programs.frames_of_all_reasons(direction), row.given.marked ? 2u : 1u);
  EXPECT_EQ(programs.queue(direction).queued, row.given.queued + (row.queues ? 1 : 0));
  EXPECT_EQ(state_of(programs.policy(direction)), row.state == 0 ? row.given.state : row.state);
}

Bytes to_service4(const Bytes& payload, uint8_t protocol = kTcp) {
  return eth(kService, kClient, kIpv4) | ipv4(kClient4, kService4, protocol) | payload;
}
Bytes to_service6(const Bytes& payload, uint8_t next = kTcp) {
  return eth(kService, kClient, kIpv6) | ipv6(kClient6, kService6, next) | payload;
}
Bytes with_macs(Bytes frame, const Mac& to, const Mac& from) {
  std::copy(to.begin(), to.end(), frame.begin());
  std::copy(from.begin(), from.end(), frame.begin() + 6);
  return frame;
}
Bytes redirected(const Bytes& frame) {
  return with_macs(frame, kPeer, kUplink);
}

const Bytes kV4 = to_service4(tcp(kAck));
const Bytes kV6 = to_service6(tcp(kAck));
const Bytes kSyn4 = to_service4(tcp(kSyn));
const Bytes kSyn6 = to_service6(tcp(kSyn));
const Bytes kTagged4 = eth(kService, kClient, kVlan) | vlan(7, kIpv4) | ipv4(kClient4, kService4, kTcp) | tcp(kAck);
const Bytes kTagged6 = eth(kService, kClient, kVlan) | vlan(7, kIpv6) | ipv6(kClient6, kService6, kTcp) | tcp(kAck);
const Bytes kTwice4 =
    eth(kService, kClient, kQinq) | vlan(7, kVlan) | vlan(8, kIpv4) | ipv4(kClient4, kService4, kTcp) | tcp(kAck);
// One byte short of a whole IP header. Tagged, because BPF_PROG_TEST_RUN itself refuses such a frame without a tag.
const Bytes kCut4 = cut(kTagged4, 14 + 4 + 19), kCut6 = cut(kTagged6, 14 + 4 + 39);
const Bytes kThrice = eth(kService, kClient, kQinq) | vlan(7, kVlan) | vlan(8, kVlan) | vlan(9, kIpv4) |
                      ipv4(kClient4, kService4, kTcp) | tcp(kAck);
const Bytes kOptions4 = eth(kService, kClient, kIpv4) | ipv4(kClient4, kService4, kTcp, 15) | tcp(kSyn);
const Bytes kLaterFragment4 = eth(kService, kClient, kIpv4) | ipv4(kClient4, kService4, kTcp, 5, 100) | tcp(kSyn);
constexpr unsigned kMore = 0x2000;
const Bytes kFirstFragment4 = eth(kService, kClient, kIpv4) | ipv4(kClient4, kService4, kTcp, 5, kMore) | tcp(kSyn);
const Bytes kFirstUdp4 = eth(kService, kClient, kIpv4) | ipv4(kClient4, kService4, kUdp, 5, kMore) | udp();
const Bytes kLaterUdp4 = eth(kService, kClient, kIpv4) | ipv4(kClient4, kService4, kUdp, 5, 100) | udp();
const Bytes kFirstFragment6 = to_service6(fragment(kTcp, 0, true) | tcp(kSyn), kFragment);
const Bytes kLaterFragment6 = to_service6(fragment(kTcp, 80) | tcp(kAck), kFragment);
const Bytes kFirstDeep6 = to_service6(fragment(kDest, 0, true) | extension(kUdp) | udp(), kFragment);
const Bytes kLaterDeep6 = to_service6(fragment(kDest, 80) | udp(), kFragment);
const Bytes kFirstUdp6 = to_service6(fragment(kUdp, 0, true) | udp(), kFragment);
const Bytes kLaterUdp6 = to_service6(fragment(kUdp, 80) | udp(), kFragment);
const Bytes kAtomic6 = to_service6(fragment(kTcp, 0) | tcp(kAck), kFragment);
// "Fragmentation needed" and "packet too big" from a router, about what the service has sent.
const Bytes kIcmpError4 =
    to_service4(Bytes{3, 4} | Bytes(6, 0) | ipv4(kService4, kClient4, kTcp) | Bytes(8, 0x11), kIcmp);
const Bytes kIcmpError6 =
    to_service6(Bytes{2, 0} | Bytes(6, 0) | ipv6(kService6, kClient6, kTcp) | Bytes(8, 0x11), kIcmpv6);
const Bytes kLying4 = [] {
  Bytes frame = kV4;
  frame[16] = 0;
  frame[17] = 19;
  return frame;
}();
const Bytes kArpFrame = eth(kBroadcast, kClient, kArp) | arp();
const Bytes kTaggedArp = eth(kBroadcast, kClient, kVlan) | vlan(7, kArp) | arp();
const Bytes kSolicit = to_service6(icmpv6(135), kIcmpv6);
const Bytes kAdvert = to_service6(icmpv6(136), kIcmpv6);
const Bytes kSolicitBehindHop = to_service6(extension(kIcmpv6) | icmpv6(135), kHop);
const Bytes kPing6 = to_service6(icmpv6(128), kIcmpv6);
const Bytes kMld = to_service6(extension(kIcmpv6) | icmpv6(143), kHop);
const Bytes kLldpFrame = eth(kBroadcast, kClient, kLldp) | Bytes(40, 1);
const Bytes kBroadcast4 = eth(kBroadcast, kClient, kIpv4) | ipv4(kClient4, kAll4, kUdp) | udp();
const Bytes kFromPeer = with_macs(kV4, kService, kPeer);

constexpr Given kPassing{}, kSilent{.silent = true};
constexpr Given kHolding{.state = MOSE_STEER_HOLD}, kShut{.state = MOSE_STEER_SHUT};
constexpr Given kShutSilent{.state = MOSE_STEER_SHUT, .silent = true};
constexpr Given kRedirecting{.state = MOSE_STEER_REDIRECT};
constexpr Given kRedirectSilent{.state = MOSE_STEER_REDIRECT, .silent = true};
constexpr Given kHoldNew{.state = MOSE_STEER_HOLD_NEW};
constexpr Given kDraining{.state = MOSE_STEER_DRAIN, .queued = 5, .drained = 4};
constexpr Given kDrained{.state = MOSE_STEER_DRAIN, .queued = 5, .drained = 5};
constexpr Given kDrainToPeer{.state = MOSE_STEER_DRAIN, .after_drain = MOSE_STEER_REDIRECT, .queued = 5, .drained = 4};
constexpr Given kDrainedToPeer{
    .state = MOSE_STEER_DRAIN, .after_drain = MOSE_STEER_REDIRECT, .queued = 5, .drained = 5};
constexpr Given kDrainedToShut{.state = MOSE_STEER_DRAIN, .after_drain = MOSE_STEER_SHUT, .queued = 5, .drained = 5};

constexpr uint64_t kNever = ~0ull;
constexpr Given kHoldLong{.state = MOSE_STEER_HOLD, .deadline_ns = kNever};
constexpr Given kHoldOver{.state = MOSE_STEER_HOLD, .deadline_ns = 1};
constexpr Given kHoldNewOver{.state = MOSE_STEER_HOLD_NEW, .deadline_ns = 1};
constexpr Given kHoldOverShut{.state = MOSE_STEER_HOLD, .deadline_ns = 1, .on_expiry = MOSE_STEER_SHUT};
constexpr Given kDrainOver{.state = MOSE_STEER_DRAIN, .queued = 5, .drained = 4, .deadline_ns = 1};

// One frame waits in each.
constexpr Given bounded(Given given, uint32_t drain_packets_max) {
  given.drain_packets_max = drain_packets_max;
  return given;
}
constexpr Given kHoldingOne{.state = MOSE_STEER_HOLD, .queued = 5, .drained = 4};
constexpr Given kDrainingFull{.state = MOSE_STEER_DRAIN, .queued = 5, .drained = 4, .packets_max = 1};

constexpr Given marked(Given given) {
  given.marked = true;
  return given;
}

// Both directions decide alike; the rows run through both programs.
const Row kBoth[] = {
    {"pass IPv4", kPassing, kV4, kNext, MOSE_STEER_R_PASSED},
    {"pass IPv6", kPassing, kV6, kNext, MOSE_STEER_R_PASSED},
    {"pass ARP", kPassing, kArpFrame, kNext, MOSE_STEER_R_PASSED},
    {"pass what cannot be parsed: the kernel judges", kPassing, kCut4, kNext, MOSE_STEER_R_PASSED},
    {"pass other protocols", kPassing, kLldpFrame, kNext, MOSE_STEER_R_PASSED},
    {"pass, silent: IPv4 passes", kSilent, kV4, kNext, MOSE_STEER_R_PASSED},
    {"pass, silent: ARP does not", kSilent, kArpFrame, kShot, MOSE_STEER_R_DROP_SILENT},
    {"pass, silent: what cannot be parsed passes", kSilent, kCut4, kNext, MOSE_STEER_R_PASSED},
    {"pass a marked frame", marked(kPassing), kV4, kNext, MOSE_STEER_R_PASSED},

    {"hold IPv4", kHolding, kV4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold IPv6", kHolding, kV6, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold a tagged frame", kHolding, kTagged4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold a frame with two tags", kHolding, kTwice4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold IPv4 with options", kHolding, kOptions4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold a later fragment", kHolding, kLaterFragment4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold other protocols", kHolding, kLldpFrame, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold broadcast", kHolding, kBroadcast4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold ICMPv6 echo", kHolding, kPing6, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold a multicast report", kHolding, kMld, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold: ARP passes", kHolding, kArpFrame, kNext, MOSE_STEER_R_PASSED},
    {"hold: tagged ARP passes", kHolding, kTaggedArp, kNext, MOSE_STEER_R_PASSED},
    {"hold: a solicitation passes", kHolding, kSolicit, kNext, MOSE_STEER_R_PASSED},
    {"hold: an advertisement passes", kHolding, kAdvert, kNext, MOSE_STEER_R_PASSED},
    {"hold: a solicitation behind an extension header passes", kHolding, kSolicitBehindHop, kNext, MOSE_STEER_R_PASSED},
    {"hold: cut IPv4 header", kHolding, kCut4, kShot, MOSE_STEER_R_DROP_PARSE},
    {"hold: cut IPv6 header", kHolding, kCut6, kShot, MOSE_STEER_R_DROP_PARSE},
    {"hold: cut options", kHolding, cut(kOptions4, 60), kShot, MOSE_STEER_R_DROP_PARSE},
    {"hold: cut tag", kHolding, cut(kTagged4, 16), kShot, MOSE_STEER_R_DROP_PARSE},
    {"hold: IPv4 header length below 5", kHolding,
     eth(kService, kClient, kIpv4) | ipv4(kClient4, kService4, kTcp, 4) | tcp(0), kShot, MOSE_STEER_R_DROP_PARSE},
    {"hold: IPv4 of version 5", kHolding,
     eth(kService, kClient, kIpv4) | ipv4(kClient4, kService4, kTcp, 5, 0, 5) | tcp(0), kShot, MOSE_STEER_R_DROP_PARSE},
    {"hold: IPv6 of version 4", kHolding, eth(kService, kClient, kIpv6) | ipv6(kClient6, kService6, kTcp, 4) | tcp(0),
     kShot, MOSE_STEER_R_DROP_PARSE},
    {"hold: cut TCP header is still the service's", kHolding, cut(kV4, 40), kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold: one place left", {.state = MOSE_STEER_HOLD, .queued = 99}, kV4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold: no place left", {.state = MOSE_STEER_HOLD, .queued = 100}, kV4, kShot, MOSE_STEER_R_DROP_OVERFLOW},
    {"hold: what has been put back makes room",
     {.state = MOSE_STEER_HOLD, .queued = 100, .drained = 1},
     kV4,
     kRedirect,
     MOSE_STEER_R_HELD,
     {},
     true},
    {"hold: more put back than queued is an empty tap",
     {.state = MOSE_STEER_HOLD, .queued = 4, .drained = 6},
     kV4,
     kRedirect,
     MOSE_STEER_R_HELD,
     {},
     true},
    {"hold: no bytes left", {.state = MOSE_STEER_HOLD, .bytes_max = 50}, kV4, kShot, MOSE_STEER_R_DROP_OVERFLOW},
    {"hold: a marked frame goes back to the tap", marked(kHolding), kV4, kRedirect, MOSE_STEER_R_HELD, {}, true},

    {"hold-new: IPv4 connection request", kHoldNew, kSyn4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold-new: IPv6 connection request", kHoldNew, kSyn6, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold-new: request behind IPv4 options", kHoldNew, kOptions4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold-new: request behind extension headers",
     kHoldNew,
     to_service6(extension(kRouting) | extension(kDest) | extension(kAuth, 1) | auth(kTcp) | tcp(kSyn), kHop),
     kRedirect,
     MOSE_STEER_R_HELD,
     {},
     true},
    {"hold-new: more extension headers than we follow", kHoldNew,
     to_service6(extension(kDest) | extension(kDest) | extension(kDest) | extension(kDest) | extension(kDest) |
                     extension(kDest) | extension(kTcp) | tcp(kSyn),
                 kDest),
     kNext, MOSE_STEER_R_PASSED},
    {"hold-new: established", kHoldNew, kV4, kNext, MOSE_STEER_R_PASSED},
    {"hold-new: SYN and ACK", kHoldNew, to_service4(tcp(kSyn | kAck)), kNext, MOSE_STEER_R_PASSED},
    {"hold-new: UDP", kHoldNew, to_service4(udp(), kUdp), kNext, MOSE_STEER_R_PASSED},
    {"hold-new: the first fragment of a request", kHoldNew, kFirstFragment4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold-new: a later fragment goes where its first went",
     kHoldNew,
     kLaterFragment4,
     kRedirect,
     MOSE_STEER_R_HELD,
     {},
     true},
    {"hold-new: the first fragment of a request, IPv6",
     kHoldNew,
     kFirstFragment6,
     kRedirect,
     MOSE_STEER_R_HELD,
     {},
     true},
    {"hold-new: its later fragment, IPv6", kHoldNew, kLaterFragment6, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold-new: first fragment with options behind its header",
     kHoldNew,
     kFirstDeep6,
     kRedirect,
     MOSE_STEER_R_HELD,
     {},
     true},
    {"hold-new: its later fragment knows no more", kHoldNew, kLaterDeep6, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold-new: the first fragment of a datagram", kHoldNew, kFirstUdp4, kNext, MOSE_STEER_R_PASSED},
    {"hold-new: its later fragment", kHoldNew, kLaterUdp4, kNext, MOSE_STEER_R_PASSED},
    {"hold-new: the first fragment of a datagram, IPv6", kHoldNew, kFirstUdp6, kNext, MOSE_STEER_R_PASSED},
    {"hold-new: its later fragment, IPv6", kHoldNew, kLaterUdp6, kNext, MOSE_STEER_R_PASSED},
    {"hold-new: a fragment header on a whole packet", kHoldNew, kAtomic6, kNext, MOSE_STEER_R_PASSED},
    {"hold-new: an ICMP error about a connection", kHoldNew, kIcmpError4, kNext, MOSE_STEER_R_PASSED},
    {"hold-new: cut TCP header", kHoldNew, cut(kSyn4, 40), kNext, MOSE_STEER_R_PASSED},

    {"hold: the first fragment of a datagram", kHolding, kFirstUdp4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold: its later fragment", kHolding, kLaterUdp4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold: the first fragment of a datagram, IPv6", kHolding, kFirstUdp6, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold: its later fragment, IPv6", kHolding, kLaterUdp6, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold: an ICMP error about a held flow", kHolding, kIcmpError4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold: an ICMPv6 error about a held flow", kHolding, kIcmpError6, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"hold: an extension header that is cut is still the service's",
     kHolding,
     cut(kSolicitBehindHop, 55),
     kRedirect,
     MOSE_STEER_R_HELD,
     {},
     true},
    {"hold: IPv4 that claims to be shorter than its header", kHolding, kLying4, kShot, MOSE_STEER_R_DROP_PARSE},

    {"a hold within its time", kHoldLong, kV4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"a hold whose time is up", kHoldOver, kV4, kNext, MOSE_STEER_R_PASSED, {}, false, MOSE_STEER_PASS},
    {"hold-new whose time is up", kHoldNewOver, kSyn6, kNext, MOSE_STEER_R_PASSED, {}, false, MOSE_STEER_PASS},
    {"a hold that expires to shut", kHoldOverShut, kV4, kShot, MOSE_STEER_R_DROP_SHUT, {}, false, MOSE_STEER_SHUT},
    {"a drain whose time is up", kDrainOver, kV4, kNext, MOSE_STEER_R_PASSED, {}, false, MOSE_STEER_PASS},
    {"ARP ends no hold", kHoldOver, kArpFrame, kNext, MOSE_STEER_R_PASSED},

    {"drain: behind what is in the tap", kDraining, kV4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"drain: a marked frame passes, the drain goes on", marked(kDraining), kV4, kNext, MOSE_STEER_R_PASSED},
    {"drain: over, to pass", kDrained, kV4, kNext, MOSE_STEER_R_PASSED, {}, false, MOSE_STEER_PASS},
    {"drain: over, to shut", kDrainedToShut, kV4, kShot, MOSE_STEER_R_DROP_SHUT, {}, false, MOSE_STEER_SHUT},
    {"drain: a place left within its bound", bounded(kDraining, 2), kV4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"drain: no place left within its bound", bounded(kDraining, 1), kV4, kShot, MOSE_STEER_R_DROP_OVERFLOW},
    {"drain: its bound raises no hold's", bounded(kDrainingFull, 2), kV4, kShot, MOSE_STEER_R_DROP_OVERFLOW},
    {"drain: no bound is for what is put back", marked(bounded(kDraining, 1)), kV4, kNext, MOSE_STEER_R_PASSED},
    {"drain: over, within its bound", bounded(kDrained, 1), kV4, kNext, MOSE_STEER_R_PASSED, {}, false, MOSE_STEER_PASS},
    {"hold: a drain's bound is none of its", bounded(kHoldingOne, 1), kV4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"drain: ARP passes and ends nothing", kDrained, kArpFrame, kNext, MOSE_STEER_R_PASSED},

    {"shut IPv4", kShut, kV4, kShot, MOSE_STEER_R_DROP_SHUT},
    {"shut IPv6", kShut, kV6, kShot, MOSE_STEER_R_DROP_SHUT},
    {"shut other protocols", kShut, kLldpFrame, kShot, MOSE_STEER_R_DROP_SHUT},
    {"shut: ARP passes", kShut, kArpFrame, kNext, MOSE_STEER_R_PASSED},
    {"shut: what cannot be parsed", kShut, kCut6, kShot, MOSE_STEER_R_DROP_PARSE},
    {"shut: a marked frame too", marked(kShut), kV4, kShot, MOSE_STEER_R_DROP_SHUT},
    {"shut and silent: ARP", kShutSilent, kArpFrame, kShot, MOSE_STEER_R_DROP_SILENT},
    {"shut and silent: tagged ARP", kShutSilent, kTaggedArp, kShot, MOSE_STEER_R_DROP_SILENT},
    {"shut and silent: solicitation", kShutSilent, kSolicit, kShot, MOSE_STEER_R_DROP_SILENT},
    {"shut and silent: advertisement", kShutSilent, kAdvert, kShot, MOSE_STEER_R_DROP_SILENT},
    {"shut and silent: multicast report", kShutSilent, kMld, kShot, MOSE_STEER_R_DROP_SHUT},
    {"nothing set yet: shut", {.state = MOSE_STEER_INVALID}, kV4, kShot, MOSE_STEER_R_DROP_SHUT},
    {"an unknown state: shut", {.state = 77}, kV4, kShot, MOSE_STEER_R_DROP_SHUT},
    {"three tags are one too many: not an IP packet for us", kShut, kThrice, kShot, MOSE_STEER_R_DROP_SHUT},
};

const Row kIngressOnly[] = {
    {"redirect IPv4", kRedirecting, kV4, kRedirect, MOSE_STEER_R_REDIRECTED, redirected(kV4)},
    {"redirect IPv6", kRedirecting, kV6, kRedirect, MOSE_STEER_R_REDIRECTED, redirected(kV6)},
    {"redirect keeps the tag", kRedirecting, kTagged6, kRedirect, MOSE_STEER_R_REDIRECTED, redirected(kTagged6)},
    {"redirect keeps two tags", kRedirecting, kTwice4, kRedirect, MOSE_STEER_R_REDIRECTED, redirected(kTwice4)},
    {"redirect a later fragment", kRedirecting, kLaterFragment4, kRedirect, MOSE_STEER_R_REDIRECTED,
     redirected(kLaterFragment4)},
    {"redirect IPv6 with a fragment header", kRedirecting, to_service6(fragment(kUdp, 80) | udp(), kFragment),
     kRedirect, MOSE_STEER_R_REDIRECTED, redirected(to_service6(fragment(kUdp, 80) | udp(), kFragment))},
    {"redirect: another IPv4 address", kRedirecting,
     eth(kService, kClient, kIpv4) | ipv4(kClient4, kOther4, kTcp) | tcp(kAck), kShot, MOSE_STEER_R_DROP_OTHER},
    {"redirect: another IPv6 address", kRedirecting,
     eth(kService, kClient, kIpv6) | ipv6(kClient6, kOther6, kTcp) | tcp(kAck), kShot, MOSE_STEER_R_DROP_OTHER},
    {"redirect: broadcast", kRedirecting, kBroadcast4, kShot, MOSE_STEER_R_DROP_OTHER},
    {"redirect: other protocols", kRedirecting, kLldpFrame, kShot, MOSE_STEER_R_DROP_OTHER},
    {"redirect what a client at the peer sends", kRedirecting, kFromPeer, kRedirect, MOSE_STEER_R_REDIRECTED,
     redirected(kFromPeer)},
    {"redirect what a client at the peer had sent into the hold", marked(kRedirecting), kFromPeer, kRedirect,
     MOSE_STEER_R_REDIRECTED, redirected(kFromPeer)},
    {"drain to the peer: what a client there had sent", marked(kDrainToPeer), kFromPeer, kRedirect,
     MOSE_STEER_R_REDIRECTED, redirected(kFromPeer)},
    {"redirect an ICMP error", kRedirecting, kIcmpError4, kRedirect, MOSE_STEER_R_REDIRECTED, redirected(kIcmpError4)},
    {"redirect an ICMPv6 error", kRedirecting, kIcmpError6, kRedirect, MOSE_STEER_R_REDIRECTED,
     redirected(kIcmpError6)},
    {"redirect the first fragment, IPv6", kRedirecting, kFirstUdp6, kRedirect, MOSE_STEER_R_REDIRECTED,
     redirected(kFirstUdp6)},
    {"redirect: cut", kRedirecting, kCut4, kShot, MOSE_STEER_R_DROP_PARSE},
    {"redirect, silent: ARP", kRedirectSilent, kArpFrame, kShot, MOSE_STEER_R_DROP_SILENT},
    {"redirect a marked frame", marked(kRedirecting), kV4, kRedirect, MOSE_STEER_R_REDIRECTED, redirected(kV4)},
    {"redirect a marked frame of nobody: dealt with, not refused", marked(kRedirecting), kBroadcast4, kStolen,
     MOSE_STEER_R_DROP_OTHER},
    {"drain to the peer: behind what is in the tap", kDrainToPeer, kV4, kRedirect, MOSE_STEER_R_HELD, {}, true},
    {"drain to the peer: a marked frame goes there", marked(kDrainToPeer), kV6, kRedirect, MOSE_STEER_R_REDIRECTED,
     redirected(kV6)},
    {"drain to the peer: over", kDrainedToPeer, kV4, kRedirect, MOSE_STEER_R_REDIRECTED, redirected(kV4), false,
     MOSE_STEER_REDIRECT},
};

// The peer is behind a router: the rows run with a tunnel of each family.
struct TunnelRow {
  const char* name;
  Given given;
  Bytes frame;
  int verdict;
  uint32_t reason;
};
std::ostream& operator<<(std::ostream& out, const TunnelRow& row) {
  return out << row.name;
}
// Fits exactly, and is one byte too long.
Bytes filled(const Bytes& frame, size_t size) { return frame | Bytes(size - frame.size(), 0x55); }

const TunnelRow kTunnelRows[] = {
    {"IPv4", kRedirecting, kV4, kRedirect, MOSE_STEER_R_REDIRECTED},
    {"IPv6", kRedirecting, kV6, kRedirect, MOSE_STEER_R_REDIRECTED},
    {"a datagram", kRedirecting, to_service4(udp(), kUdp), kRedirect, MOSE_STEER_R_REDIRECTED},
    {"a connection request", kRedirecting, kSyn6, kRedirect, MOSE_STEER_R_REDIRECTED},
    {"IPv4 with options", kRedirecting, kOptions4, kRedirect, MOSE_STEER_R_REDIRECTED},
    {"a later fragment", kRedirecting, kLaterFragment4, kRedirect, MOSE_STEER_R_REDIRECTED},
    {"a first fragment, IPv6", kRedirecting, kFirstUdp6, kRedirect, MOSE_STEER_R_REDIRECTED},
    {"an ICMP error", kRedirecting, kIcmpError4, kRedirect, MOSE_STEER_R_REDIRECTED},
    {"cut TCP header", kRedirecting, cut(kV4, 40), kRedirect, MOSE_STEER_R_REDIRECTED},
    {"a marked frame", marked(kRedirecting), kV4, kRedirect, MOSE_STEER_R_REDIRECTED},
    {"what the next hop itself brought: most of the world is behind it", kRedirecting, kFromPeer, kRedirect,
     MOSE_STEER_R_REDIRECTED},
    {"drain is over", kDrainedToPeer, kV4, kRedirect, MOSE_STEER_R_REDIRECTED},
    {"a tag cannot go with it", kRedirecting, kTagged4, kShot, MOSE_STEER_R_DROP_REWRITE},
    {"a tag cannot go with it, IPv6", kRedirecting, kTagged6, kShot, MOSE_STEER_R_DROP_REWRITE},
    {"larger than the device takes", kRedirecting, filled(kV4, 14 + kMtu - 49), kShot, MOSE_STEER_R_DROP_MTU},
    {"a marked one that is too large: dealt with, not refused", marked(kRedirecting), filled(kV4, 14 + kMtu - 49),
     kStolen, MOSE_STEER_R_DROP_MTU},
    {"another address", kRedirecting, eth(kService, kClient, kIpv4) | ipv4(kClient4, kOther4, kTcp) | tcp(kAck), kShot,
     MOSE_STEER_R_DROP_OTHER},
    {"broadcast", kRedirecting, kBroadcast4, kShot, MOSE_STEER_R_DROP_OTHER},
    {"cut IP header", kRedirecting, kCut4, kShot, MOSE_STEER_R_DROP_PARSE},
    {"ARP passes: on this segment nobody else answers", kRedirecting, kArpFrame, kNext, MOSE_STEER_R_PASSED},
};

Bytes in_tunnel(uint8_t family, const Bytes& frame, const Tunnelled& with) {
  return family == 4 ? in_tunnel4(kPeer, kUplink, kLocal4, kRemote4, frame, with)
                     : in_tunnel6(kPeer, kUplink, kLocal6, kRemote6, frame, with);
}

class SteerTunnel : public testing::TestWithParam<std::tuple<uint8_t, TunnelRow, bool>> {};
TEST_P(SteerTunnel, Row) {
  const auto& [family, row, settled] = GetParam();
  Programs& programs = Programs::get();
  Given given = row.given;
  given.tunnel = family;
  given.settled = settled;
  programs.set(MOSE_STEER_INGRESS, given);
  auto outcome = programs.run(programs.skeleton().progs.steer_ingress, row.frame, given.marked ? MOSE_STEER_MARK : 0);
  EXPECT_EQ(outcome.verdict, row.verdict);
  EXPECT_EQ(programs.frames(MOSE_STEER_INGRESS, row.reason), 1u) << "reason " << row.reason;
  if (row.reason == MOSE_STEER_R_REDIRECTED) {
    const unsigned port = source_port_of(outcome.frame);
    EXPECT_GE(port, 0xc000u);
    EXPECT_EQ(outcome.frame, in_tunnel(family, row.frame, {.source_port = port}));
  } else if (row.reason != MOSE_STEER_R_DROP_MTU) {
    EXPECT_EQ(outcome.frame, row.frame);
  }
}
INSTANTIATE_TEST_SUITE_P(Rows, SteerTunnel,
                         testing::Combine(testing::Values(4, 6), testing::ValuesIn(kTunnelRows), testing::Bool()));

TEST(SteerTunnelMtu, TakesWhatFitsToTheByte) {
  Programs& programs = Programs::get();
  for (auto [family, room] : {std::pair<uint8_t, unsigned>{4, 50}, {6, 70}}) {
    for (unsigned above : {0u, 1u}) {
      Given given = kRedirecting;
      given.tunnel = family;
      programs.set(MOSE_STEER_INGRESS, given);
      auto outcome =
          programs.run(programs.skeleton().progs.steer_ingress, filled(kV6, 14 + kMtu - room + above), 0);
      EXPECT_EQ(outcome.verdict, above == 0 ? kRedirect : kShot) << int{family};
      EXPECT_EQ(programs.frames(MOSE_STEER_INGRESS, MOSE_STEER_R_DROP_MTU), above) << int{family};
    }
  }
}

TEST(SteerTunnelMtu, ADeviceThatIsGoneIsNoReasonToPretend) {
  Programs& programs = Programs::get();
  Given given = kRedirecting;
  given.tunnel = 4;
  programs.set(MOSE_STEER_INGRESS, given);
  uint32_t key = MOSE_STEER_INGRESS;
  mose_steer_policy policy = programs.policy(key);
  policy.peer_ifindex = kUplinkDevice;
  ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(programs.skeleton().maps.mose_services), &key, &policy, BPF_F_LOCK), 0);
  EXPECT_EQ(programs.run(programs.skeleton().progs.steer_ingress, kV4, 0).verdict, kShot);
  EXPECT_EQ(programs.frames(MOSE_STEER_INGRESS, MOSE_STEER_R_DROP_REWRITE), 1u);
}

// The path is chosen by the flow: packets of one connection keep to one, those of many spread.
TEST(SteerTunnelPort, FollowsTheFlow) {
  Programs& programs = Programs::get();
  Given given = kRedirecting;
  given.tunnel = 4;
  programs.set(MOSE_STEER_INGRESS, given);
  auto port = [&](const Bytes& frame) {
    return source_port_of(programs.run(programs.skeleton().progs.steer_ingress, frame, 0).frame);
  };
  auto from_port = [](Bytes frame, unsigned number) {
    frame[34] = static_cast<uint8_t>(number >> 8);
    frame[35] = static_cast<uint8_t>(number);
    return frame;
  };
  EXPECT_EQ(port(kV4), port(kSyn4)) << "the flags are no part of the flow";
  std::set<unsigned> seen;
  for (unsigned number = 40000; number < 40100; ++number) seen.insert(port(from_port(kV4, number)));
  EXPECT_GT(seen.size(), 90u);
}

class SteerIngress : public testing::TestWithParam<Row> {};
TEST_P(SteerIngress, Row) {
  expect_row(GetParam(), MOSE_STEER_INGRESS, Programs::get().skeleton().progs.steer_ingress);
}
INSTANTIATE_TEST_SUITE_P(Both, SteerIngress, testing::ValuesIn(kBoth));
INSTANTIATE_TEST_SUITE_P(IngressOnly, SteerIngress, testing::ValuesIn(kIngressOnly));

// A settled peer is no state of its own: all that is said of the others is true with it as well.
std::vector<Row> settled_rows() {
  std::vector<Row> rows(std::begin(kIngressOnly), std::end(kIngressOnly));
  rows.insert(rows.end(), std::begin(kBoth), std::end(kBoth));
  for (Row& row : rows) row.given.settled = true;
  return rows;
}
INSTANTIATE_TEST_SUITE_P(Settled, SteerIngress, testing::ValuesIn(settled_rows()));

class SteerEgress : public testing::TestWithParam<Row> {};
TEST_P(SteerEgress, Row) {
  expect_row(GetParam(), MOSE_STEER_EGRESS, Programs::get().skeleton().progs.steer_egress);
}
INSTANTIATE_TEST_SUITE_P(Both, SteerEgress, testing::ValuesIn(kBoth));

struct UplinkRow {
  const char* name;
  Bytes frame;
  Bytes out;  // empty: not ours, as it came in
};
std::ostream& operator<<(std::ostream& out, const UplinkRow& row) {
  return out << row.name;
}

Bytes at_uplink(const Bytes& frame) {
  return with_macs(frame, kUplink, kPeer);
}
Bytes taken(const Bytes& frame) {
  return with_macs(frame, kService, kPeer);
}

const UplinkRow kUplinkRows[] = {
    {"takes IPv4 for a service", at_uplink(kV4), taken(kV4)},
    {"takes IPv6 for a service", at_uplink(kV6), taken(kV6)},
    {"takes tagged IPv4", at_uplink(kTagged4), taken(kTagged4)},
    {"takes tagged IPv6", at_uplink(kTagged6), taken(kTagged6)},
    {"takes a later fragment", at_uplink(kLaterFragment4), taken(kLaterFragment4)},
    {"takes a cut TCP header", at_uplink(cut(kV4, 36)), taken(cut(kV4, 36))},
    {"leaves frames for the service's MAC", kV4, {}},
    {"leaves broadcast", kBroadcast4, {}},
    {"leaves the node's own IPv4", eth(kUplink, kPeer, kIpv4) | ipv4(kClient4, kOther4, kTcp) | tcp(kAck), {}},
    {"leaves the node's own IPv6", eth(kUplink, kPeer, kIpv6) | ipv6(kClient6, kOther6, kTcp) | tcp(kAck), {}},
    {"leaves ARP", at_uplink(kArpFrame), {}},
    {"leaves neighbour discovery", at_uplink(kSolicit), {}},
    {"leaves a cut IP header", at_uplink(kCut4), {}},
    {"leaves other protocols", at_uplink(kLldpFrame), {}},
};

class SteerUplink : public testing::TestWithParam<UplinkRow> {};
TEST_P(SteerUplink, Row) {
  Programs& programs = Programs::get();
  const UplinkRow& row = GetParam();
  programs.set(MOSE_STEER_INGRESS, {});
  programs.set(MOSE_STEER_UPLINK, {});
  auto outcome = programs.run(programs.skeleton().progs.steer_uplink, row.frame, 0);
  EXPECT_EQ(outcome.verdict, kNext);
  EXPECT_EQ(outcome.frame, row.out.empty() ? row.frame : row.out);
  EXPECT_EQ(programs.frames(MOSE_STEER_UPLINK, MOSE_STEER_R_TAKEN), row.out.empty() ? 0u : 1u);
}
INSTANTIATE_TEST_SUITE_P(Rows, SteerUplink, testing::ValuesIn(kUplinkRows));

// What a peer redirects to us must not be redirected back: each would send it to the other for ever.
struct LoopRow {
  const char* name;
  Given ingress;
  Bytes frame;
  bool loop;  // else it is the workload's
};
std::ostream& operator<<(std::ostream& out, const LoopRow& row) {
  return out << row.name;
}

const Bytes kRedirectedToUs4 = at_uplink(kV4), kRedirectedToUs6 = at_uplink(kV6);
constexpr Given kRedirectingByTunnel{.state = MOSE_STEER_REDIRECT, .tunnel = 4};

const LoopRow kLoopRows[] = {
    {"redirect: of the same peer, IPv4", kRedirecting, kRedirectedToUs4, true},
    {"redirect: of the same peer, IPv6", kRedirecting, kRedirectedToUs6, true},
    {"redirect: of the same peer, tagged", kRedirecting, at_uplink(kTagged4), true},
    {"redirect: of another peer", kRedirecting, with_macs(kV4, kUplink, kClient), false},
    {"redirect by a tunnel: the address is the router's", kRedirectingByTunnel, kRedirectedToUs4, false},
    {"drain to the same peer", kDrainToPeer, kRedirectedToUs4, true},
    {"drain to the same peer that is over", kDrainedToPeer, kRedirectedToUs6, true},
    {"drain to pass", kDraining, kRedirectedToUs4, false},
    {"hold: the peer was the former place", kHolding, kRedirectedToUs4, false},
    {"pass", kPassing, kRedirectedToUs4, false},
    {"shut", kShut, kRedirectedToUs4, false},
};

class SteerLoop : public testing::TestWithParam<LoopRow> {};
TEST_P(SteerLoop, Row) {
  Programs& programs = Programs::get();
  const LoopRow& row = GetParam();
  for (bool settled : {false, true}) {
    Given ingress = row.ingress;
    ingress.settled = settled;
    programs.set(MOSE_STEER_INGRESS, ingress);
    programs.set(MOSE_STEER_UPLINK, {});
    auto outcome = programs.run(programs.skeleton().progs.steer_uplink, row.frame, 0);
    EXPECT_EQ(outcome.verdict, row.loop ? kShot : kNext);
    EXPECT_EQ(programs.frames(MOSE_STEER_INGRESS, MOSE_STEER_R_DROP_LOOP), row.loop ? 1u : 0u);
    EXPECT_EQ(programs.frames_of_all_reasons(MOSE_STEER_INGRESS), row.loop ? 1u : 0u);
    EXPECT_EQ(programs.frames(MOSE_STEER_UPLINK, MOSE_STEER_R_TAKEN), row.loop ? 0u : 1u);
    EXPECT_EQ(state_of(programs.policy(MOSE_STEER_INGRESS)), row.ingress.state) << "only frames at the host end change it";
  }
}
INSTANTIATE_TEST_SUITE_P(Rows, SteerLoop, testing::ValuesIn(kLoopRows));

// What comes by a tunnel: a router's MAC in front, that of the uplink or of its bridge behind it.
constexpr Mac kRouter{2, 0, 0, 0, 7, 7}, kBridge{2, 0, 0, 0, 1, 9};
constexpr V4 kStranger4{203, 0, 113, 66};
constexpr V6 kStranger6{0x20, 1, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x66};

// Frames of the peer, whose `remote` we are.
Bytes arriving4(const Bytes& frame, const Tunnelled& with = {.source_port = 50000}, const V4& from = kRemote4,
                const V4& to = kLocal4) {
  return in_tunnel4(kBridge, kRouter, from, to, frame, with);
}
Bytes arriving6(const Bytes& frame, const Tunnelled& with = {.source_port = 50000}, const V6& from = kRemote6,
                const V6& to = kLocal6) {
  return in_tunnel6(kBridge, kRouter, from, to, frame, with);
}
Bytes out_of_tunnel(const Bytes& frame) {
  return with_macs(frame, kService, kRouter);
}
Bytes changed(Bytes frame, size_t offset, uint8_t value) {
  frame.at(offset) = value;
  return frame;
}

struct ArrivalRow {
  const char* name;
  uint8_t family;  // of the tunnel
  Bytes frame;
  uint32_t reason;  // 0: not counted, left to the kernel as it came
  Bytes out = {};
};
std::ostream& operator<<(std::ostream& out, const ArrivalRow& row) {
  return out << row.name;
}

const Bytes kArrived4 = arriving4(kV4), kArrived6 = arriving6(kV6);
const Bytes kForOther4 = eth(kService, kClient, kIpv4) | ipv4(kClient4, kOther4, kTcp) | tcp(kAck);
constexpr uint32_t kTaken = MOSE_STEER_R_TAKEN, kForeign = MOSE_STEER_R_FOREIGN, kBroken = MOSE_STEER_R_DROP_TUNNEL;

const ArrivalRow kArrivalRows[] = {
    {"IPv4 in IPv4", 4, kArrived4, kTaken, out_of_tunnel(kV4)},
    {"IPv6 in IPv4", 4, arriving4(kV6), kTaken, out_of_tunnel(kV6)},
    {"IPv4 in IPv6", 6, arriving6(kV4), kTaken, out_of_tunnel(kV4)},
    {"IPv6 in IPv6", 6, kArrived6, kTaken, out_of_tunnel(kV6)},
    {"to the MAC of the uplink", 4, with_macs(kArrived4, kUplink, kRouter), kTaken, out_of_tunnel(kV4)},
    {"IPv4 with options", 6, arriving6(kOptions4), kTaken, out_of_tunnel(kOptions4)},
    {"a later fragment", 4, arriving4(kLaterFragment4), kTaken, out_of_tunnel(kLaterFragment4)},
    {"a full frame", 4, arriving4(filled(kV4, 1400)), kTaken, out_of_tunnel(filled(kV4, 1400))},
    {"a cut TCP header", 6, arriving6(cut(kV6, 60)), kTaken, out_of_tunnel(cut(kV6, 60))},
    {"whose length of UDP is left open", 4, changed(changed(kArrived4, 38, 0), 39, 0), kTaken, out_of_tunnel(kV4)},

    {"a stranger, IPv4", 4, arriving4(kV4, {}, kStranger4), kForeign},
    {"a stranger, IPv6", 6, arriving6(kV6, {}, kStranger6), kForeign},
    {"a stranger, to another workload, whose peer it may be", 4, arriving4(kForOther4, {}, kStranger4), 0},
    {"a stranger, to another workload, IPv6", 6, arriving6(kForOther4, {}, kStranger6), 0},
    {"a stranger's broken frame", 4, cut(arriving4(kV4, {}, kStranger4), 60), 0},
    {"the peer, by the other family", 6, kArrived4, 0},
    {"no tunnel is known, IPv4", 0, kArrived4, 0},
    {"no tunnel is known, IPv6", 0, kArrived6, 0},
    {"another VNI, IPv4", 4, arriving4(kV4, {.vni = 42}), 0},
    {"another VNI, IPv6", 6, arriving6(kV6, {.vni = 42}), 0},
    {"a VNI that differs in its last bit", 4, arriving4(kV4, {.vni = 0x4d4f52}), 0},
    {"a VNI that is not said to be valid", 4, arriving4(kV4, {.flags = 0}), 0},
    {"another port", 4, arriving4(kV4, {.port = 8472}), 0},
    {"to another address", 4, arriving4(kV4, {}, kRemote4, kOther4), 0},
    {"to another address, IPv6", 6, arriving6(kV6, {}, kRemote6, kOther6), 0},
    {"a fragment of the outer packet: the kernel puts it together", 4, changed(kArrived4, 20, 0x20), 0},
    {"another protocol", 4, changed(kArrived4, 23, kTcp), 0},
    {"for another workload that came from there", 4, arriving4(kForOther4), 0},
    {"cut in the UDP header", 4, cut(kArrived4, 40), 0},
    {"cut in the VXLAN header", 4, cut(kArrived4, 49), 0},
    {"cut in the VXLAN header, IPv6", 6, cut(kArrived6, 69), 0},

    {"nothing inside", 4, cut(kArrived4, 50), kBroken},
    {"cut in the inner Ethernet header", 4, cut(kArrived4, 63), kBroken},
    {"cut in the inner Ethernet header, IPv6", 6, cut(kArrived6, 83), kBroken},
    {"cut in the inner IPv4 header", 4, cut(kArrived4, 64 + 19), kBroken},
    {"cut in the inner IPv6 header", 6, cut(kArrived6, 84 + 39), kBroken},
    {"ARP inside", 4, arriving4(kArpFrame), kBroken},
    {"a tag inside", 4, arriving4(kTagged4), kBroken},
    {"another protocol inside", 6, arriving6(kLldpFrame), kBroken},
    {"inner IPv4 of version 5", 4,
     arriving4(eth(kService, kClient, kIpv4) | ipv4(kClient4, kService4, kTcp, 5, 0, 5) | tcp(0)), kBroken},
    {"inner IPv4 with a header length below 5", 4,
     arriving4(eth(kService, kClient, kIpv4) | ipv4(kClient4, kService4, kTcp, 4) | tcp(0)), kBroken},
    {"inner IPv6 of version 4", 6, arriving6(eth(kService, kClient, kIpv6) | ipv6(kClient6, kService6, kTcp, 4) | tcp(0)),
     kBroken},
    {"a length of UDP that holds no frame", 4, changed(kArrived4, 39, 29), kBroken},

    {"what a peer on the segment redirected is taken as before", 4, at_uplink(kV4), kTaken, taken(kV4)},
    {"the node's own datagrams", 4, eth(kBridge, kRouter, kIpv4) | ipv4(kRemote4, kLocal4, kUdp) | udp(), 0},
};

class SteerArrival : public testing::TestWithParam<ArrivalRow> {};
TEST_P(SteerArrival, Row) {
  Programs& programs = Programs::get();
  const ArrivalRow& row = GetParam();
  programs.set(MOSE_STEER_INGRESS, {});
  programs.set(MOSE_STEER_UPLINK, {.tunnel = row.family});
  auto outcome = programs.run(programs.skeleton().progs.steer_uplink, row.frame, 0);
  EXPECT_EQ(outcome.verdict, row.reason == kBroken ? kShot : kNext);
  EXPECT_EQ(outcome.frame, row.out.empty() ? row.frame : row.out);
  EXPECT_EQ(programs.frames_of_all_reasons(MOSE_STEER_UPLINK), row.reason == 0 ? 0u : 1u);
  if (row.reason == 0) return;
  EXPECT_EQ(programs.frames(MOSE_STEER_UPLINK, row.reason), 1u) << "reason " << row.reason;
}
INSTANTIATE_TEST_SUITE_P(Rows, SteerArrival, testing::ValuesIn(kArrivalRows));

TEST(SteerTap, MarksAndSendsToTheHostEnd) {
  Programs& programs = Programs::get();
  auto outcome = programs.run(programs.skeleton().progs.steer_tap, kV4, 0);
  EXPECT_EQ(outcome.verdict, kRedirect);
  EXPECT_EQ(outcome.mark, MOSE_STEER_MARK);
  EXPECT_EQ(outcome.frame, kV4);
}

// The way of a quiesce: connection requests first, then everything, then out again in one order.
TEST(SteerQueue, HoldNewThenHoldThenDrainIsOneQueue) {
  Programs& programs = Programs::get();
  const bpf_program* program = programs.skeleton().progs.steer_ingress;
  auto set_state = [&](uint32_t state) {
    mose_steer_policy policy = programs.policy(MOSE_STEER_INGRESS);
    policy.state = static_cast<mose_steer_state>(state);
    uint32_t key = MOSE_STEER_INGRESS;
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(programs.skeleton().maps.mose_services), &key, &policy, BPF_F_LOCK), 0);
  };
  auto put_back = [&](uint64_t frames) {
    mose_steer_drained drained{.frames = frames};
    uint32_t key = MOSE_STEER_INGRESS;
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(programs.skeleton().maps.mose_drained), &key, &drained, 0), 0);
  };
  programs.set(MOSE_STEER_INGRESS, kHoldNew);
  EXPECT_EQ(programs.run(program, kSyn4, 0).verdict, kRedirect);
  EXPECT_EQ(programs.run(program, kV4, 0).verdict, kNext);
  EXPECT_EQ(programs.run(program, kSyn6, 0).verdict, kRedirect);
  EXPECT_EQ(programs.queue(MOSE_STEER_INGRESS).queued, 2u);
  set_state(MOSE_STEER_HOLD);
  EXPECT_EQ(programs.run(program, kV4, 0).verdict, kRedirect);
  EXPECT_EQ(programs.queue(MOSE_STEER_INGRESS).queued, 3u);
  set_state(MOSE_STEER_DRAIN);
  EXPECT_EQ(programs.run(program, kSyn4, MOSE_STEER_MARK).verdict, kNext);
  put_back(1);
  EXPECT_EQ(programs.run(program, kV4, 0).verdict, kRedirect) << "a frame overtook what is in the tap";
  for (uint64_t frames = 2; frames <= 4; ++frames) {
    EXPECT_EQ(programs.run(program, kV4, MOSE_STEER_MARK).verdict, kNext);
    put_back(frames);
  }
  EXPECT_EQ(programs.policy(MOSE_STEER_INGRESS).state, static_cast<uint32_t>(MOSE_STEER_DRAIN));
  EXPECT_EQ(programs.run(program, kV4, 0).verdict, kNext);
  EXPECT_EQ(programs.policy(MOSE_STEER_INGRESS).state, static_cast<uint32_t>(MOSE_STEER_PASS));
}

TEST(SteerQueue, BytesCountAgainFromZeroWhenTheTapHasBeenEmpty) {
  Programs& programs = Programs::get();
  const bpf_program* program = programs.skeleton().progs.steer_ingress;
  programs.set(MOSE_STEER_INGRESS, {.state = MOSE_STEER_HOLD, .bytes_max = kV4.size() * 2});
  EXPECT_EQ(programs.run(program, kV4, 0).verdict, kRedirect);
  EXPECT_EQ(programs.run(program, kV4, 0).verdict, kRedirect);
  EXPECT_EQ(programs.run(program, kV4, 0).verdict, kShot);
  EXPECT_EQ(programs.queue(MOSE_STEER_INGRESS).overflowed, 1u);
  mose_steer_drained both{.frames = 2};
  uint32_t key = MOSE_STEER_INGRESS;
  ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(programs.skeleton().maps.mose_drained), &key, &both, 0), 0);
  EXPECT_EQ(programs.run(program, kV4, 0).verdict, kRedirect);
}

class SteerQueueBytes : public testing::Test {
 protected:
  // Of kV4, with room for three.
  void hold_three() {
    programs_.set(MOSE_STEER_INGRESS, {.state = MOSE_STEER_HOLD, .bytes_max = kV4.size() * 3});
    for (int i = 0; i < 3; ++i) EXPECT_EQ(arrive(), kRedirect);
    EXPECT_EQ(arrive(), kShot);
  }
  int arrive(const Bytes& frame = kV4) {
    return programs_.run(programs_.skeleton().progs.steer_ingress, frame, 0).verdict;
  }
  void put_back(uint64_t frames, uint64_t bytes) {
    uint32_t key = MOSE_STEER_INGRESS;
    mose_steer_drained_bytes drained_bytes{.bytes = bytes};
    mose_steer_drained drained{.frames = frames};
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(programs_.skeleton().maps.mose_drained_bytes), &key, &drained_bytes, 0), 0);
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(programs_.skeleton().maps.mose_drained), &key, &drained, 0), 0);
  }
  Programs& programs_ = Programs::get();
};

TEST_F(SteerQueueBytes, MakeRoomAsTheyArePutBack) {
  hold_three();
  put_back(1, kV4.size());
  EXPECT_EQ(arrive(), kRedirect);
  EXPECT_EQ(arrive(), kShot) << "the tap has never been empty";
  put_back(3, kV4.size() * 3);
  EXPECT_EQ(arrive(), kRedirect);
  EXPECT_EQ(arrive(), kRedirect);
  EXPECT_EQ(arrive(), kShot);
}

// A frame that is lost, and those that an agent put back which did not count them.
TEST_F(SteerQueueBytes, OfFramesThatNobodyKnowsCountUntilTheTapIsEmpty) {
  hold_three();
  put_back(2, 0);
  EXPECT_EQ(arrive(), kShot);
  put_back(3, 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(arrive(), kRedirect);
  EXPECT_EQ(arrive(), kShot);
}

TEST_F(SteerQueueBytes, AreNeverLessThanNone) {
  hold_three();
  put_back(1, kV4.size() * 100);
  EXPECT_EQ(arrive(filled(kV4, kV4.size() * 3 + 1)), kShot);
  EXPECT_EQ(arrive(filled(kV4, kV4.size() * 3)), kRedirect);
}

TEST(SteerCounts, AreKeptByService) {
  Programs& programs = Programs::get();
  const Bytes from6 = eth(kClient, kService, kIpv6) | ipv6(kService6, kClient6, kTcp) | tcp(kAck);
  auto shut = [&](uint32_t direction, uint32_t slot) {
    uint64_t sum = 0;
    for (const auto& cpu : programs.counts(direction, slot)) sum += cpu.frames[MOSE_STEER_R_DROP_SHUT];
    return sum;
  };
  programs.set(MOSE_STEER_INGRESS, kShut);
  programs.run(programs.skeleton().progs.steer_ingress, kV4, 0);
  programs.run(programs.skeleton().progs.steer_ingress, kV6, 0);
  programs.run(programs.skeleton().progs.steer_ingress, kV6, 0);
  programs.run(programs.skeleton().progs.steer_ingress, kBroadcast4, 0);
  EXPECT_EQ(shut(MOSE_STEER_INGRESS, 0), 1u);
  EXPECT_EQ(shut(MOSE_STEER_INGRESS, 1), 1u);
  EXPECT_EQ(shut(MOSE_STEER_INGRESS, 2), 2u);
  programs.set(MOSE_STEER_EGRESS, kShut);
  programs.run(programs.skeleton().progs.steer_egress, from6, 0);
  EXPECT_EQ(shut(MOSE_STEER_EGRESS, 2), 1u) << "what a service sends is counted by its source";
}

TEST(SteerExpiry, SaysWhatHasExpired) {
  Programs& programs = Programs::get();
  programs.set(MOSE_STEER_INGRESS, kHoldOver);
  EXPECT_EQ(programs.run(programs.skeleton().progs.steer_ingress, kV4, 0).verdict, kNext);
  EXPECT_EQ(programs.policy(MOSE_STEER_INGRESS).expired, MOSE_STEER_HOLD);
  EXPECT_EQ(programs.policy(MOSE_STEER_INGRESS).deadline_ns, 0u);
}

TEST(SteerStamps, BeginAnewWithEachChangeOfTheState) {
  Programs& programs = Programs::get();
  const bpf_program* program = programs.skeleton().progs.steer_ingress;
  auto stamp = [&] {
    mose_steer_stamp newest{};
    for (const auto& cpu : programs.counts(MOSE_STEER_INGRESS)) {
      if (cpu.stamps[MOSE_STEER_PASS].epoch > newest.epoch) newest = cpu.stamps[MOSE_STEER_PASS];
    }
    return newest;
  };
  programs.set(MOSE_STEER_INGRESS, kPassing);
  programs.run(program, kV4, 0);
  mose_steer_stamp first = stamp();
  EXPECT_NE(first.first_ns, 0u);
  EXPECT_EQ(first.first_ns, first.last_ns);
  programs.set(MOSE_STEER_INGRESS, kPassing);
  programs.run(program, kV4, 0);
  EXPECT_GT(stamp().first_ns, first.last_ns);
}

TEST(SteerStamps, GoOnByTheTickWhileASettledPeerIsRedirectedTo) {
  constexpr uint64_t kTickMax = 10'000'000;  // the kernel's slowest clock, and it is read once a tick
  Programs& programs = Programs::get();
  Given given = kRedirecting;
  given.settled = true;
  programs.set(MOSE_STEER_INGRESS, given);
  auto stamp = [&] {
    mose_steer_stamp latest{};
    for (const auto& cpu : programs.counts(MOSE_STEER_INGRESS, 1)) {
      if (cpu.stamps[MOSE_STEER_REDIRECT].last_ns > latest.last_ns) latest = cpu.stamps[MOSE_STEER_REDIRECT];
    }
    return latest;
  };
  auto clock = [] { return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()); };
  const uint64_t before = clock();
  programs.run(programs.skeleton().progs.steer_ingress, kV4, 0);
  const mose_steer_stamp first = stamp();
  EXPECT_GE(first.first_ns, before) << "the first to the nanosecond";
  while (clock() < first.first_ns + 3 * kTickMax) continue;
  const uint64_t late = clock();
  programs.run(programs.skeleton().progs.steer_ingress, kV4, 0);
  EXPECT_GE(stamp().last_ns + 2 * kTickMax, late);
}

}  // namespace
}  // namespace mose::test
