// SPDX-License-Identifier: MIT
#include "kernel/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

namespace mose {
namespace {

constexpr int kFirstFd = 20;  // commands use lower numbers themselves

// Collects the descriptors that the helper needs, numbered from kFirstFd.
class Arguments {
 public:
  explicit Arguments(SpawnRequest& request) : request_(request) {}

  void fd(const char* option, int ours) {
    if (ours < 0) return;
    request_.arguments.insert(request_.arguments.end(), {option, std::to_string(next_)});
    request_.fds.push_back({ours, next_++});
  }
  void text(const char* option, const std::string& value) {
    request_.arguments.insert(request_.arguments.end(), {option, value});
  }
  void binds(const std::vector<LaunchRequest::Bind>& binds) {
    for (const LaunchRequest::Bind& bind : binds) {
      request_.arguments.insert(request_.arguments.end(), {bind.read_only ? "--bind-ro" : "--bind", bind.source, bind.target});
    }
  }

 private:
  SpawnRequest& request_;
  int next_ = kFirstFd;
};

// The number that the helper writes when the workload's first process exists.
Result<pid_t> read_pid(int fd, Timestamp deadline) {
  std::string text;
  for (;;) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now()).count();
    if (left <= 0) return fail_errno("start the workload", ETIMEDOUT);
    pollfd p{fd, POLLIN, 0};
    if (::poll(&p, 1, static_cast<int>(left)) < 0 && errno != EINTR) return fail_errno("start the workload");
    if (!(p.revents & (POLLIN | POLLHUP))) continue;
    char buffer[64];
    ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0) return fail_errno("start the workload");
    if (n == 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  pid_t pid = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), pid).ec != std::errc{} || pid <= 0)
    return fail("the workload did not start");
  return pid;
}

}  // namespace

Result<ProcessHandle> launch(const LaunchRequest& request) {
  MOSE_ASSIGN(std::string helper, helper_path("mose-exec"));
  SpawnRequest spawn_request = request.command;
  spawn_request.program = helper;
  spawn_request.arguments.clear();
  Arguments arguments(spawn_request);
  if (request.parent_death_signal != 0) {
    arguments.text("--pdeathsig", std::to_string(request.parent_death_signal));
    arguments.text("--parent", std::to_string(::getpid()));
  }
  arguments.fd("--net-fd", request.net_fd);
  arguments.fd("--ipc-fd", request.ipc_fd);
  arguments.fd("--uts-fd", request.uts_fd);
  arguments.fd("--time-fd", request.time_fd);
  arguments.fd("--mnt-fd", request.mnt_fd);
  arguments.fd("--cgroup-fd", request.cgroup_fd);
  arguments.fd("--send-mounts-fd", request.send_mounts_fd);
  if (request.private_mounts) spawn_request.arguments.emplace_back("--private-mounts");
  for (const std::string& path : request.tmpfs) arguments.text("--tmpfs", path);
  arguments.binds(request.binds);
  if (!request.directory.empty()) arguments.text("--chdir", request.directory);
  spawn_request.arguments.emplace_back("--");
  spawn_request.arguments.push_back(request.command.program);
  spawn_request.arguments.insert(spawn_request.arguments.end(), request.command.arguments.begin(), request.command.arguments.end());
  return spawn(spawn_request);
}

Result<ProcessHandle> launch_workload(const WorkloadLaunch& request, Nanoseconds bound) {
  if (request.command.empty()) return fail("a workload needs a command");
  MOSE_ASSIGN(std::string helper, helper_path("mose-exec"));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno("start the workload");
  Fd reader(ends[0]), writer(ends[1]);
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno("start the workload");
  Fd error_reader(ends[0]), error_writer(ends[1]);

  SpawnRequest spawn_request;
  spawn_request.program = helper;
  Arguments arguments(spawn_request);
  spawn_request.arguments.emplace_back("--workload");
  arguments.text("--root", request.root);
  if (request.root_read_only) spawn_request.arguments.emplace_back("--root-ro");
  if (request.all_capabilities) spawn_request.arguments.emplace_back("--all-capabilities");
  arguments.fd("--net-fd", request.net_fd);
  arguments.fd("--ipc-fd", request.ipc_fd);
  arguments.fd("--uts-fd", request.uts_fd);
  arguments.fd("--cgroup-fd", request.cgroup_fd);
  arguments.binds(request.binds);
  if (!request.log.empty()) arguments.text("--log", request.log);
  arguments.text("--chdir", request.directory);
  for (const std::string& entry : request.environment) arguments.text("--env", entry);
  arguments.fd("--pid-fd", writer.get());
  spawn_request.fds.push_back({error_writer.get(), 2});
  spawn_request.arguments.emplace_back("--");
  spawn_request.arguments.insert(spawn_request.arguments.end(), request.command.begin(), request.command.end());

  Timestamp deadline = now() + bound;
  MOSE_ASSIGN(ProcessHandle launcher, spawn(spawn_request));
  writer.reset();
  error_writer.reset();
  auto pid = read_pid(reader.get(), deadline);
  if (!pid && pid.error().code == ETIMEDOUT) (void)launcher.signal(9);
  // The launcher ends when the workload has been exec'ed or has failed; its first process exists until someone reaps it.
  auto exit = launcher.reap(std::max(deadline - now(), Nanoseconds{1'000'000'000}));
  if (!exit || !exit->success() || !pid) {
    std::string why;
    if (exit) {
      auto text = read_all(error_reader.get(), 65536);
      if (text) why = text->substr(0, text->find('\n'));
      if (why.empty()) why = describe(*exit);
    } else {
      why = exit.error().what;
    }
    return fail("start the workload: " + why);
  }
  return ProcessHandle::open(*pid);
}

}  // namespace mose
