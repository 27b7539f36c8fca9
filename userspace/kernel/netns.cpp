// SPDX-License-Identifier: MIT
#include "kernel/netns.h"

#include <fcntl.h>
#include <sched.h>

#include <system_error>
#include <thread>

namespace mose {
namespace {

// 16384 buckets are walked in 0.1 ms, and carry 100 000 connections with six to a bucket.
constexpr const char* kTcpBuckets = "16384";
constexpr const char* kUdpBuckets = "4096";

// A thread of its own for `work`. Its failure to start is an error like any other.
Status in_thread(const std::function<Status()>& work) {
  Status status;
  try {
    std::thread thread([&] { status = work(); });
    thread.join();
  } catch (const std::system_error& error) {
    return fail_errno("thread for another network namespace", error.code().value());
  }
  return status;
}

}  // namespace

Result<Fd> open_netns(int pid) {
  return open_file(pid == 0 ? "/proc/thread-self/ns/net" : "/proc/" + std::to_string(pid) + "/ns/net", O_RDONLY);
}

Result<Fd> create_netns() {
  Fd netns;
  MOSE_TRY(in_thread([&]() -> Status {
    if (unshare(CLONE_NEWNET) < 0) return fail_errno("new network namespace");
    MOSE_ASSIGN(netns, open_netns());
    return {};
  }));
  return netns;
}

Result<Fd> create_service_netns() {
  Fd netns;
  auto make = [&]() -> Status {
    // The sizes are taken from the namespace of whoever makes one, which must not be the host's own.
    if (unshare(CLONE_NEWNET) < 0) return fail_errno("new network namespace");
    MOSE_TRY(set_net_sysctl("ipv4/tcp_child_ehash_entries", kTcpBuckets));
    MOSE_TRY(set_net_sysctl("ipv4/udp_child_hash_entries", kUdpBuckets));
    if (unshare(CLONE_NEWNET) < 0) return fail_errno("new network namespace");
    MOSE_ASSIGN(netns, open_netns());
    return {};
  };
  MOSE_TRY(in_thread(make));
  return netns;
}

Status in_netns(int netns, const std::function<Status()>& work) {
  return in_thread([&]() -> Status {
    if (setns(netns, CLONE_NEWNET) < 0) return fail_errno("enter network namespace");
    return work();
  });
}

Result<bool> set_net_sysctl(const std::string& name, const std::string& value) {
  auto status = write_control("/proc/sys/net/" + name, value);
  if (!status && status.error().code == ENOENT) return false;
  if (!status) return std::unexpected(status.error());
  return true;
}

}  // namespace mose
