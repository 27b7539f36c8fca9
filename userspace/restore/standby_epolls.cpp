// SPDX-License-Identifier: MIT
// What the standby's epolls wait for. The kernel finds an entry by its file and by the number that this had when it was
// added: it is given both in a table of descriptors of its own, where any number may be overwritten.
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "restore/standby_actions.h"

namespace mose::restore {
namespace {

struct Watched {
  const StandbyWatch* wanted = nullptr;
  Fd epoll, target;
};

int operation(StandbyWatch::Change change) {
  switch (change) {
    case StandbyWatch::Change::added:
      return EPOLL_CTL_ADD;
    case StandbyWatch::Change::removed:
      return EPOLL_CTL_DEL;
    default:
      return EPOLL_CTL_MOD;
  }
}

// In a thread that says nothing: where it would say it may be one of these by now.
Status set_in_own_table(std::span<const Watched> all, int above) {
  if (::unshare(CLONE_FILES) < 0) return fail_errno("take a table of descriptors");
  std::vector<Watched> safe;
  for (const Watched& one : all) {
    safe.push_back({one.wanted, Fd(::fcntl(one.epoll.get(), F_DUPFD_CLOEXEC, above)), Fd(::fcntl(one.target.get(), F_DUPFD_CLOEXEC, above))});
    if (!safe.back().epoll || !safe.back().target) return fail_errno("copy descriptors of the standby");
  }
  for (const Watched& one : safe) {
    const StandbyWatch& wanted = *one.wanted;
    epoll_event event{wanted.events, {.u64 = wanted.data}};
    if (::dup3(one.target.get(), wanted.target, O_CLOEXEC) < 0 ||
        ::epoll_ctl(one.epoll.get(), operation(wanted.change), wanted.target, &event) < 0)
      return fail_errno(fmt::format("set what {} waits for behind descriptor {}", to_string(wanted.epoll), wanted.target));
  }
  return {};
}

}  // namespace

Status refresh_epolls(const StandbyDelta& delta, std::span<const StandbyProcess> tree) {
  if (delta.watches.empty()) return {};
  std::vector<Watched> all;
  int above = 0;
  for (const StandbyWatch& wanted : delta.watches) {
    MOSE_ASSIGN(Fd epoll, standby_file(wanted.epoll, tree));
    MOSE_ASSIGN(Fd target, standby_file({wanted.epoll.space, wanted.target}, tree));
    above = std::max(above, wanted.target + 1);
    all.push_back({&wanted, std::move(epoll), std::move(target)});
  }
  Status status;
  std::jthread([&] { status = set_in_own_table(all, above); }).join();
  return status;
}

}  // namespace mose::restore
