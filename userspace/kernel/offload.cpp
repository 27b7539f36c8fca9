// SPDX-License-Identifier: MIT
#include "kernel/offload.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/fd.h"

namespace mose {

Status set_checksum_offload(const std::string& device, bool on) {
  if (device.size() >= IFNAMSIZ) return fail("\"" + device + "\" is not a device name");
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno("socket");
  ethtool_value value{};
  value.cmd = ETHTOOL_STXCSUM;
  value.data = on ? 1 : 0;
  ifreq request{};
  device.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_data = reinterpret_cast<char*>(&value);
  if (ioctl(socket.get(), SIOCETHTOOL, &request) != 0) return fail_errno("change the checksum offload of device " + device);
  return {};
}

}  // namespace mose
