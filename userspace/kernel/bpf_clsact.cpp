// SPDX-License-Identifier: MIT
#include "kernel/bpf_clsact.h"

#include <net/if.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "kernel/netlink.h"

namespace mose::bpf {
namespace {

constexpr uint32_t kClsactPriorities = 8;

}  // namespace

bpf_tc_hook clsact_hook(unsigned ifindex, TcPoint point) {
  bpf_tc_hook hook{};
  hook.sz = sizeof hook;
  hook.ifindex = static_cast<int>(ifindex);
  hook.attach_point = point == TcPoint::ingress ? BPF_TC_INGRESS : BPF_TC_EGRESS;
  return hook;
}

bpf_tc_opts clsact_filter(uint32_t handle, uint32_t priority) {
  bpf_tc_opts filter{};
  filter.sz = sizeof filter;
  filter.handle = handle;
  filter.priority = priority;
  return filter;
}

Status attach_clsact(int program, unsigned ifindex, TcPoint point, uint32_t handle) {
  std::string where = "TC filter on device " + std::to_string(ifindex);
  bpf_tc_hook hook = clsact_hook(ifindex, point);
  bpf_tc_hook both = hook;
  // Both at once, which libbpf means and its enumeration has no name for.
  // NOLINTNEXTLINE(clang-analyzer-optin.core.EnumCastOutOfRange)
  both.attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS);
  if (int code = bpf_tc_hook_create(&both); code < 0 && code != -EEXIST) return fail_libbpf(where + ": clsact", code);
  MOSE_ASSIGN(uint32_t id, program_id(program));
  int code = 0;
  for (uint32_t priority = 1; priority <= kClsactPriorities; ++priority) {
    bpf_tc_opts there = clsact_filter(handle, priority);
    if (bpf_tc_query(&hook, &there) == 0 && there.prog_id == id) return {};
    bpf_tc_opts filter = clsact_filter(handle, priority);
    filter.prog_fd = program;
    code = bpf_tc_attach(&hook, &filter);
    if (code == 0) return {};
    if (code != -EEXIST && code != -EINVAL) break;  // another kind of filter, or another's of this handle
  }
  if (code != -EEXIST && code != -EINVAL) return fail_libbpf(where, code);
  forget_libbpf_words();
  char name[IF_NAMESIZE] = "DEVICE";
  (void)if_indextoname(ifindex, name);
  const char* side = point == TcPoint::ingress ? "ingress" : "egress";
  return fail_errno(where + ": filters of others have all priorities from 1 to " + std::to_string(kClsactPriorities) +
                        ": `tc filter show dev " + name + " " + side + "` lists them, `tc filter del dev " + name + " " + side +
                        " pref N` frees one",
                    -code);
}

Result<uint32_t> clsact_priority(int program, unsigned ifindex, TcPoint point, uint32_t handle) {
  MOSE_ASSIGN(uint32_t id, program_id(program));
  bpf_tc_hook hook = clsact_hook(ifindex, point);
  Result<uint32_t> found = fail_errno("no such TC filter on device " + std::to_string(ifindex), ENOENT);
  for (uint32_t priority = 1; priority <= kClsactPriorities && !found; ++priority) {
    bpf_tc_opts filter = clsact_filter(handle, priority);
    if (bpf_tc_query(&hook, &filter) == 0 && filter.prog_id == id) found = priority;
  }
  forget_libbpf_words();  // what was not found is no news
  return found;
}

Status detach_clsact(std::span<const uint32_t> program_ids) {
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_ASSIGN(auto filters, netlink.bpf_filters());
  for (const Netlink::BpfFilter& filter : filters) {
    if (std::ranges::find(program_ids, filter.program) == program_ids.end()) continue;
    bpf_tc_hook hook = clsact_hook(filter.ifindex, filter.egress ? TcPoint::egress : TcPoint::ingress);
    bpf_tc_opts ours = clsact_filter(filter.handle, filter.priority);
    const int code = bpf_tc_detach(&hook, &ours);
    if (code < 0 && code != -ENOENT && code != -ENODEV) {  // gone with its device meanwhile
      return fail_libbpf("detach the TC filter of device " + std::to_string(filter.ifindex), code);
    }
  }
  forget_libbpf_words();
  return {};
}

}  // namespace mose::bpf
