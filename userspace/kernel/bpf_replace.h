// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "kernel/bpf_object.h"

// Programs that are at work, replaced by others without a moment in which none is there: every frame meets the one or the
// other.
namespace mose::bpf {

// The link (TCX or XDP) goes on with `program`. Fails when another than `before` is there by now.
[[nodiscard]] Status update_link(int link, int program, int before);

// The filter that attach_clsact() has made goes on with `program`; ENOENT when the filter is not `before`'s.
[[nodiscard]] Status replace_clsact(int program, int before, unsigned ifindex, TcPoint point, uint32_t handle);
// Whether that filter is there.
[[nodiscard]] bool clsact_has(int program, unsigned ifindex, TcPoint point, uint32_t handle);

// Whether it is this very map that the program reads and writes, not another in its place.
[[nodiscard]] Result<bool> program_uses(int program, int map);

// When it returns, no CPU runs a program any more that was replaced before the call.
[[nodiscard]] Status wait_for_running_programs();

// What is pinned at `path` becomes `object`, in one step; nothing need be there. A crash may leave what
// remove_pins_in_making() removes.
[[nodiscard]] Status replace_pin(int object, const std::string& directory, const std::string& name);
void remove_pins_in_making(const std::string& directory);

}  // namespace mose::bpf
