// SPDX-License-Identifier: MIT
#include "kernel/confinement.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>

namespace mose {
namespace {

constexpr unsigned kHalfBits = 32;  // the kernel takes and gives sets in two halves

using Halves = std::array<__user_cap_data_struct, 2>;

// Of what an executed file could bring; the kernel says EINVAL behind the last one that it knows.
Status bound(uint64_t kept) {
  for (unsigned bit = 0; bit < 2 * kHalfBits; ++bit) {
    if (((kept >> bit) & 1) != 0 || ::prctl(PR_CAPBSET_DROP, bit, 0, 0, 0) == 0) continue;
    if (errno == EINVAL) return {};
    return fail_errno("give up a capability");
  }
  return {};
}

}  // namespace

Status forbid_dumps_and_privileges() {
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return fail_errno("forbid core dumps");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail_errno("forbid new privileges");
  return {};
}

uint64_t own_capabilities() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  Halves sets{};
  if (::syscall(SYS_capget, &header, sets.data()) != 0) return 0;
  return sets[0].permitted | static_cast<uint64_t>(sets[1].permitted) << kHalfBits;
}

Status keep_capabilities(std::span<const int> kept) {
  uint64_t mask = 0;
  for (int bit : kept) mask |= uint64_t{1} << bit;
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  Halves sets{};
  if (::syscall(SYS_capget, &header, sets.data()) != 0) return fail_errno("read the capabilities");
  // While there is CAP_SETPCAP; who has given it up before has bounded himself then.
  const bool may_bound = ((sets[0].effective >> CAP_SETPCAP) & 1) != 0;
  if (may_bound) MOSE_TRY(bound(mask));
  for (unsigned i = 0; i < sets.size(); ++i) {
    const auto half = static_cast<uint32_t>(mask >> (i * kHalfBits));
    sets[i].permitted &= half;
    sets[i].effective = sets[i].permitted;
    sets[i].inheritable = 0;
  }
  if (::syscall(SYS_capset, &header, sets.data()) != 0) return fail_errno("give up capabilities");
  return {};
}

}  // namespace mose
