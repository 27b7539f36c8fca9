// SPDX-License-Identifier: MIT
#include "kernel/address_space.h"

#include <bpf/libbpf.h>

#include <string>

#include "kernel/bpf_skeleton.h"
#include "mose/bpf/address_space.h"

#include "address_space.skel.h"  // uses the contract

static_assert(sizeof(mose_address_space) == 16);

namespace mose {

Result<AddressSpaces> AddressSpaces::prepare() {
  MOSE_ASSIGN(auto skeleton, bpf::load_skeleton<address_space>("the iterator over processes"));
  const int program = bpf_program__fd(skeleton->progs.mose_address_space);
  return AddressSpaces(bpf::Iterator(std::move(skeleton), program));
}

Result<AddressSpaceState> AddressSpaces::of(pid_t pid) const {
  MOSE_ASSIGN(auto records, iterator_.of_process<mose_address_space>(pid));
  // Of each thread; all of them have the same space.
  if (records.empty())
    return fail("the changes of address space " + std::to_string(pid) + " are not counted (needs Linux 6.4 with locks for each mapping)");
  return AddressSpaceState{records[0].identity, records[0].changes, records[0].next_pid};
}

}  // namespace mose
