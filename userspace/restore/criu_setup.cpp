// SPDX-License-Identifier: MIT
#include "restore/criu_setup.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/log.h"
#include "kernel/launch.h"
#include "kernel/spawn.h"

namespace mose::restore {
namespace {

Result<std::string> find_criu(const std::string& configured) {
  std::vector<std::string> candidates;
  if (!configured.empty()) {
    candidates.push_back(configured);
  } else {
    if (const char* prefix = std::getenv("MOSE_PREFIX")) candidates.push_back(std::string(prefix) + "/criu/bin/criu");
    candidates.insert(candidates.end(), {"/opt/mose/criu/bin/criu", "/usr/sbin/criu"});
  }
  for (const std::string& candidate : candidates) {
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return fail("CRIU is not installed (looked for " + candidates.front() + "): install it, or name it with node.criu in the configuration");
}

Status poll_readable(int fd, Timestamp deadline) {
  for (;;) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now()).count();
    if (left <= 0) return fail_errno("wait for CRIU", ETIMEDOUT);
    pollfd p{fd, POLLIN, 0};
    int n = ::poll(&p, 1, static_cast<int>(left));
    if (n > 0) return {};
    if (n < 0 && errno != EINTR) return fail_errno("wait for CRIU");
  }
}

Result<std::string> run_version(const std::string& criu, Timestamp deadline) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno("make a pipe");
  Fd reader(ends[0]), writer(ends[1]);
  SpawnRequest request;
  request.program = criu;
  request.arguments = {"--version"};
  request.fds = {{writer.get(), 1}};
  MOSE_ASSIGN(ProcessHandle process, spawn(request));
  writer.reset();
  auto exit = process.reap(deadline - now());
  if (!exit) {
    (void)process.signal(SIGKILL);
    (void)process.reap(Nanoseconds{1'000'000'000});
    return context("criu --version", std::move(exit).error());
  }
  if (!exit->success()) return fail("criu --version ended with " + describe(*exit));
  MOSE_ASSIGN(std::string text, read_all(reader.get(), 65536));
  return parse_criu_version(text);
}

Result<Fd> receive_fd(int socket, Timestamp deadline) {
  MOSE_TRY(poll_readable(socket, deadline));
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  cmsghdr* header = n == 1 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (!header || header->cmsg_type != SCM_RIGHTS) return fail("the mount namespace for CRIU could not be made");
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return Fd(fd);
}

// Runs `criu check`, which leaves the cache of kernel features in the namespace's /run, and returns that namespace.
Result<Fd> prepare_mounts(const std::string& criu, Timestamp deadline) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return fail_errno("make a socket");
  Fd ours(ends[0]), theirs(ends[1]);
  MOSE_ASSIGN(Fd null, open_file("/dev/null", O_RDWR));
  LaunchRequest request;
  request.private_mounts = true;
  request.tmpfs = {"/run"};
  request.send_mounts_fd = theirs.get();
  request.command.program = criu;
  request.command.arguments = {"check"};
  request.command.fds = {{null.get(), 1}};
  MOSE_ASSIGN(ProcessHandle process, launch(request));
  theirs.reset();
  auto mounts = receive_fd(ours.get(), deadline);
  auto exit = process.reap(deadline - now());
  if (!exit) {
    (void)process.signal(SIGKILL);
    (void)process.reap(Nanoseconds{1'000'000'000});
    return context("criu check", std::move(exit).error());
  }
  return mounts;
}

}  // namespace

Result<std::string> parse_criu_version(std::string_view output) {
  constexpr std::string_view kLabel = "Version: ";
  size_t at = output.find(kLabel);
  if (at == std::string_view::npos) return fail("criu --version names no version");
  at += kLabel.size();
  size_t end = at;
  while (end < output.size() && (output[end] == '.' || (output[end] >= '0' && output[end] <= '9'))) ++end;
  if (end == at) return fail("criu --version names no version");
  return std::string(output.substr(at, end - at));
}

Result<int> criu_version_number(std::string_view version) {
  int major = 0, minor = 0;
  const char* end = version.data() + version.size();
  auto [dot, error] = std::from_chars(version.data(), end, major);
  if (error != std::errc{}) return fail("\"" + std::string(version) + "\" is no version of CRIU");
  if (dot != end) {
    if (*dot != '.' || std::from_chars(dot + 1, end, minor).ec != std::errc{} || minor > 99)
      return fail("\"" + std::string(version) + "\" is no version of CRIU");
  }
  return major * 100 + minor;
}

Result<CriuSetup> CriuSetup::prepare(const Options& options) {
  Timestamp deadline = now() + options.bound;
  CriuSetup setup;
  MOSE_ASSIGN(setup.criu_, find_criu(options.criu));
  MOSE_ASSIGN(setup.preload_, helper_path("libmose-criu-preload.so"));
  MOSE_ASSIGN(setup.version_, run_version(setup.criu_, deadline));
  MOSE_ASSIGN(int number, criu_version_number(setup.version_));
  if (number < kCriuVersionMin) return fail("CRIU " + setup.version_ + " is too old: 4.2 or newer is needed");
  MOSE_ASSIGN(setup.mounts_, prepare_mounts(setup.criu_, deadline));
  if (auto flags = MappingFlags::prepare()) setup.mapping_flags_ = std::move(*flags);
  else log::info("a dump takes longer the more memory there is", {{"reason", flags.error().what}});
  return setup;
}

}  // namespace mose::restore
