// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <memory>
#include <set>

#include "base/result.h"

// Who is writing into the memory of another process by process_vm_writev(2). Such a call takes hold of up to 4 MiB of its
// pages first, which marks them as written, and fills them afterwards, from memory that it may have to wait for: what is protected in
// between is written without a trace. A BPF iterator looks at the last call of every thread; /proc tells it of sleeping ones only.
namespace mose {

class RemoteWrites {
 public:
  // Loads the iterator: some milliseconds. Fails where the kernel has no iterators (5.15 has what it takes).
  [[nodiscard]] static Result<RemoteWrites> prepare();
  RemoteWrites(RemoteWrites&&) noexcept;
  RemoteWrites& operator=(RemoteWrites&&) noexcept;
  ~RemoteWrites();

  // The threads in the pid namespace of this program, and below it, that are in such a call, into whatever process: the kernel has
  // looked up which one at its beginning, and what it was called by may name another one by now. One that has left it counts until
  // its next call, fault or interruption. By their numbers in the host's first pid namespace. Some 0.1 us a thread.
  [[nodiscard]] Result<std::set<pid_t>> under_way() const;

 private:
  struct Kernel;
  explicit RemoteWrites(std::unique_ptr<Kernel> kernel);
  std::unique_ptr<Kernel> kernel_;
};

}  // namespace mose
