// SPDX-License-Identifier: MIT
// What steering costs and what it saves.
//
// Forwarding: a generator in the kernel (BPF_PROG_TEST_RUN with live frames) sends 64-byte UDP frames into one veth
// pair; what comes out at its other end is forwarded into a second pair, at whose end it is counted and dropped. All of
// that on one core, steering with its counters and stamps on, the ways in turn within each round so that what the
// machine does besides hits all of them; medians of the rounds.
//
//   steer_bench [ROUNDS [FRAMES]]
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>

#include "bench.h"
#include "frames.h"
#include "kernel/bpf_object.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"
#include "mose/bpf/steer.h"
#include "steer_tc.skel.h"
#include "steer_xdp.skel.h"

namespace mose::test {
namespace {

constexpr Mac kIn{2, 0, 0, 0, 0, 0x10}, kClient{2, 0, 0, 0, 0, 2}, kSink{2, 0, 0, 0, 1, 2}, kOwn{2, 0, 0, 0, 1, 1};
constexpr V4 kClient4{192, 0, 2, 2}, kService4{198, 51, 100, 10}, kOther4{198, 51, 100, 99};
constexpr unsigned kFrameSize = 60;  // 64 with the check sequence that a wire adds

Bytes frame_to(const V4& address) {
  Bytes frame = eth(kIn, kClient, kIpv4) | ipv4(kClient4, address, kUdp) | be16(40000) | be16(53) | be16(26) | be16(0);
  frame.resize(kFrameSize);
  frame[16] = 0;
  frame[17] = 46;
  uint32_t sum = 0;
  for (size_t i = 14; i < 34; i += 2) sum += static_cast<uint32_t>(frame[i] << 8 | frame[i + 1]);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  frame[24] = static_cast<uint8_t>(~sum >> 8);
  frame[25] = static_cast<uint8_t>(~sum);
  return frame;
}

Fd load_program(bpf_prog_type type, const std::vector<bpf_insn>& code) {
  Fd fd(bpf_prog_load(type, "bench", "Dual MIT/GPL", code.data(), code.size(), nullptr));
  if (!fd) die("load a program: " + std::string(strerror(errno)));
  return fd;
}

constexpr bpf_insn kExit{.code = BPF_JMP | BPF_EXIT};
constexpr bpf_insn move(uint8_t to, int32_t immediate) {
  return {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = static_cast<uint8_t>(to & 15), .imm = immediate};
}

Fd verdict_program(bpf_prog_type type, int verdict) {
  return load_program(type, {move(BPF_REG_0, verdict), kExit});
}

// Sends each live frame to `device`. The kernel fills the pages once and uses them again as they come back from their
// way, with other addresses and a smaller time to live: the head is written anew each time.
Fd generator_program(unsigned device, const Bytes& frame) {
  constexpr size_t kHead = 36;
  std::vector<bpf_insn> code{
      {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = BPF_REG_2, .src_reg = BPF_REG_1, .off = 0},  // data
      {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = BPF_REG_3, .src_reg = BPF_REG_1, .off = 4},  // data_end
      {.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_4, .src_reg = BPF_REG_2},
      {.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = BPF_REG_4, .imm = kHead},
      {.code = BPF_JMP | BPF_JGT | BPF_X, .dst_reg = BPF_REG_4, .src_reg = BPF_REG_3, .off = kHead / 4 + 4},
  };
  for (size_t at = 0; at < kHead; at += 4) {
    int32_t word = 0;
    std::memcpy(&word, frame.data() + at, 4);
    code.push_back(
        {.code = BPF_ST | BPF_MEM | BPF_W, .dst_reg = BPF_REG_2, .off = static_cast<int16_t>(at), .imm = word});
  }
  code.push_back(move(BPF_REG_1, static_cast<int>(device)));
  code.push_back(move(BPF_REG_2, 0));
  code.push_back({.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect});
  code.push_back(kExit);
  code.push_back(move(BPF_REG_0, 1));
  code.push_back(kExit);
  return load_program(BPF_PROG_TYPE_XDP, code);
}

struct FreeTc {
  void operator()(steer_tc* skeleton) const { steer_tc__destroy(skeleton); }
};
struct FreeXdp {
  void operator()(steer_xdp* skeleton) const { steer_xdp__destroy(skeleton); }
};

// TC with `services` addresses, the first of which is kService4.
std::unique_ptr<steer_tc, FreeTc> load_tc(unsigned services, uint32_t state, unsigned device, const Mac& peer,
                                          const Mac& own) {
  std::unique_ptr<steer_tc, FreeTc> skeleton(steer_tc__open());
  mose_steer_config config{.version = MOSE_STEER_VERSION, .services_count = services};
  for (unsigned i = 0; i < services; ++i) {
    config.services[i].family = 4;
    std::copy(kService4.begin(), kService4.end(), config.services[i].address);
    config.services[i].address[3] = static_cast<uint8_t>(kService4[3] + i);
  }
  std::memcpy(const_cast<mose_steer_config*>(&skeleton->rodata->mose_config), &config, sizeof config);
  if (steer_tc__load(skeleton.get()) != 0) die("load the TC programs");
  mose_steer_policy policy{};
  policy.state = static_cast<mose_steer_state>(state);
  policy.epoch = 1;
  policy.peer_ifindex = device;
  policy.peer_settled = 1;
  std::copy(peer.begin(), peer.end(), policy.peer_mac);
  std::copy(own.begin(), own.end(), policy.own_mac);
  uint32_t direction = MOSE_STEER_INGRESS;
  ok(bpf::map_update(bpf_map__fd(skeleton->maps.mose_services), &direction, &policy, bpf::kMapLocked));
  return skeleton;
}

void add_counts(const steer_xdp& skeleton, const mose_steer_service& key) {
  static const std::vector<mose_uplink_counts> kZero(value(bpf::possible_cpus()));
  ok(bpf::map_update_patiently(bpf_map__fd(skeleton.maps.mose_uplink_counts), &key, kZero.data()));
}

void add_service(const steer_xdp& skeleton, const std::array<uint8_t, 4>& address, unsigned device, const Mac& peer,
                 const Mac& own) {
  mose_steer_service key{};
  key.family = 4;
  std::copy(address.begin(), address.end(), key.address);
  mose_uplink_entry entry{.state = MOSE_UPLINK_REDIRECT, .epoch = 1, .peer_ifindex = device};
  std::copy(kIn.begin(), kIn.end(), entry.service_mac);
  std::copy(peer.begin(), peer.end(), entry.peer_mac);
  std::copy(own.begin(), own.end(), entry.own_mac);
  add_counts(skeleton, key);
  ok(bpf::map_update_patiently(bpf_map__fd(skeleton.maps.mose_uplink), &key, &entry));
}

// XDP with so many services, the last of which is kService4.
std::unique_ptr<steer_xdp, FreeXdp> load_xdp(unsigned services, unsigned device, const Mac& peer, const Mac& own) {
  std::unique_ptr<steer_xdp, FreeXdp> skeleton(steer_xdp__open());
  mose_uplink_config config{.version = MOSE_STEER_VERSION};
  std::copy(kOwn.begin(), kOwn.end(), config.mac);
  std::memcpy(const_cast<mose_uplink_config*>(&skeleton->rodata->mose_config), &config, sizeof config);
  bpf_map__set_max_entries(skeleton->maps.mose_uplink, services + 1);
  bpf_map__set_max_entries(skeleton->maps.mose_uplink_counts, services + 1);
  if (steer_xdp__load(skeleton.get()) != 0) die("load the XDP program");
  for (unsigned i = 1; i < services; ++i) {
    add_service(*skeleton, {10, static_cast<uint8_t>(i >> 16), static_cast<uint8_t>(i >> 8), static_cast<uint8_t>(i)},
                device, peer, own);
  }
  add_service(*skeleton, kService4, device, peer, own);
  add_counts(*skeleton, {});  // of frames for no service
  return skeleton;
}

// ---- forwarding

class Bed {
 public:
  unsigned generator = 0, in = 0, out = 0;

  Bed() {
    if (unshare(CLONE_NEWNET) != 0) die("a network namespace: " + std::string(strerror(errno)));
    Netlink netlink = value(Netlink::open());
    Fd here = value(open_netns());
    ok(netlink.create_veth("g0", "n0", kIn, here.get()));
    ok(netlink.create_veth("m0", "d0", kSink, here.get()));
    for (const char* name : {"g0", "n0", "m0", "d0"}) {
      ok(netlink.change_link(value(netlink.link(name)).ifindex, {.up = true}));
    }
    generator = value(netlink.link("g0")).ifindex;
    in = value(netlink.link("n0")).ifindex;
    out = value(netlink.link("m0")).ifindex;
    ok(netlink.change_link(out, {.mac = kOwn}));
    ok(netlink.add_address(in, value(parse_service_address("192.0.2.1/24"))));
    ok(netlink.add_address(out, value(parse_service_address("198.51.100.1/24"))));
    ok(netlink.add_neighbour(out, {value(parse_service_address("198.51.100.10/24")), kSink}));
    for (const char* name : {"ipv4/ip_forward", "ipv4/conf/all/forwarding"}) (void)value(set_net_sysctl(name, "1"));
    for (const char* name : {"ipv4/conf/all/rp_filter", "ipv4/conf/n0/rp_filter"})
      (void)value(set_net_sysctl(name, "0"));
    // A veth takes XDP frames only where it polls: with receive offload or a program of its own.
    set_gro("n0");
    set_gro("d0");
    end_ = value(netlink.link("d0")).ifindex;
    source_ = generator_program(generator, frame_to(kService4));
  }

  // The end of the way belongs to another machine in earnest: each way gets the end that costs it least. An XDP program
  // there makes the kernel copy every packet that comes as one, none makes it build a packet from every XDP frame.
  Fd sink(bool xdp) {
    sink_ = verdict_program(xdp ? BPF_PROG_TYPE_XDP : BPF_PROG_TYPE_SCHED_CLS, xdp ? 1 : 2);
    return xdp ? value(bpf::attach_xdp(sink_.get(), end_, bpf::XdpMode::native))
               : value(bpf::attach_tcx(sink_.get(), end_, bpf::TcPoint::ingress));
  }

  // Nanoseconds per frame; dies when frames got lost, because then the figure is of something else.
  double run(unsigned frames) {
    uint64_t before = received();
    Bytes frame = frame_to(kService4);
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_size_in = kFrameSize,
                .repeat = static_cast<int>(frames), .flags = 2 /* BPF_F_TEST_XDP_LIVE_FRAMES */, .batch_size = 64);
    auto begin = std::chrono::steady_clock::now();
    if (int code = bpf_prog_test_run_opts(source_.get(), &options); code != 0) {
      die("live frames: " + std::string(strerror(-code)));
    }
    for (int wait = 0; received() - before < frames && wait < 100000; ++wait) sched_yield();
    auto end = std::chrono::steady_clock::now();
    uint64_t got = received() - before;
    if (got < frames * 99ull / 100) die(fmt::format("{} of {} frames arrived", got, frames));
    return std::chrono::duration<double, std::nano>(end - begin).count() / frames;
  }

 private:
  static uint64_t received() {
    // Not sysfs: it shows the namespace of its mount.
    std::ifstream file("/proc/thread-self/net/dev");
    for (std::string line; std::getline(file, line);) {
      size_t at = line.find("d0:");
      if (at == std::string::npos) continue;
      uint64_t bytes = 0, packets = 0;
      if (sscanf(line.c_str() + at + 3, "%lu %lu", &bytes, &packets) == 2) return packets;
    }
    return 0;
  }
  static void set_gro(const char* device) {
    Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ethtool_value on{.cmd = ETHTOOL_SGRO, .data = 1};
    ifreq request{};
    strncpy(request.ifr_name, device, IFNAMSIZ - 1);
    request.ifr_data = reinterpret_cast<char*>(&on);
    if (ioctl(socket.get(), SIOCETHTOOL, &request) != 0) die("switch receive offload on");
  }

  unsigned end_ = 0;
  Fd sink_, source_;
};

void forwarding(unsigned rounds, unsigned frames) {
  Bed bed;
  auto tc = load_tc(1, MOSE_STEER_REDIRECT, bed.out, kSink, kOwn);
  auto xdp = load_xdp(1, bed.out, kSink, kOwn);
  struct Way {
    const char* name;
    std::function<Fd()> attach;
    std::vector<double> ns = {};
  };
  Way ways[] = {
      {"kernel routing", [] { return Fd(); }},
      {"TC redirect",
       [&] { return value(bpf::attach_tcx(bpf_program__fd(tc->progs.steer_ingress), bed.in, bpf::TcPoint::ingress)); }},
      {"XDP redirect",
       [&] { return value(bpf::attach_xdp(bpf_program__fd(xdp->progs.steer_xdp), bed.in, bpf::XdpMode::native)); }},
  };
  for (unsigned round = 0; round < rounds; ++round) {
    for (Way& way : ways) {
      Fd link = way.attach();
      Fd sink = bed.sink(&way == &ways[2]);
      bed.run(frames / 10);  // caches, and the program of the round before is really gone
      way.ns.push_back(bed.run(frames));
    }
  }
  fmt::print("64-byte frames, one core, generator and end included, medians of {} rounds of {} frames\n", rounds,
             frames);
  fmt::print("{:<18}{:>10}{:>10}{:>20}\n", "way", "ns/frame", "Mpps", "times routing");
  std::vector<double> routing = ways[0].ns;
  for (const Way& way : ways) {
    std::vector<double> ratios;
    for (size_t i = 0; i < routing.size(); ++i) ratios.push_back(routing[i] / way.ns[i]);
    fmt::print("{:<18}{:>10.0f}{:>10.2f}{:>20.2f}\n", way.name, median(way.ns), 1000 / median(way.ns), median(ratios));
  }
}

// ---- cost of a frame

double cost(int program, const Bytes& frame, unsigned repeats) {
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_size_in = static_cast<uint32_t>(frame.size()),
              .repeat = static_cast<int>(repeats));
  if (int code = bpf_prog_test_run_opts(program, &options); code != 0) die("test run: " + std::string(strerror(-code)));
  return options.duration;
}

void costs(unsigned rounds) {
  constexpr unsigned kRepeats = 500000;
  // Redirected frames are run again as they came out: the peer has the service's MAC and we the client's here, so that
  // each time is like the first. The source must not be the peer's.
  struct Case {
    std::string name;
    bool at_xdp;
    int program;
    Bytes frame;
    std::vector<double> ns = {};
  };
  Fd nothing_tc = verdict_program(BPF_PROG_TYPE_SCHED_CLS, -1), nothing_xdp = verdict_program(BPF_PROG_TYPE_XDP, 2);
  std::vector<std::unique_ptr<steer_tc, FreeTc>> tc;
  std::vector<std::unique_ptr<steer_xdp, FreeXdp>> xdp;
  std::vector<Case> cases;
  cases.push_back({"TC: an empty program", false, nothing_tc.get(), frame_to(kService4)});
  auto add_tc = [&](const std::string& name, unsigned services, uint32_t state, const V4& to) {
    tc.push_back(load_tc(services, state, 1, kIn, kClient));
    cases.push_back({name, false, bpf_program__fd(tc.back()->progs.steer_ingress), frame_to(to)});
  };
  V4 eighth = kService4;
  eighth[3] = static_cast<uint8_t>(eighth[3] + 7);
  add_tc("TC: pass, between migrations", 1, MOSE_STEER_PASS, kService4);
  add_tc("TC: hold-new, passes", 1, MOSE_STEER_HOLD_NEW, kService4);
  add_tc("TC: redirect, 1 address", 1, MOSE_STEER_REDIRECT, kService4);
  add_tc("TC: redirect, the last of 8 addresses", 8, MOSE_STEER_REDIRECT, eighth);
  add_tc("TC: no service matched", 8, MOSE_STEER_HOLD_NEW, kOther4);
  cases.push_back({"XDP: an empty program", true, nothing_xdp.get(), frame_to(kService4)});
  for (unsigned services : {1u, 1000u, 100000u}) {
    xdp.push_back(load_xdp(services, 1, kIn, kClient));
    int program = bpf_program__fd(xdp.back()->progs.steer_xdp);
    cases.push_back({fmt::format("XDP: redirect, {} services", services), true, program, frame_to(kService4)});
    cases.push_back({fmt::format("XDP: none of {} services matched", services), true, program, frame_to(kOther4)});
  }
  for (unsigned round = 0; round < rounds; ++round) {
    for (Case& item : cases) item.ns.push_back(cost(item.program, item.frame, kRepeats));
  }
  fmt::print("\nCost of a frame by BPF_PROG_TEST_RUN, one hot address, medians of {} rounds of {}\n", rounds, kRepeats);
  fmt::print("{:<40}{:>8}{:>12}\n", "case", "ns", "ns added");
  double base[2] = {0, 0};
  for (const Case& item : cases) {
    if (item.name.ends_with("an empty program")) base[item.at_xdp] = median(item.ns);
    fmt::print("{:<40}{:>8.0f}{:>12.0f}\n", item.name, median(item.ns), median(item.ns) - base[item.at_xdp]);
  }
}

}  // namespace
}  // namespace mose::test

int main(int argc, char** argv) {
  if (geteuid() != 0) {
    fmt::print(stderr, "steer_bench: needs root\n");
    return 77;
  }
  unsigned rounds = argc > 1 ? static_cast<unsigned>(atoi(argv[1])) : 9;
  unsigned frames = argc > 2 ? static_cast<unsigned>(atoi(argv[2])) : 300000;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  (void)sched_setaffinity(0, sizeof one, &one);
  libbpf_set_print(nullptr);
  mose::test::forwarding(rounds, frames);
  mose::test::costs(rounds);
}
