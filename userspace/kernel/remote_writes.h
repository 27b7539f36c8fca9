// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <span>

#include "base/result.h"

// Whether somebody is writing into the memory of a process by process_vm_writev(2). Such a call takes hold of up to 4 MiB of its
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

  // A thread of the host that is in such a call into one of these, or has been and made no other call, fault or interruption since. None
  // is missed; one that names a process by the same number in another pid namespace may be taken for one. Some 0.1 us a thread of the
  // host.
  [[nodiscard]] Result<std::optional<pid_t>> into(std::span<const pid_t> processes) const;

 private:
  struct Kernel;
  explicit RemoteWrites(std::unique_ptr<Kernel> kernel);
  std::unique_ptr<Kernel> kernel_;
};

}  // namespace mose
