// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

// Copying a directory of CRIU images between two nodes over one TCP connection, and telling the segment where an address
// is. Used by the baseline only.
namespace mose::lab {

[[nodiscard]] Result<Fd> listen_for_images();
// Takes one connection and writes its files into `directory`. Returns when the sender said that all were sent.
[[nodiscard]] Status receive_images(int listener, const std::string& directory);
// Every regular file of `directory`; returns when the receiver has confirmed that it has written all.
[[nodiscard]] Status send_images(const std::string& directory, const std::string& address);

// Sends a gratuitous ARP for the address from eth0 of that network namespace.
[[nodiscard]] Status in_net_announce(int net_fd, const std::string& address, const std::string& mac);

}  // namespace mose::lab
