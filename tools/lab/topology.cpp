// SPDX-License-Identifier: MIT
#include "lab/topology.h"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "kernel/bpf_object.h"
#include "kernel/netlink.h"
#include "kernel/offload.h"
#include "lab/child_process.h"

namespace mose::lab {
namespace {

constexpr Nanoseconds kIpBound = std::chrono::seconds(20);

// Daemons and mosed may run without /usr/sbin in PATH.
Result<std::string> find_tool(const std::string& name) {
  for (const char* dir : {"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"}) {
    if (::access((dir + name).c_str(), X_OK) == 0) return dir + name;
  }
  return fail(name + " is not installed (package iproute2)");
}

Status run_tool(const std::string& tool, std::vector<std::string> arguments, const std::string& input) {
  ProgramSpec spec;
  MOSE_ASSIGN(std::string path, find_tool(tool));
  spec.argv = {path};
  spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
  MOSE_ASSIGN(auto result, run_program(spec, input, kIpBound));
  if (result.exit_code == 0) return {};
  return fail(tool + ": " + result.err.substr(0, result.err.find_last_not_of('\n') + 1));
}

Status switch_and_client(const Names& names) {
  std::string sw = names.netns("sw"), client = names.netns("client");
  MOSE_TRY(run_ip(sw, "link add br0 type bridge mcast_snooping 0 stp_state 0\n"
                      "link set br0 up\n"));
  MOSE_TRY(run_ip("", std::string("link add name ") + kClientDevice + " address " + kClientMac + " netns " + client + " type veth peer name pc netns " + sw + "\n"));
  MOSE_TRY(run_ip(sw, "link set pc master br0\nlink set pc up\n"));
  return run_ip(client, std::string("link set dev dev up\naddr add ") + kClientAddress + "/" + kPrefixLength + " dev dev\n");
}

Status node_links(const Names& names, const std::string& node, bool uplink_exists) {
  std::string sw = names.netns("sw"), ns = names.netns(node), port = "p" + node;
  if (!uplink_exists)
    MOSE_TRY(run_ip("", "link add name up netns " + ns + " type veth peer name " + port + " netns " + sw + "\n"));
  MOSE_TRY(run_ip(sw, "link set " + port + " master br0\nlink set " + port + " up\n"));
  // The uplink's address is the bridge's as well, as where a bridge took the place of a device: set, so that it does not change
  // with the ports.
  std::string mac = node == "a" ? "02:4d:6f:00:00:0a" : "02:4d:6f:00:00:0b";
  return run_ip(ns, "link add name br0 address " + mac + " type bridge mcast_snooping 0 stp_state 0\n" +
                        "link set dev up address " + mac + "\nlink set dev up master br0\nlink set dev up up\nlink set dev br0 up\naddr add " +
                        node_address(node) + "/" + kPrefixLength + " dev br0\n");
}

}  // namespace

bool netns_exists(const Names& names, const std::string& place) {
  return ::access(names.netns_path(place).c_str(), F_OK) == 0;
}

Status run_ip(const std::string& netns, const std::string& batch) {
  std::vector<std::string> arguments;
  if (!netns.empty()) arguments = {"-n", netns};
  arguments.insert(arguments.end(), {"-batch", "-"});
  return run_tool("ip", std::move(arguments), batch);
}

Status prepare_netns() {
  for (const char* which : {"all", "default"}) {
    std::string path = std::string("/proc/sys/net/ipv6/conf/") + which + "/disable_ipv6";
    if (::access(path.c_str(), F_OK) != 0) continue;  // a kernel without IPv6
    MOSE_TRY(write_control(path, "1"));
  }
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP;
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return fail_errno("loopback up");
  return {};
}

Status make_namespaces(const Names& names) {
  for (const char* place : kPlaces) {
    MOSE_TRY(run_tool("ip", {"netns", "add", names.netns(place)}, ""));
    MOSE_ASSIGN(auto ns, Place::of_netns(names.netns_path(place)));
    MOSE_TRY(in_place(ns, [] { return prepare_netns(); }));
  }
  return {};
}

Status make_links(const Names& names, bool uplinks_exist) {
  MOSE_TRY(switch_and_client(names));
  for (const char* node : kNodes) MOSE_TRY(node_links(names, node, uplinks_exist));
  return {};
}

Status prepare_for_xdp(const Names& names) {
  MOSE_ASSIGN(auto client, Place::of_netns(names.netns_path("client")));
  MOSE_TRY(in_place(client, [] { return set_checksum_offload(kClientDevice, false); }));
  MOSE_ASSIGN(auto sw, Place::of_netns(names.netns_path("sw")));
  return in_place(sw, []() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    for (const char* node : kNodes) {
      MOSE_ASSIGN(auto port, netlink.link(std::string("p") + node));
      MOSE_TRY(bpf::attach_xdp_pass(port.ifindex));
    }
    return {};
  });
}

Status take_down_topology(const Names& names) {
  Status out;
  for (const char* place : kPlaces) {
    if (!netns_exists(names, place)) continue;
    std::string path = names.netns_path(place);
    // What `ip netns delete` does, without its complaint about a file that a crash left unmounted.
    while (::umount2(path.c_str(), MNT_DETACH) == 0) {
    }
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) out = fail_errno("unlink " + path);
  }
  return out;
}

Status shape_links(const Names& names, double rate_mbit) {
  std::string rate = std::to_string(static_cast<uint64_t>(rate_mbit * 1e6)) + "bit";
  auto shape = [&](const std::string& ns, const std::string& device) {
    return run_tool("tc", {"-n", ns, "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", "256k", "latency", "50ms"}, "");
  };
  for (const char* node : kNodes) {
    MOSE_TRY(shape(names.netns(node), kUplink));
    MOSE_TRY(shape(names.netns("sw"), std::string("p") + node));
  }
  return {};
}

}  // namespace mose::lab
