// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

// Network namespaces by descriptor. Our own threads never change theirs: work inside another one is done by a thread
// that lives only for that, so that nothing of ours can be left in the wrong namespace.
namespace mose {

// A new, empty namespace (its loopback is down). It lives as long as a descriptor, a process or a socket in it.
[[nodiscard]] Result<Fd> create_netns();
// The same with small tables of sockets of its own, where the kernel can (6.1 for TCP, 6.2 for UDP). Others share the
// host's, which grow with its memory, and every list of a namespace's sockets walks them from end to end: a dump asks for ten.
[[nodiscard]] Result<Fd> create_service_netns();
// The namespace of a process, or of the calling thread (pid 0).
[[nodiscard]] Result<Fd> open_netns(int pid = 0);

// Runs `work` in a thread inside `netns` and waits for it.
[[nodiscard]] Status in_netns(int netns, const std::function<Status()>& work);

template <typename T>
[[nodiscard]] Result<T> in_netns_get(int netns, const std::function<Result<T>()>& work) {
  std::optional<T> value;
  MOSE_TRY(in_netns(netns, [&]() -> Status {
    auto result = work();
    if (!result) return std::unexpected(std::move(result).error());
    value = std::move(*result);
    return {};
  }));
  return std::move(*value);
}

// Writes a file below /proc/sys/net of the calling thread's namespace: "ipv6/conf/eth0/disable_ipv6". False: this
// kernel or namespace does not have it.
[[nodiscard]] Result<bool> set_net_sysctl(const std::string& name, const std::string& value);

}  // namespace mose
