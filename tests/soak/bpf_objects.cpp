// SPDX-License-Identifier: MIT
#include "bpf_objects.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>
#include <string_view>

#include "base/fd.h"

namespace mose::test {
namespace {

// Names of bpf/*.bpf.c. Maps of rodata are called after their object.
constexpr std::array<std::string_view, 3> kPrefixes = {"mose_", "steer_", "dirty"};
constexpr std::array<std::string_view, 4> kFaultPrograms = {"btf_user", "btf_kernel", "raw_user", "raw_kernel"};

bool is_ours(std::string_view name) {
  return std::any_of(kPrefixes.begin(), kPrefixes.end(), [&](auto prefix) { return name.starts_with(prefix); }) ||
         std::find(kFaultPrograms.begin(), kFaultPrograms.end(), name) != kFaultPrograms.end();
}

// Calls `see` with the number and the description of every object of a kind. One that goes meanwhile is left out.
template <typename Info, typename See>
Status each(const char* what, int (*next)(uint32_t, uint32_t*), int (*open)(uint32_t), See&& see) {
  uint32_t id = 0;
  while (next(id, &id) == 0) {
    const Fd object(open(id));
    if (!object) continue;
    Info info{};
    uint32_t size = sizeof info;
    if (bpf_obj_get_info_by_fd(object.get(), &info, &size) == 0) see(id, info);
  }
  if (errno != ENOENT) return fail_errno(std::string("list BPF ") + what);
  return {};
}

}  // namespace

Result<BpfObjects> count_bpf_objects() {
  BpfObjects out;
  std::set<uint32_t> programs;
  MOSE_TRY(each<bpf_prog_info>("programs", bpf_prog_get_next_id, bpf_prog_get_fd_by_id, [&](uint32_t id, const bpf_prog_info& info) {
    if (is_ours(info.name)) programs.insert(id);
  }));
  MOSE_TRY(each<bpf_map_info>("maps", bpf_map_get_next_id, bpf_map_get_fd_by_id,
                              [&](uint32_t, const bpf_map_info& info) { out.maps += is_ours(info.name) ? 1 : 0; }));
  MOSE_TRY(each<bpf_link_info>("links", bpf_link_get_next_id, bpf_link_get_fd_by_id,
                               [&](uint32_t, const bpf_link_info& info) { out.links += programs.count(info.prog_id); }));
  out.programs = programs.size();
  return out;
}

}  // namespace mose::test
