// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/page_set.h"

namespace mose::sense {

// Write faults of a workload as they happen: how many, of which process, which thread, which page, how long ago (BPF
// programs at the page fault tracepoints, bpf/dirty.bpf.c). What a scan of the page tables cannot tell: it says which
// pages were written, once, when asked.
//
// A hint, never the dirty set: a page has to be absent or write-protected for a write to fault, and writes that take no
// exception (direct I/O, process_vm_writev) are not seen.
//
// Life: attach() beside the first round (70 ms of CPU, most of it libbpf reading the kernel's types); next_epoch() where a
// round begins, so that ages count in rounds; totals() and snapshot() at any time; detached by the destructor (1 ms).
// Nothing is pinned: it ends with the agent.
struct FaultMonitorOptions {
  enum class Form : uint8_t { automatic, tp_btf, raw_tp };
  Form form = Form::automatic;  // the first that attaches, in this order
  // Bounds of the kernel's tables. A region is 2 MiB of an address space and takes 0.6 KiB, so that 4096 of them are
  // 8 GiB that are written to. Regions and threads that were quiet longest are thrown out first.
  uint32_t processes_max = 256;
  uint32_t threads_max = 1024;
  uint32_t regions_max = 4096;
};

// faults = from_user + from_kernel = absent + present, up to one that is counted at this moment.
struct FaultTotals {
  uint64_t faults = 0;
  uint64_t from_user = 0, from_kernel = 0;  // the kernel wrote for the process: read(2) and the like
  uint64_t absent = 0, present = 0;         // a first touch; a page that was there and protected, or shared
  uint64_t lost_processes = 0, lost_threads = 0, lost_regions = 0;  // counted, but not by process, thread or page
  uint64_t missed = 0;  // not counted at all: the program would have interrupted itself
};

struct ProcessFaults {
  SpaceId space = 0;  // number in its innermost pid namespace
  uint32_t pid = 0;   // in the initial one
  uint64_t from_user = 0, from_kernel = 0, absent = 0, present = 0;
  [[nodiscard]] uint64_t faults() const { return from_user + from_kernel; }
};

struct ThreadFaults {
  SpaceId space = 0;
  uint32_t tid = 0, inner_tid = 0;
  std::string name;
  uint64_t faults = 0;
};

struct RegionFaults {
  SpaceId space = 0;
  uint32_t pid = 0;
  uint64_t faults = 0;
  PageRun pages;
  // Per page the epochs in which it had a write fault, as of the present epoch: bit 7 this one, bit 6 the one before...
  // As a number: heat that halves with every epoch.
  std::vector<uint8_t> history;
};

struct FaultSnapshot {
  FaultTotals totals;
  std::vector<ProcessFaults> processes;  // each most faults first
  std::vector<ThreadFaults> threads;
  std::vector<RegionFaults> regions;                  // by space, ascending
  uint64_t evicted_threads = 0, evicted_regions = 0;  // faults of entries that were thrown out
  // Faults that are in `totals`, or missed, but not in `regions`.
  [[nodiscard]] uint64_t lost() const { return totals.missed + totals.lost_regions + evicted_regions; }
};

class FaultMonitor {
 public:
  // Faults of processes in the control group (a directory of version 2) and in groups below it. The error says why this
  // host cannot.
  [[nodiscard]] static Result<FaultMonitor> attach(const std::string& cgroup, const FaultMonitorOptions& options = {});
  FaultMonitor(FaultMonitor&&) noexcept;
  FaultMonitor& operator=(FaultMonitor&&) noexcept;
  ~FaultMonitor();

  [[nodiscard]] std::string_view form() const;  // "tp_btf"
  void next_epoch();
  // One look at one value per CPU.
  [[nodiscard]] Result<FaultTotals> totals() const;
  // Everything, or without the regions (and what was evicted from them), which are most of it: 0.6 KiB each. Faults that
  // come meanwhile may be in one table and not yet in another.
  enum class Tables : uint8_t { all, without_regions };
  [[nodiscard]] Result<FaultSnapshot> snapshot(Tables tables = Tables::all) const;

 private:
  struct Kernel;
  explicit FaultMonitor(std::unique_ptr<Kernel> kernel);
  std::unique_ptr<Kernel> kernel_;
};

}  // namespace mose::sense
