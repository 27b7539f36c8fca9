// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <memory>
#include <set>
#include <utility>

#include "base/result.h"
#include "kernel/bpf_iterator.h"

// Who is writing into the memory of another process by process_vm_writev(2). Such a call takes hold of up to 4 MiB of its
// pages first, which marks them as written, and fills them afterwards, from memory that it may have to wait for: what is protected in
// between is written without a trace. A BPF program looks at the last call of every thread of the host, whatever namespace it or this
// process is in; /proc tells it of sleeping ones only.
namespace mose {

class RemoteWrites {
 public:
  // Loads the program: some milliseconds. Fails where the kernel does not let it walk its tasks (6.7, as tracking by protection needs).
  [[nodiscard]] static Result<RemoteWrites> prepare();
  // The one of this process: the first who asks loads it, which takes 50 ms, most of them for the kernel's types, and it stays.
  [[nodiscard]] static Result<std::shared_ptr<const RemoteWrites>> shared();

  // The threads of the host that are in such a call, into whatever process: the kernel has looked up which one at its beginning, and
  // what it was called by may name another one by now. One that has left it counts until its next call, fault or interruption.
  // By their numbers in the host's first pid namespace. Some 0.1 us a thread.
  [[nodiscard]] Result<std::set<pid_t>> under_way() const;

 private:
  explicit RemoteWrites(bpf::Iterator iterator) : iterator_(std::move(iterator)) {}
  bpf::Iterator iterator_;
};

}  // namespace mose
