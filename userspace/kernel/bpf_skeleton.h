// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <memory>
#include <string>

#include "base/result.h"
#include "kernel/bpf_object.h"

// How a skeleton that bpftool has generated (`Programs`: its struct) is opened and loaded, by whoever owns its programs.
namespace mose::bpf {

// By a pointer, so that a header may hold the skeleton of programs that it only declares.
template <class Programs>
struct SkeletonFree {
  void (*destroy)(Programs*) = nullptr;
  void operator()(Programs* programs) const { destroy(programs); }
};
template <class Programs>
using Skeleton = std::unique_ptr<Programs, SkeletonFree<Programs>>;

// `what` they are, for errors. `prepare`: what is set between the two, read-only data and sizes of maps; a Status.
template <class Programs, class Prepare>
[[nodiscard]] Result<Skeleton<Programs>> load_skeleton(const std::string& what, Prepare prepare) {
  capture_libbpf_log();
  Skeleton<Programs> skeleton(Programs::open(), {Programs::destroy});
  if (!skeleton) return fail_libbpf("open " + what, errno);
  MOSE_TRY(prepare(*skeleton));
  if (int code = Programs::load(skeleton.get()); code < 0) return fail_libbpf("load " + what, code);
  forget_libbpf_words();
  return skeleton;
}
template <class Programs>
[[nodiscard]] Result<Skeleton<Programs>> load_skeleton(const std::string& what) {
  return load_skeleton<Programs>(what, [](Programs&) { return Status(); });
}

}  // namespace mose::bpf
