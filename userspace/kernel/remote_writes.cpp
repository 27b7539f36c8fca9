// SPDX-License-Identifier: MIT
#include "kernel/remote_writes.h"

#include <bpf/libbpf.h>

#include <cerrno>
#include <cstring>
#include <set>

#include "kernel/bpf_object.h"
#include "mose/bpf/remote_writes.h"

#include "remote_writes.skel.h"  // uses the contract

static_assert(sizeof(mose_remote_write) == 4);

namespace mose {
namespace {

struct RemoteWritesSkeletonFree {
  void operator()(remote_writes* skeleton) const { remote_writes__destroy(skeleton); }
};

}  // namespace

struct RemoteWrites::Kernel {
  std::unique_ptr<remote_writes, RemoteWritesSkeletonFree> skeleton;
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

Result<std::set<pid_t>> RemoteWrites::under_way() const {
  MOSE_ASSIGN(std::string bytes, bpf::iterate_threads(bpf_program__fd(kernel_->skeleton->progs.mose_remote_writes)));
  std::set<pid_t> threads;
  for (size_t at = 0; at + sizeof(mose_remote_write) <= bytes.size(); at += sizeof(mose_remote_write)) {
    mose_remote_write one{};
    std::memcpy(&one, bytes.data() + at, sizeof one);
    threads.insert(static_cast<pid_t>(one.thread));
  }
  return threads;
}

}  // namespace mose
