// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "support/support.h"

// Frames of BPF_PROG_TEST_RUN stand on the loopback of the caller's network namespace. Of one's own it may have any
// MTU.
namespace mose::test {

inline void enter_own_loopback(unsigned mtu) {
  if (unshare(CLONE_NEWNET) != 0) skip_process("no network namespace of its own");
  int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_mtu = static_cast<int>(mtu);
  EXPECT_EQ(ioctl(socket, SIOCSIFMTU, &request), 0) << std::strerror(errno);
  close(socket);
}

}  // namespace mose::test
