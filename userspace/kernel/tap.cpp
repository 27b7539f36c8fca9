// SPDX-License-Identifier: MIT
#include "kernel/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cstring>

#include "kernel/netlink.h"
#include "kernel/netns.h"

namespace mose {
namespace {

// UDP segmentation offload came with Linux 6.2; the headers of Debian 12 have no names for it.
constexpr unsigned kOffloadUdp = 0x20 | 0x40;

Status set_offloads(int fd) {
  unsigned base = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
  if (ioctl(fd, TUNSETOFFLOAD, base | kOffloadUdp) == 0) return {};
  if (ioctl(fd, TUNSETOFFLOAD, base) == 0) return {};
  return fail_errno("offloads of tap");
}

}  // namespace

Result<Tap> create_tap(const std::string& name, unsigned queue_length) {
  if (name.empty() || name.size() >= IFNAMSIZ) return fail("\"" + name + "\" is too long for a device name");
  Tap tap;
  MOSE_ASSIGN(tap.fd, open_file("/dev/net/tun", O_RDWR | O_NONBLOCK));
  ifreq request{};
  std::memcpy(request.ifr_name, name.c_str(), name.size());
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
  if (ioctl(tap.fd.get(), TUNSETIFF, &request) < 0) return fail_errno("create tap " + name);
  MOSE_TRY(set_offloads(tap.fd.get()));
  tap.ifindex = if_nametoindex(name.c_str());
  if (tap.ifindex == 0) return fail_errno("tap " + name);
  MOSE_TRY(set_net_sysctl("ipv6/conf/" + name + "/disable_ipv6", "1"));
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_TRY(netlink.change_link(tap.ifindex, {.up = true, .queue_length = queue_length}));
  return tap;
}

Result<Tap> adopt_tap(Fd fd, const std::string& name) {
  ifreq request{};
  if (ioctl(fd.get(), TUNGETIFF, &request) < 0) return fail_errno("adopt tap " + name);
  if (name != request.ifr_name) return fail("adopt tap " + name + ": the descriptor is one of " + request.ifr_name);
  Tap tap{.fd = std::move(fd), .ifindex = if_nametoindex(name.c_str())};
  if (tap.ifindex == 0) return fail_errno("tap " + name);
  return tap;
}

}  // namespace mose
