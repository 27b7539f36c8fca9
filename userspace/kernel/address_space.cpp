// SPDX-License-Identifier: MIT
#include "kernel/address_space.h"

#include <bpf/libbpf.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "kernel/bpf_object.h"
#include "mose/bpf/address_space.h"

#include "address_space.skel.h"  // uses the contract

static_assert(sizeof(mose_address_space) == 16);

namespace mose {
namespace {

struct AddressSpaceSkeletonFree {
  void operator()(address_space* skeleton) const { address_space__destroy(skeleton); }
};

}  // namespace

struct AddressSpaces::Kernel {
  std::unique_ptr<address_space, AddressSpaceSkeletonFree> skeleton;
};

AddressSpaces::AddressSpaces(std::unique_ptr<Kernel> kernel) : kernel_(std::move(kernel)) {}
AddressSpaces::AddressSpaces(AddressSpaces&&) noexcept = default;
AddressSpaces& AddressSpaces::operator=(AddressSpaces&&) noexcept = default;
AddressSpaces::~AddressSpaces() = default;

Result<AddressSpaces> AddressSpaces::prepare() {
  bpf::capture_libbpf_log();
  auto kernel = std::make_unique<Kernel>();
  kernel->skeleton.reset(address_space__open());
  if (!kernel->skeleton) return bpf::fail_libbpf("open the iterator over processes", errno);
  if (int code = address_space__load(kernel->skeleton.get()); code < 0) return bpf::fail_libbpf("load the iterator over processes", code);
  bpf::forget_libbpf_words();
  return AddressSpaces(std::move(kernel));
}

Result<AddressSpaceState> AddressSpaces::of(pid_t pid) const {
  MOSE_ASSIGN(std::string bytes, bpf::iterate_process(bpf_program__fd(kernel_->skeleton->progs.mose_address_space), pid));
  // Of each thread; all of them have the same space.
  if (bytes.size() < sizeof(mose_address_space))
    return fail("the changes of address space " + std::to_string(pid) + " are not counted (needs Linux 6.4 with locks for each mapping)");
  mose_address_space record{};
  std::memcpy(&record, bytes.data(), sizeof record);
  return AddressSpaceState{record.identity, record.changes, record.next_pid};
}

}  // namespace mose
