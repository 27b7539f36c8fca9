// SPDX-License-Identifier: MIT
#pragma once

#include <span>

#include "base/result.h"
#include "kernel/syscall_filter.h"

namespace mose::restore {

// mose-pager reads what another node sends, decodes it and writes it into processes: whoever finds a mistake in that has this
// process. So it gives up what it does not need, once for good: most capabilities, and all system calls but those of the table in
// pager_confinement.cpp. No other program can be started, no process traced, no namespace, mount or BPF program made; of memory that
// can be executed it never gets more.
//
// Life: begin_confinement() before the first guardian is started. confine_pager() when the store has been made or taken over,
// before there is a second thread and before the first byte of a peer.
[[nodiscard]] Status begin_confinement();
[[nodiscard]] Status confine_pager();

// What a guardian can still do: sleep.
[[nodiscard]] std::span<const SyscallRule> guardian_calls();

}  // namespace mose::restore
