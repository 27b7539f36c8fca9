// SPDX-License-Identifier: MIT
#include "kernel/bpf_replace.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "kernel/bpf_clsact.h"

namespace mose::bpf {
namespace {

constexpr const char* kInMaking = "next_";

}  // namespace

Status update_link(int link, int program, int before) {
  LIBBPF_OPTS(bpf_link_update_opts, options, .flags = BPF_F_REPLACE, .old_prog_fd = static_cast<uint32_t>(before));
  if (int code = bpf_link_update(link, program, &options); code < 0)
    return fail_errno("replace the program of a link", -code);
  return {};
}

bool clsact_has(int program, unsigned ifindex, TcPoint point, uint32_t handle) {
  return clsact_priority(program, ifindex, point, handle).has_value();
}

Status replace_clsact(int program, int before, unsigned ifindex, TcPoint point, uint32_t handle) {
  MOSE_ASSIGN(uint32_t priority, clsact_priority(before, ifindex, point, handle));
  bpf_tc_hook hook = clsact_hook(ifindex, point);
  bpf_tc_opts filter = clsact_filter(handle, priority);
  filter.prog_fd = program;
  filter.flags = BPF_TC_F_REPLACE;
  if (int code = bpf_tc_attach(&hook, &filter); code < 0) {
    return fail_libbpf("replace the TC filter of device " + std::to_string(ifindex), code);
  }
  return {};
}

Result<bool> program_uses(int program, int map) {
  constexpr size_t kMapsMax = 64;
  std::array<uint32_t, kMapsMax> ids{};
  bpf_prog_info info{};
  info.nr_map_ids = ids.size();
  info.map_ids = reinterpret_cast<uint64_t>(ids.data());
  uint32_t size = sizeof info;
  if (int code = bpf_obj_get_info_by_fd(program, &info, &size); code < 0) return fail_errno("program info", -code);
  bpf_map_info wanted{};
  size = sizeof wanted;
  if (int code = bpf_obj_get_info_by_fd(map, &wanted, &size); code < 0) return fail_errno("map info", -code);
  const auto end = ids.begin() + std::min<size_t>(info.nr_map_ids, ids.size());
  return std::find(ids.begin(), end, wanted.id) != end;
}

Status wait_for_running_programs() {
  // The kernel waits for a grace period of RCU, inside of which every program runs. Where it refuses (CPUs without
  // ticks), a grace period by other means is what closing takes anyway: a second is far beyond it.
  if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0) return {};
  if (errno != EINVAL && errno != ENOSYS) return fail_errno("membarrier");
  usleep(1'000'000);
  return {};
}

Status replace_pin(int object, const std::string& directory, const std::string& name) {
  const std::string next = directory + "/" + kInMaking + name, path = directory + "/" + name;
  (void)unlink(next.c_str());
  MOSE_TRY(pin(object, next));
  if (rename(next.c_str(), path.c_str()) != 0) return fail_errno("pin " + path);
  return {};
}

void remove_pins_in_making(const std::string& directory) {
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(directory, error)) {
    if (item.path().filename().string().starts_with(kInMaking)) (void)unlink(item.path().c_str());
  }
}

}  // namespace mose::bpf
