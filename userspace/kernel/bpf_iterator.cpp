// SPDX-License-Identifier: MIT
#include "kernel/bpf_iterator.h"

#include <bpf/bpf.h>
#include <unistd.h>

#include "base/fd.h"

namespace mose::bpf {

Result<std::string> Iterator::read(Over over, pid_t pid) const {
  bpf_iter_link_info only{};
  if (over == Over::process) only.task.pid = static_cast<uint32_t>(pid);
  // Kernels before 6.12 (and 6.6.59, 6.11.6) look such a number up among processes only.
  else only.task.tid = static_cast<uint32_t>(::getpid());
  LIBBPF_OPTS(bpf_link_create_opts, options, .iter_info = &only, .iter_info_len = sizeof only);
  Fd link(bpf_link_create(program_, 0, BPF_TRACE_ITER, &options));
  if (!link) return fail_errno("attach a BPF iterator over " + (over == Over::process ? "process " + std::to_string(pid) : "a thread"));
  Fd reader(bpf_iter_create(link.get()));
  if (!reader) return fail_errno("begin a BPF iterator");
  return read_all(reader.get());
}

}  // namespace mose::bpf
