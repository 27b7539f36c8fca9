// SPDX-License-Identifier: MIT
#include "agent/privileges.h"

#include <vector>

#include "kernel/confinement.h"

namespace mose::agent {
namespace {

constexpr AgentCapability kKept[] = {
    {CAP_SYS_ADMIN, "SYS_ADMIN", "namespaces, mounts, bpffs; CRIU"},
    {CAP_SYS_PTRACE, "SYS_PTRACE", "memory and descriptors of workloads; CRIU stops and fills them"},
    {CAP_CHECKPOINT_RESTORE, "CHECKPOINT_RESTORE", "process numbers as they were; /proc/PID/map_files"},
    {CAP_SYS_RESOURCE, "SYS_RESOURCE", "CRIU: limits, prctl(PR_SET_MM); helpers are the last to be killed for memory"},
    {CAP_SYS_TIME, "SYS_TIME", "clocks of a time namespace; the node's own is never set"},
    {CAP_SYS_CHROOT, "SYS_CHROOT", "CRIU: each task's root; entering a mount namespace"},
    {CAP_MKNOD, "MKNOD", "the canary's /dev/null; device nodes that a workload holds after they were removed"},
    {CAP_NET_ADMIN, "NET_ADMIN", "veth pairs, addresses, TC, XDP, taps; TCP repair"},
    {CAP_NET_RAW, "NET_RAW", "gratuitous ARP, neighbour advertisements, probes of addresses"},
    {CAP_BPF, "BPF", "its programs and maps"},
    {CAP_PERFMON, "PERFMON", "page fault tracepoints; pointers in BPF programs"},
    {CAP_SYS_NICE, "SYS_NICE", "real-time threads while somebody waits; priorities of restored tasks"},
    {CAP_KILL, "KILL", "ends and freezes workloads of other users"},
    {CAP_DAC_OVERRIDE, "DAC_OVERRIDE", "files and /proc of other users' processes"},
    {CAP_DAC_READ_SEARCH, "DAC_READ_SEARCH", "CRIU: files by handle (inotify)"},
    {CAP_CHOWN, "CHOWN", "copied files belong to whom they did"},
    {CAP_FOWNER, "FOWNER", "and have the mode and times that they had"},
    {CAP_FSETID, "FSETID", "and their set-id bits"},
    {CAP_SETUID, "SETUID", "restored tasks are who they were"},
    {CAP_SETGID, "SETGID", "likewise"},
    {CAP_SETPCAP, "SETPCAP", "restored tasks, and helpers, have no capability that they should not have"},
    {CAP_NET_BIND_SERVICE, "NET_BIND_SERVICE", "restored listeners below port 1024; workloads"},
    {CAP_IPC_LOCK, "IPC_LOCK", "restored locked memory; workloads"},
    {CAP_IPC_OWNER, "IPC_OWNER", "System V segments of other users"},
    {CAP_SETFCAP, "SETFCAP", "workloads, which inherit it"},
    {CAP_NET_BROADCAST, "NET_BROADCAST", "workloads, which inherit it"},
    {CAP_LEASE, "LEASE", "restored leases; workloads"},
    {CAP_AUDIT_WRITE, "AUDIT_WRITE", "workloads, which inherit it (su, sshd)"},
};

std::string capability_name(unsigned bit) {
  static constexpr const char* kNames[] = {
      "CHOWN",         "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER",       "FSETID",     "KILL",          "SETGID",        "SETUID",
      "SETPCAP",       "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",   "IPC_LOCK",      "IPC_OWNER",
      "SYS_MODULE",    "SYS_RAWIO",    "SYS_CHROOT",      "SYS_PTRACE",   "SYS_PACCT",  "SYS_ADMIN",     "SYS_BOOT",      "SYS_NICE",
      "SYS_RESOURCE",  "SYS_TIME",     "SYS_TTY_CONFIG",  "MKNOD",        "LEASE",      "AUDIT_WRITE",   "AUDIT_CONTROL", "SETFCAP",
      "MAC_OVERRIDE",  "MAC_ADMIN",    "SYSLOG",          "WAKE_ALARM",   "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON",       "BPF",
      "CHECKPOINT_RESTORE"};
  return bit < std::size(kNames) ? std::string("CAP_") + kNames[bit] : "capability " + std::to_string(bit);
}

}  // namespace

std::span<const AgentCapability> agent_capabilities() { return kKept; }

std::string capability_names(uint64_t set) {
  std::string out;
  for (unsigned bit = 0; bit < 64; ++bit) {
    if (((set >> bit) & 1) != 0) out += (out.empty() ? "" : ", ") + capability_name(bit);
  }
  return out;
}

std::string capabilities_missing_here(uint64_t wanted) { return capability_names(wanted & ~own_capabilities()); }

Status leave_other_capabilities() {
  std::vector<int> kept;
  for (const AgentCapability& capability : kKept) kept.push_back(capability.number);
  return keep_capabilities(kept);
}

}  // namespace mose::agent
