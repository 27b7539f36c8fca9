// SPDX-License-Identifier: MIT
#include "kernel/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>

#include "kernel/time_slice.h"

namespace mose {
namespace {

// Our copies of the descriptors lie above every number a caller may ask for, so that no dup2 overwrites a source.
constexpr int kCopiesFrom = 512;

// The environment as the new program sees it: ours, changed by `added`.
std::vector<std::string> merged_environment(const std::vector<std::string>& added) {
  std::map<std::string, std::string> names;
  std::vector<std::string> order;
  auto put = [&](const std::string& entry) {
    std::string name = entry.substr(0, entry.find('='));
    if (names.insert_or_assign(name, entry).second) order.push_back(name);
  };
  for (char** e = environ; e && *e; ++e) put(*e);
  for (const std::string& entry : added) put(entry);
  std::vector<std::string> out;
  out.reserve(order.size());
  for (const std::string& name : order) out.push_back(names[name]);
  return out;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (std::string& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

// posix_spawn's two option objects with the life time of a scope.
struct Options {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  Options() {
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
  }
  ~Options() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
};

}  // namespace

Result<ProcessHandle> spawn(const SpawnRequest& request) {
  Options options;
  std::vector<Fd> copies;
  std::set<int> named = {0, 1, 2};
  bool stdin_named = false;
  for (const SpawnRequest::FdMap& map : request.fds) {
    if (map.theirs >= kCopiesFrom) return fail("descriptor number " + std::to_string(map.theirs) + " is too large");
    int copy = ::fcntl(map.ours, F_DUPFD_CLOEXEC, kCopiesFrom);
    if (copy < 0) return fail_errno("duplicate a descriptor for " + request.program);
    copies.emplace_back(copy);
    ::posix_spawn_file_actions_adddup2(&options.actions, copy, map.theirs);
    stdin_named |= map.theirs == 0;
    named.insert(map.theirs);
  }
  // Ours all have close-on-exec, but we may have been started with others.
  int last = *named.rbegin();
  for (int fd = 3; fd < last; ++fd) {
    if (!named.contains(fd)) ::posix_spawn_file_actions_addclose(&options.actions, fd);
  }
  ::posix_spawn_file_actions_addclosefrom_np(&options.actions, last + 1);
  if (!stdin_named) ::posix_spawn_file_actions_addopen(&options.actions, 0, "/dev/null", O_RDONLY, 0);

  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  ::posix_spawnattr_setsigmask(&options.attributes, &none);
  ::posix_spawnattr_setsigdefault(&options.attributes, &all);
  short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
  if (request.new_session) flags = static_cast<short>(flags | POSIX_SPAWN_SETSID);
  ::posix_spawnattr_setflags(&options.attributes, flags);

  std::vector<std::string> arguments = request.arguments;
  arguments.insert(arguments.begin(), request.program);
  std::vector<std::string> environment = merged_environment(request.environment);
  std::vector<char*> argv = pointers(arguments);
  std::vector<char*> envp = pointers(environment);
  pid_t pid = -1;
  const UsualSlices usual;
  int code = ::posix_spawn(&pid, request.program.c_str(), &options.actions, &options.attributes, argv.data(), envp.data());
  if (code != 0) return fail_errno("start " + request.program, code);
  // Not reaped by anyone yet, so that the number still names it.
  auto handle = ProcessHandle::open(pid);
  if (!handle) return context("watch " + request.program, std::move(handle).error());
  return handle;
}

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("make a pipe");
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

Result<std::string> helper_path(std::string_view name) {
  std::vector<std::string> candidates;
  if (const char* libexec = std::getenv("MOSE_LIBEXEC")) {
    candidates.push_back(std::string(libexec) + "/" + std::string(name));
  } else {
    char self[PATH_MAX];
    ssize_t n = ::readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
      std::string directory(self, static_cast<size_t>(n));
      directory.resize(directory.rfind('/') + 1);
      candidates.push_back(directory + std::string(name));
      candidates.push_back(directory + "../libexec/mose/" + std::string(name));
    }
  }
  for (const std::string& candidate : candidates) {
    if (::access(candidate.c_str(), R_OK) == 0) return candidate;
  }
  std::string looked;
  for (const std::string& candidate : candidates) looked += (looked.empty() ? "" : ", ") + candidate;
  return fail("helper " + std::string(name) + " is not installed (looked for " + looked + ")");
}

}  // namespace mose
