// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"

// Fields of /proc/PID/status, of processes and of threads.
namespace mose {

// What stands behind "FIELD:" in such a text, without the blanks around it; nothing: there is no such field.
[[nodiscard]] std::optional<std::string_view> status_value(std::string_view status, std::string_view field);
// Signals on their way to that thread or to its process, one bit each.
[[nodiscard]] uint64_t pending_signals(std::string_view status);
[[nodiscard]] bool has_seccomp_filter(std::string_view status);

// What it is called in its pid namespaces, from that of this program to its own; ESRCH when there is no such thread.
[[nodiscard]] Result<std::vector<pid_t>> numbers_of(pid_t thread);
// Of memory that is no file's; none when it has ended, or is about to.
struct Resident {
  uint64_t own = 0, shared = 0;
};
[[nodiscard]] Resident resident_bytes(pid_t process);
// Who traces it; 0: nobody, or there is no such thread.
[[nodiscard]] pid_t tracer_of(pid_t thread);
// The letter of its state, as in proc(5); X: there is no such thread.
[[nodiscard]] char state_of(pid_t thread);
// There is no such thread any more, or nothing of it but its number.
[[nodiscard]] bool has_ended(pid_t thread);

}  // namespace mose
