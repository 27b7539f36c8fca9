// SPDX-License-Identifier: MIT
#include "kernel/remote_writes.h"

#include <bpf/libbpf.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "kernel/bpf_object.h"
#include "kernel/proc_path.h"
#include "kernel/proc_status.h"
#include "mose/bpf/remote_writes.h"

#include "remote_writes.skel.h"  // uses the contract

static_assert(sizeof(mose_remote_write) == 8);

namespace mose {
namespace {

struct RemoteWritesSkeletonFree {
  void operator()(remote_writes* skeleton) const { remote_writes__destroy(skeleton); }
};

// The number that the kernel gives to the namespace it begins with (PROC_PID_INIT_INO).
constexpr ino_t kFirstPidNamespace = 0xEFFFFFFC;

bool in_first_pid_namespace() {
  struct stat info{};
  return ::stat("/proc/self/ns/pid", &info) == 0 && info.st_ino == kFirstPidNamespace;
}

// By any of them the call takes its target. Of what has ended: none.
std::vector<pid_t> numbers_of_threads(std::span<const pid_t> processes) {
  std::vector<pid_t> numbers;
  for (pid_t process : processes) {
    for (pid_t thread : numbers_in(proc_path(process, "task"))) {
      if (auto some = numbers_of(thread)) numbers.insert(numbers.end(), some->begin(), some->end());
    }
  }
  return numbers;
}

}  // namespace

struct RemoteWrites::Kernel {
  std::unique_ptr<remote_writes, RemoteWritesSkeletonFree> skeleton;
  bool all_numbers = in_first_pid_namespace();  // that a process has are known
};

RemoteWrites::RemoteWrites(std::unique_ptr<Kernel> kernel) : kernel_(std::move(kernel)) {}
RemoteWrites::RemoteWrites(RemoteWrites&&) noexcept = default;
RemoteWrites& RemoteWrites::operator=(RemoteWrites&&) noexcept = default;
RemoteWrites::~RemoteWrites() = default;

Result<RemoteWrites> RemoteWrites::prepare() {
  bpf::capture_libbpf_log();
  auto kernel = std::make_unique<Kernel>();
  kernel->skeleton.reset(remote_writes__open());
  if (!kernel->skeleton) return bpf::fail_libbpf("open the iterator over threads", errno);
  if (int code = remote_writes__load(kernel->skeleton.get()); code < 0) return bpf::fail_libbpf("load the iterator over threads", code);
  bpf::forget_libbpf_words();
  return RemoteWrites(std::move(kernel));
}

Result<std::optional<pid_t>> RemoteWrites::into(std::span<const pid_t> processes) const {
  MOSE_ASSIGN(std::string bytes, bpf::iterate_threads(bpf_program__fd(kernel_->skeleton->progs.mose_remote_writes)));
  if (bytes.empty()) return std::nullopt;
  const std::vector<pid_t> numbers = numbers_of_threads(processes);
  for (size_t at = 0; at + sizeof(mose_remote_write) <= bytes.size(); at += sizeof(mose_remote_write)) {
    mose_remote_write one{};
    std::memcpy(&one, bytes.data() + at, sizeof one);
    const bool into_one = std::ranges::find(numbers, static_cast<pid_t>(one.target)) != numbers.end();
    if (into_one || !kernel_->all_numbers) return static_cast<pid_t>(one.thread);
  }
  return std::nullopt;
}

}  // namespace mose
