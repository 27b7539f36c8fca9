// SPDX-License-Identifier: MIT
#include "bed.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "kernel/netlink.h"
#include "kernel/netns.h"
#include "kernel/packet_socket.h"
#include "support/support.h"

namespace mose::test {
namespace {

constexpr int kBuffer = 64 << 20;

template <typename T>
T must(Result<T> result) {
  if (!result) {
    ADD_FAILURE() << result.error().what;
    std::abort();
  }
  return std::move(*result);
}
void must(const Status& status) {
  if (!status) {
    ADD_FAILURE() << status.error().what;
    std::abort();
  }
}

// Private mounts once per process; each node's bpffs lies there and goes with the process.
void private_mounts() {
  static bool done = [] {
    if (geteuid() != 0) skip_process("namespaces need root");
    if (unshare(CLONE_NEWNS) != 0) skip_process("no private mount namespace");
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) skip_process("mounts cannot be made private");
    if (access("/dev/net/tun", R_OK | W_OK) != 0) skip_process("no /dev/net/tun");
    if (auto works = handover::steering_supported(); !works) skip_process(works.error().what);
    return true;
  }();
  (void)done;
}

sockaddr_storage address_of(int family, const char* text, uint16_t port, socklen_t& size) {
  sockaddr_storage storage{};
  if (family == AF_INET) {
    auto* in = reinterpret_cast<sockaddr_in*>(&storage);
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    inet_pton(AF_INET, text, &in->sin_addr);
    size = sizeof *in;
  } else {
    auto* in = reinterpret_cast<sockaddr_in6*>(&storage);
    in->sin6_family = AF_INET6;
    in->sin6_port = htons(port);
    inet_pton(AF_INET6, text, &in->sin6_addr);
    size = sizeof *in;
  }
  return storage;
}

std::string host_of(const char* with_prefix) {
  return std::string(with_prefix, std::strchr(with_prefix, '/'));
}

Fd socket_in(const Fd& netns, int family, int type) {
  Fd made;
  must(in_netns(netns.get(), [&]() -> Status {
    made = Fd(socket(family, type | SOCK_CLOEXEC, 0));
    if (!made) return fail_errno("socket");
    return {};
  }));
  setsockopt(made.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kBuffer, sizeof kBuffer);
  setsockopt(made.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kBuffer, sizeof kBuffer);
  return made;
}

}  // namespace

ServiceAddress service4() {
  return *parse_service_address(kServiceText4);
}
ServiceAddress service6() {
  return *parse_service_address(kServiceText6);
}

void sleep_ms(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 2000; ++i) {
    if (condition()) return true;
    sleep_ms(1);
  }
  return condition();
}

Bed::Bed(Unwired) {
  private_mounts();
  root_ = fmt::format("/tmp/mnet-{}", getpid());
  std::filesystem::create_directories(root_);
  for (Fd* netns : {&client, &segment, &a.netns, &a.workload, &b.netns, &b.workload}) *netns = must(create_netns());
  a.uplink_mac = {2, 0, 0, 0, 1, 1};
  b.uplink_mac = {2, 0, 0, 0, 1, 2};
  for (auto [node, name] : {std::pair{&a, "a"}, {&b, "b"}}) {
    node->bpffs = root_ + "/" + name;
    std::filesystem::create_directories(node->bpffs);
    if (mount("bpf", node->bpffs.c_str(), "bpf", 0, nullptr) != 0) skip_process("bpffs cannot be mounted");
  }
}

Bed::Bed() : Bed(Unwired{}) {
  in(segment, []() -> Status {
    MOSE_TRY(set_net_sysctl("ipv6/conf/default/disable_ipv6", "1"));
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_TRY(netlink.create_bridge("sw0"));
    MOSE_ASSIGN(auto bridge, netlink.link("sw0"));
    return netlink.change_link(bridge.ifindex, {.up = true});
  });
  connect(client, "pc", {2, 0, 0, 0, 0, 2}, false);
  connect(a.netns, "pa", {2, 0, 0, 0, 1, 1}, true);
  connect(b.netns, "pb", {2, 0, 0, 0, 1, 2}, true);
  for (const Fd* netns : {&client, &a.netns, &b.netns}) wait_operational(*netns, "up");
  for (const char* port : {"pc", "pa", "pb"}) wait_operational(segment, port);
}

Bed::~Bed() {
  for (Node* node : {&a, &b}) {
    // Pins keep programs alive, but not devices; the unmounted bpffs frees them.
    umount2(node->bpffs.c_str(), MNT_DETACH);
  }
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

void Bed::in(const Fd& netns, const std::function<Status()>& work) const {
  must(in_netns(netns.get(), work));
}

void Bed::connect(const Fd& netns, const std::string& port, const MacAddress& mac, bool bridged) const {
  in(segment, [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_TRY(netlink.create_veth(port, "up", mac, netns.get()));
    MOSE_ASSIGN(auto link, netlink.link(port));
    MOSE_ASSIGN(auto bridge, netlink.link("sw0"));
    return netlink.change_link(link.ifindex, {.up = true, .master = bridge.ifindex});
  });
  in(netns, [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto up, netlink.link("up"));
    if (!bridged) {
      MOSE_TRY(set_net_sysctl("ipv6/conf/up/accept_dad", "0"));
      for (const char* text : {kClientText4, kClientText6}) {
        MOSE_ASSIGN(auto address, parse_service_address(text));
        MOSE_TRY(netlink.add_address(up.ifindex, address));
      }
      MOSE_TRY(netlink.change_link(up.ifindex, {.up = true}));
      // A lost first question would be asked again only after a second; that is not what is tested.
      for (const ServiceAddress& service : {service4(), service6()}) {
        MOSE_TRY(netlink.add_neighbour(up.ifindex, {service, mac_for(service4())}));
      }
      return {};
    }
    MOSE_TRY(set_net_sysctl("ipv6/conf/all/disable_ipv6", "1"));
    MOSE_TRY(set_net_sysctl("ipv6/conf/default/disable_ipv6", "1"));
    MOSE_TRY(netlink.create_bridge("br0"));
    MOSE_ASSIGN(auto bridge, netlink.link("br0"));
    MOSE_TRY(netlink.change_link(bridge.ifindex, {.up = true}));
    return netlink.change_link(up.ifindex, {.up = true, .master = bridge.ifindex});
  });
}

void Bed::wait_operational(const Fd& netns, const std::string& device) const {
  in(netns, [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto link, netlink.link(device));
    return netlink.wait_operational(link.ifindex, std::chrono::seconds(5));
  });
}

handover::WorkloadNetworkConfig Bed::config(const Node& node) const {
  return {.workload = "mnet-redis",
          .addresses = {service4(), service6()},
          .mac = mac_for(service4()),
          .bridge = "br0",
          .uplink = "up",
          .neighbours = {{*parse_service_address(kClientText4), {2, 0, 0, 0, 0, 2}},
                         {*parse_service_address(kClientText6), {2, 0, 0, 0, 0, 2}}},
          .bpffs = node.bpffs};
}

handover::WorkloadNetwork Bed::create(Node& node, bool open) const {
  return must(in_netns_get<handover::WorkloadNetwork>(node.netns.get(), [&]() -> Result<handover::WorkloadNetwork> {
    auto network = handover::WorkloadNetwork::create(config(node), node.workload.get());
    if (network && open) MOSE_TRY(network->open());
    return network;
  }));
}

void Bed::renew_workload(Node& node) const {
  node.workload = must(create_netns());
}

std::vector<std::string> Bed::pins(const Node& node) const {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(node.bpffs)) {
    // Some kernels put iterators of their own into every bpffs: maps.debug, progs.debug.
    if (!entry.is_directory() && entry.path().extension() != ".debug") found.push_back(entry.path());
  }
  return found;
}

Fd udp_socket(const Fd& netns, int family, const char* bind_address, uint16_t port) {
  Fd made = socket_in(netns, family, SOCK_DGRAM);
  socklen_t size = 0;
  auto address = address_of(family, bind_address, port, size);
  EXPECT_EQ(bind(made.get(), reinterpret_cast<sockaddr*>(&address), size), 0) << strerror(errno);
  return made;
}

Fd tcp_listener(const Fd& netns, const char* text, uint16_t port) {
  int family = std::strchr(text, ':') != nullptr ? AF_INET6 : AF_INET;
  Fd made = socket_in(netns, family, SOCK_STREAM);
  socklen_t size = 0;
  auto address = address_of(family, text, port, size);
  EXPECT_EQ(bind(made.get(), reinterpret_cast<sockaddr*>(&address), size), 0) << strerror(errno);
  EXPECT_EQ(listen(made.get(), 16), 0);
  return made;
}

Fd tcp_connect(const Fd& netns, const char* text, uint16_t port) {
  int family = std::strchr(text, ':') != nullptr ? AF_INET6 : AF_INET;
  Fd made = socket_in(netns, family, SOCK_STREAM);
  socklen_t size = 0;
  auto address = address_of(family, text, port, size);
  EXPECT_EQ(connect(made.get(), reinterpret_cast<sockaddr*>(&address), size), 0) << strerror(errno);
  return made;
}

std::string Sequence::fault(uint64_t first, uint64_t last) const {
  uint64_t expected = first, reordered = 0, duplicated = 0;
  std::vector<bool> got(last - first + 1);
  for (uint64_t number : seen) {
    if (number < first || number > last) return fmt::format("{} is outside of {} to {}", number, first, last);
    if (got[number - first]) ++duplicated;
    got[number - first] = true;
    if (number < expected) ++reordered;
    expected = std::max(expected, number + 1);
  }
  uint64_t lost = static_cast<uint64_t>(std::count(got.begin(), got.end(), false));
  if (lost == 0 && reordered == 0 && duplicated == 0) return "";
  return fmt::format("of {} to {}: {} lost, {} late, {} twice", first, last, lost, reordered, duplicated);
}

UdpService::UdpService(const Fd& netns, int family, bool echo)
    : socket_(udp_socket(netns, family,
                         family == AF_INET ? host_of(kServiceText4).c_str() : host_of(kServiceText6).c_str(), kPort)) {
  received_.seen.reserve(1 << 20);
  thread_ = std::thread([this, echo] {
    while (!stop_) {
      pollfd wait{.fd = socket_.get(), .events = POLLIN};
      if (poll(&wait, 1, 2) <= 0) continue;
      uint64_t number = 0;
      sockaddr_storage from{};
      socklen_t size = sizeof from;
      if (recvfrom(socket_.get(), &number, sizeof number, MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&from), &size) !=
          sizeof number) {
        continue;
      }
      received_.seen.push_back(number);
      if (echo) sendto(socket_.get(), &number, sizeof number, 0, reinterpret_cast<sockaddr*>(&from), size);
      ++count_;
    }
  });
}

void UdpService::stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

UdpClient::UdpClient(const Fd& netns, int family, unsigned per_second)
    : socket_(udp_socket(netns, family,
                         family == AF_INET ? host_of(kClientText4).c_str() : host_of(kClientText6).c_str(),
                         kPort + 1)) {
  socklen_t size = 0;
  auto to = address_of(family, family == AF_INET ? host_of(kServiceText4).c_str() : host_of(kServiceText6).c_str(),
                       kPort, size);
  EXPECT_EQ(connect(socket_.get(), reinterpret_cast<sockaddr*>(&to), size), 0);
  answers_.seen.reserve(1 << 20);
  sender_ = std::thread([this, per_second] {
    // A veth frame waits in the queue of the CPU that sends it: a thread that moves to another one overtakes itself.
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(sched_getcpu()), &one);
    EXPECT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    auto begin = std::chrono::steady_clock::now();
    for (uint64_t number = 1; !stop_sending_; ++number) {
      std::this_thread::sleep_until(begin + std::chrono::nanoseconds(1'000'000'000ull * number / per_second));
      // ENOBUFS and a refused port (no socket there yet) leave the number unsent: try it again.
      bool went = false;
      while (!(went = send(socket_.get(), &number, sizeof number, 0) > 0) && !stop_sending_) std::this_thread::yield();
      if (went) sent_ = number;
    }
  });
  receiver_ = std::thread([this] {
    while (!stop_) {
      pollfd wait{.fd = socket_.get(), .events = POLLIN};
      if (poll(&wait, 1, 2) <= 0) continue;
      uint64_t number = 0;
      if (recv(socket_.get(), &number, sizeof number, MSG_DONTWAIT) != sizeof number) continue;
      answers_.seen.push_back(number);
      ++answered_;
    }
  });
}

void UdpClient::stop_sending() {
  stop_sending_ = true;
  if (sender_.joinable()) sender_.join();
}

void UdpClient::finish(uint64_t expected_answers) {
  stop_sending();
  uint64_t last = answered_;
  for (int quiet = 0; quiet < 1000 && answered_ < expected_answers; ++quiet) {
    sleep_ms(1);
    if (answered_ != last) quiet = 0;
    last = answered_;
  }
  stop();
}

void UdpClient::stop() {
  stop_sending();
  stop_ = true;
  if (receiver_.joinable()) receiver_.join();
}

Capture::Capture(const Fd& netns, const std::string& device) {
  socket_ = must(in_netns_get<Fd>(netns.get(), [&]() -> Result<Fd> {
    return open_packet_socket(if_nametoindex(device.c_str()), {.protocol = 3, .promiscuous = true});
  }));
  setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kBuffer, sizeof kBuffer);
}

Capture::Frames Capture::take() {
  Frames frames;
  std::vector<uint8_t> buffer(70000);
  for (;;) {
    bool outgoing = false;
    auto size = must(receive_frame(socket_.get(), buffer, &outgoing));
    if (size == 0) return frames;
    (outgoing ? frames.out : frames.in).emplace_back(buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(size));
  }
}

}  // namespace mose::test
