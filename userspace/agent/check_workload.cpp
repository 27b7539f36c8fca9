// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include "agent/check.h"
#include "agent/wire_messages.h"
#include "agent/workloads.h"
#include "kernel/inspect.h"

namespace mose::agent {
namespace {

struct Words {
  const char* what;  // put before the thing
  const char* why;   // reason and what to try
};

// One row per kind of tie: the sentence is "WHO: [descriptor N is] WHAT THING: WHY".
Words words_for(TieKind kind) {
  switch (kind) {
    case TieKind::terminal:
      return {"the terminal", "its other side stays here; start the workload without a terminal, output to a file"};
    case TieKind::pipe:
      return {"the pipe", "its other end stays here; write to a file or a socket of the workload instead"};
    case TieKind::unix_socket:
      return {"the unix socket", "its other end stays here; close that connection before the move"};
    case TieKind::foreign_socket:
      return {"the socket", "it cannot be rebuilt on another node; close it before the move"};
    case TieKind::io_uring:
      return {"an io_uring", "the kernel gives its state to nobody; switch the program to epoll (many have an option)"};
    case TieKind::userfaultfd:
      return {"a userfaultfd",
              "the memory of this process is served by itself and cannot be tracked; end that use before the move"};
    case TieKind::device:
      return {"the device", "its state stays in this machine; close it before the move"};
    case TieKind::special_descriptor:
      return {"a kernel object of kind", "it cannot be rebuilt on another node; close it before the move"};
    case TieKind::outside_file:
      return {"the file",
              "it lies on a mount that the workload does not have; open it from the workload's own root or mounts"};
    case TieKind::shared_memory:
      return {"the shared memory",
              "that process stays here and would no longer see what is written; end it, or move both as one workload"};
    case TieKind::sealed_memory:
      return {
          "the sealed memory",
          "its contents could not be put in on the other node; configure the program not to seal it against writing"};
    case TieKind::odd_memory:
      return {"the memory", "such memory is not moved; configure the program without it"};
    case TieKind::hugetlb:
      return {"huge pages,", "they are not moved yet; configure the program without them"};
    case TieKind::locked_memory:
      return {"locked memory,",
              "it cannot be brought in later, and more than 64 MiB would be too long a stop; configure the program to "
              "lock less"};
    case TieKind::undeclared_mount:
      return {"the mount", "nobody has declared how its contents get to the other node; declare it with --mount"};
    case TieKind::sysv_object:
      return {"", "such objects are not moved yet; remove them (ipcrm) or configure the program without them"};
    case TieKind::unattached_segment:
      return {"the System V segment",
              "no process of the workload has attached it, or it has huge pages: its contents would be lost; attach it, "
              "or remove it (ipcrm -m)"};
    case TieKind::foreign_process:
      return {"the process",
              "it is in the workload's cgroup but not of its tree, and would be stopped with it; move it to another "
              "cgroup"};
    case TieKind::strayed_process:
      return {"the cgroup",
              "a process of the workload lies outside of the workload's cgroup and would not be stopped; move it back"};
    case TieKind::nested_namespace:
      return {"a namespace of its own, kind",
              "nested namespaces are not moved yet; run that part as a workload of its own"};
    case TieKind::traced:
      return {"a debugger,", "only one can stop a process at a time; detach it"};
  }
  return {"", ""};
}

std::string sentence(const std::string& workload, const Tie& tie) {
  Words words = words_for(tie.kind);
  std::string who =
      tie.pid == 0 ? fmt::format("workload {}", workload) : fmt::format("process {} (pid {})", tie.command, tie.pid);
  std::string thing = fmt::format("{}{}{}", words.what, *words.what == '\0' ? "" : " ", tie.thing);
  if (tie.fd >= 0) return fmt::format("{}: descriptor {} is {}: {}", who, tie.fd, thing, words.why);
  return fmt::format("{} has {}: {}", who, thing, words.why);
}

}  // namespace

std::vector<std::string> check_workload(const WorkloadSpec& spec, const ProcessHandle& init,
                                        const std::string& cgroup) {
  InspectRequest request{&init, cgroup, {}};
  for (const WorkloadMount& mount : spec.mounts) request.declared_mounts.push_back(mount.target);
  request.declared_mounts.emplace_back(kWorkloadLogTarget);
  auto ties = inspect_ties(request);
  if (!ties)
    return {fmt::format("workload {} cannot be inspected: {}; is it still running?", spec.name, ties.error().what)};
  std::vector<std::string> reasons;
  for (const Tie& tie : *ties) reasons.push_back(sentence(spec.name, tie));
  // Its files and neighbours come on top of that, and take their time to be found: the migration's own preflight.
  PreparePayload declared;
  declared.spec = spec;
  if (auto fits = check_prepare(declared); !fits) reasons.push_back(fits.error().what);
  return reasons;
}

}  // namespace mose::agent
