// SPDX-License-Identifier: MIT
#include "kernel/remote_writes.h"

#include <bpf/libbpf.h>

#include <mutex>

#include "kernel/bpf_skeleton.h"
#include "mose/bpf/remote_writes.h"

#include "remote_writes.skel.h"  // uses the contract

static_assert(sizeof(mose_remote_write) == 4);

namespace mose {

Result<RemoteWrites> RemoteWrites::prepare() {
  MOSE_ASSIGN(auto skeleton, bpf::load_skeleton<remote_writes>("the program that looks at the calls of threads"));
  const int program = bpf_program__fd(skeleton->progs.mose_remote_writes);
  return RemoteWrites(bpf::Iterator(std::move(skeleton), program));
}

Result<std::shared_ptr<const RemoteWrites>> RemoteWrites::shared() {
  static std::mutex mutex;
  static std::shared_ptr<const RemoteWrites> loaded;
  std::lock_guard lock(mutex);
  if (!loaded) {
    MOSE_ASSIGN(RemoteWrites writes, prepare());
    loaded = std::make_shared<const RemoteWrites>(std::move(writes));
  }
  return loaded;
}

Result<std::set<pid_t>> RemoteWrites::under_way() const {
  MOSE_ASSIGN(auto records, iterator_.once<mose_remote_write>());
  if (records.empty() || records.back().thread != 0) return fail("who writes into other processes' memory was not looked at: the kernel did not call the program");
  records.pop_back();
  std::set<pid_t> threads;
  for (const mose_remote_write& record : records) threads.insert(static_cast<pid_t>(record.thread));
  return threads;
}

}  // namespace mose
