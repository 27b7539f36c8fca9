// SPDX-License-Identifier: MIT
// Processes and threads of two dumps. Field numbers are those of CRIU's images/*.proto.
#include <algorithm>
#include <cstring>

#include "restore/standby_parts.h"

namespace mose::restore {
namespace {

constexpr uint64_t kMachineX86 = 1, kModeNative = 1;

struct ImagesTree {
  struct Process {
    uint64_t pid = 0;
    std::vector<uint64_t> threads;
    ImageFields rest;
  };
  std::vector<Process> processes;
};

Result<ImagesTree> read_tree(const ImageSet& images) {
  MOSE_ASSIGN(ImageContent content, images.content("pstree.img", kMagicTree));
  ImagesTree tree;
  for (std::string_view message : content.messages) {
    auto fields = ImageFields::parse(message);
    if (!fields) return context("pstree.img", std::move(fields).error());
    ImagesTree::Process process;
    process.pid = fields->take_number(1).value_or(0);
    process.threads = fields->take_numbers(5);
    if (process.pid == 0 || process.pid > INT32_MAX) return fail("pstree.img names an impossible process");
    for (uint64_t tid : process.threads) {
      if (tid == 0 || tid > INT32_MAX) return fail("pstree.img names an impossible thread");
    }
    if (process.threads.empty()) process.threads = {process.pid};
    process.rest = std::move(*fields);
    tree.processes.push_back(std::move(process));
  }
  if (tree.processes.empty() || tree.processes.size() > kTreeProcessesMax)
    return fail("pstree.img names no processes or too many");
  std::sort(tree.processes.begin(), tree.processes.end(), [](const auto& a, const auto& b) { return a.pid < b.pid; });
  for (ImagesTree::Process& process : tree.processes) std::sort(process.threads.begin(), process.threads.end());
  return tree;
}

std::string process_name(uint64_t pid) {
  return "process " + std::to_string(pid);
}

// Put together by the caller: which of the two sorted lists has one that the other has not.
template <typename Name>
Status same_numbers(const std::vector<uint64_t>& early, const std::vector<uint64_t>& final, Name name) {
  for (uint64_t number : final) {
    if (!std::binary_search(early.begin(), early.end(), number))
      return fail(name(number) + " has begun since the standby was made");
  }
  for (uint64_t number : early) {
    if (!std::binary_search(final.begin(), final.end(), number))
      return fail(name(number) + " has ended since the standby was made");
  }
  if (early.size() != final.size() || std::adjacent_find(early.begin(), early.end()) != early.end())
    return fail("pstree.img names something twice");
  return {};
}

// x87, SSE: as FXSAVE lays it out.
Status fxsave(ImageFields& fpu, std::array<std::byte, 512>& out) {
  auto put = [&](size_t offset, const void* from, size_t size) { std::memcpy(out.data() + offset, from, size); };
  auto small = [&](uint32_t number, size_t offset, size_t size) -> Status {
    auto value = fpu.take_number(number);
    if (!value) return fail("has no complete floating point state");
    put(offset, &*value, size);
    return {};
  };
  MOSE_TRY(small(1, 0, 2));
  MOSE_TRY(small(2, 2, 2));
  MOSE_TRY(small(3, 4, 2));
  MOSE_TRY(small(4, 6, 2));
  MOSE_TRY(small(5, 8, 8));
  MOSE_TRY(small(6, 16, 8));
  MOSE_TRY(small(7, 24, 4));
  MOSE_TRY(small(8, 28, 4));
  auto array = [&](uint32_t number, size_t offset, size_t count) -> Status {
    std::vector<uint64_t> values = fpu.take_numbers(number);
    if (values.size() != count) return fail("has no complete floating point state");
    for (size_t i = 0; i < count; ++i) {
      auto word = static_cast<uint32_t>(values[i]);
      put(offset + 4 * i, &word, 4);
    }
    return {};
  };
  MOSE_TRY(array(9, 32, 32));
  MOSE_TRY(array(10, 160, 64));
  (void)fpu.take_numbers(11);  // padding
  return {};
}

// The extended components that CRIU saves: field, number of the component, size of one value.
struct ComponentField {
  uint32_t field;
  unsigned number;
  size_t word;
};
constexpr ComponentField kComponents[] = {{2, 2, 4}, {3, 3, 8}, {4, 4, 8}, {5, 5, 8}, {6, 6, 8}, {7, 7, 8}, {8, 9, 4}};
constexpr size_t kComponentBytesMax = 4096;

Status extended(ImageFields& xsave, std::vector<StandbyThread::Component>& out) {
  uint64_t in_use = xsave.take_number(1).value_or(0) & ~kLegacyComponents;
  for (const ComponentField& known : kComponents) {
    std::vector<uint64_t> values = xsave.take_numbers(known.field);
    if (!(in_use & uint64_t{1} << known.number)) continue;
    in_use &= ~(uint64_t{1} << known.number);
    if (values.empty() || values.size() * known.word > kComponentBytesMax)
      return fail("uses processor state that its image does not have");
    StandbyThread::Component component{known.number, std::vector<std::byte>(values.size() * known.word)};
    for (size_t i = 0; i < values.size(); ++i)
      std::memcpy(component.bytes.data() + i * known.word, &values[i], known.word);
    out.push_back(std::move(component));
  }
  if (in_use != 0) return fail("uses processor state that cannot be transferred");
  return {};
}

// thread_info: the registers go to `out`, the rest must be equal.
Status take_registers(FieldPair& core, const std::string& what, StandbyThread& out) {
  MOSE_ASSIGN(FieldPair info, take_pair(core, 2, what));
  MOSE_ASSIGN(FieldPair general, take_pair(info, 2, what));
  for (uint32_t i = 1; i <= StandbyThread::kRegisters; ++i) {
    auto early = general.early.take_number(i);
    auto final = general.final.take_number(i);
    if (!early || !final) return fail(what + " has no complete registers");
    // Selectors: nothing but their usual values is known to work.
    const bool selector = i == 18 || i == 21 || i >= 24;
    if (selector && *early != *final) return fail(what + " has changed its segments since the standby was made");
    out.registers[i - 1] = *final;
  }
  if (general.final.take_number(28).value_or(kModeNative) != kModeNative ||
      general.early.take_number(28).value_or(kModeNative) != kModeNative)
    return fail(what + " is no 64-bit thread");
  MOSE_TRY(general.rest_equal(what));

  MOSE_ASSIGN(FieldPair fpu, take_pair(info, 3, what));
  std::array<std::byte, 512> unused{};
  std::vector<StandbyThread::Component> unused_components;
  if (auto status = fxsave(fpu.early, unused); !status) return context("early " + what, std::move(status).error());
  if (auto status = fxsave(fpu.final, out.fxsave); !status) return context(what, std::move(status).error());
  MOSE_ASSIGN(FieldPair xsave, take_pair(fpu, 13, what));
  if (auto status = extended(xsave.early, unused_components); !status) return context(what, std::move(status).error());
  if (auto status = extended(xsave.final, out.components); !status) return context(what, std::move(status).error());
  MOSE_TRY(xsave.rest_equal(what, {{"9", "its shadow stack"}}));
  MOSE_TRY(fpu.rest_equal(what));
  return info.rest_equal(what, {{"1", "where it tells its end"}, {"4", "its thread-local segments"}});
}

bool signals_pending(ImageFields& fields, uint32_t number) {
  for (std::string_view queue : fields.take_messages(number)) {
    if (!queue.empty()) return true;
  }
  return false;
}

// Interval timers of the process and POSIX timers run on in a standby that stands: none may be armed. Disarmed ones are
// equal.
Status no_timer_armed(FieldPair& task, const std::string& what) {
  auto early = task.early.take_bytes(7);
  auto final = task.final.take_bytes(7);
  MOSE_ASSIGN(FieldPair timers, FieldPair::parse(what, early.value_or(""), final.value_or("")));
  for (ImageFields* side : {&timers.early, &timers.final}) {
    ImageFields copy = *side;
    for (uint32_t number : {1u, 2u, 3u}) {
      MOSE_ASSIGN(ImageFields timer, ImageFields::parse(copy.take_bytes(number).value_or("")));
      if (timer.take_number(3).value_or(0) != 0 || timer.take_number(4).value_or(0) != 0)
        return fail(what + " has an interval timer that runs");
    }
    for (std::string_view message : copy.take_messages(4)) {
      MOSE_ASSIGN(ImageFields timer, ImageFields::parse(message));
      if (timer.take_number(9).value_or(0) != 0 || timer.take_number(10).value_or(0) != 0)
        return fail(what + " has a POSIX timer that runs");
    }
  }
  return timers.rest_equal(what, {{"4", "its POSIX timers"}, {"1", "its interval timer"}});
}

Status compare_task(FieldPair& core, const std::string& what, std::optional<uint64_t>& mask) {
  MOSE_ASSIGN(FieldPair task, take_pair(core, 3, what));
  (void)task.early.take_number(4);  // the kernel's flags of a task: told, never restored
  (void)task.final.take_number(4);
  (void)task.early.take_number(5);
  mask = task.final.take_number(5);
  MOSE_TRY(no_timer_armed(task, what));
  if (signals_pending(task.early, 10) || signals_pending(task.final, 10)) return fail(what + " has a signal pending");
  return task.rest_equal(
      what, {{"1", "its state"}, {"6", "its name"}, {"8", "its limits"}, {"15", "how it handles a signal"}});
}

Status compare_thread(StandbyComparison& c, SpaceId space, uint64_t tid) {
  const std::string name = "core-" + std::to_string(tid) + ".img";
  const std::string what =
      tid == space ? process_name(space) : "thread " + std::to_string(tid) + " of " + process_name(space);
  MOSE_ASSIGN(std::string_view early, c.early.message(name, kMagicCore));
  MOSE_ASSIGN(std::string_view final, c.final.message(name, kMagicCore));
  MOSE_ASSIGN(FieldPair core, FieldPair::parse(name, early, final));
  c.compared.insert(name);
  if (core.final.take_number(1) != kMachineX86 || core.early.take_number(1) != kMachineX86)
    return fail(what + " is no x86-64 program");
  StandbyThread out;
  out.space = space;
  out.tid = static_cast<uint32_t>(tid);
  MOSE_TRY(take_registers(core, what, out));
  std::optional<uint64_t> task_mask;
  if (tid == space) MOSE_TRY(compare_task(core, what, task_mask));
  MOSE_ASSIGN(FieldPair thread, take_pair(core, 5, what));
  (void)thread.early.take_number(6);
  auto thread_mask = thread.final.take_number(6);
  if (!task_mask && !thread_mask) return fail(what + " has no signal mask in its image");
  out.signal_mask = task_mask ? *task_mask : *thread_mask;
  if (signals_pending(thread.early, 9) || signals_pending(thread.final, 9)) return fail(what + " has a signal pending");
  // Inside a restartable sequence: nothing says what is to be done with the pages that hold it.
  for (ImageFields* side : {&thread.early, &thread.final}) {
    ImageFields copy = *side;
    MOSE_ASSIGN(ImageFields rseq, ImageFields::parse(copy.take_bytes(15).value_or("")));
    if (rseq.take_number(4).value_or(0) != 0) return fail(what + " is in a restartable sequence");
  }
  MOSE_TRY(thread.rest_equal(what, {{"1", "its robust futexes"},
                                    {"7", "its signal stack"},
                                    {"10", "its credentials"},
                                    {"13", "its name"},
                                    {"15", "its restartable sequences"}}));
  MOSE_TRY(core.rest_equal(what));
  c.delta.threads.push_back(std::move(out));
  return {};
}

Result<uint64_t> clock_ns(std::string_view message) {
  MOSE_ASSIGN(ImageFields time, ImageFields::parse(message));
  auto seconds = time.take_number(1);
  auto nanoseconds = time.take_number(2);
  if (!seconds || !nanoseconds || *seconds > kSecondsMax || *nanoseconds >= kNsPerSecond || !time.empty())
    return fail("holds an impossible time");
  return *seconds * kNsPerSecond + *nanoseconds;
}

Status compare_clocks(StandbyComparison& c) {
  const std::string name = "timens-0.img";
  if (c.early.has(name) != c.final.has(name)) return fail("only one of the two dumps has the clocks of the workload");
  if (!c.final.has(name)) return {};
  c.compared.insert(name);
  MOSE_ASSIGN(std::string_view early, c.early.message(name, kMagicTimens));
  MOSE_ASSIGN(std::string_view final, c.final.message(name, kMagicTimens));
  MOSE_ASSIGN(FieldPair clocks, FieldPair::parse(name, early, final));
  (void)clocks.early.take_bytes(1);
  (void)clocks.early.take_bytes(2);
  auto monotonic = clocks.final.take_bytes(1);
  auto boottime = clocks.final.take_bytes(2);
  if (!monotonic || !boottime) return fail(name + " lacks a clock");
  StandbyClocks out;
  MOSE_ASSIGN(out.monotonic_ns, clock_ns(*monotonic));
  MOSE_ASSIGN(out.boottime_ns, clock_ns(*boottime));
  c.delta.clocks = out;
  return clocks.rest_equal(name);
}

Status compare_inventory(StandbyComparison& c) {
  const std::string name = "inventory.img";
  c.compared.insert(name);
  MOSE_ASSIGN(std::string_view early, c.early.message(name, kMagicInventory));
  MOSE_ASSIGN(std::string_view final, c.final.message(name, kMagicInventory));
  MOSE_ASSIGN(FieldPair inventory, FieldPair::parse(name, early, final));
  for (ImageFields* side : {&inventory.early, &inventory.final}) {
    (void)side->take_number(8);  // uptime of the machine at the dump
    (void)side->take_bytes(13);  // the name of this run of CRIU
  }
  return inventory.rest_equal(name);
}

}  // namespace

Status compare_processes(StandbyComparison& c) {
  MOSE_TRY(compare_inventory(c));
  MOSE_TRY(compare_clocks(c));
  MOSE_ASSIGN(ImagesTree early, read_tree(c.early));
  MOSE_ASSIGN(ImagesTree final, read_tree(c.final));
  c.compared.insert("pstree.img");
  std::vector<uint64_t> early_pids, final_pids;
  for (const ImagesTree::Process& process : early.processes) early_pids.push_back(process.pid);
  for (const ImagesTree::Process& process : final.processes) final_pids.push_back(process.pid);
  MOSE_TRY(same_numbers(early_pids, final_pids, process_name));
  for (size_t i = 0; i < early.processes.size(); ++i) {
    const uint64_t pid = early.processes[i].pid;
    const std::string mm = "mm-" + std::to_string(pid) + ".img";
    if (auto field = ImageFields::difference(early.processes[i].rest, final.processes[i].rest))
      return fail(process_name(pid) + " has changed its place among the others since the standby was made");
    MOSE_TRY(same_numbers(early.processes[i].threads, final.processes[i].threads,
                          [&](uint64_t tid) { return "thread " + std::to_string(tid) + " of " + process_name(pid); }));
    if (c.early.has(mm) != c.final.has(mm)) return fail(process_name(pid) + " has ended since the standby was made");
    if (!c.final.has(mm)) continue;  // a zombie: its image must be equal
    const auto& threads = final.processes[i].threads;
    if (!std::binary_search(threads.begin(), threads.end(), pid))
      return fail(process_name(pid) + " has no first thread");
    c.delta.processes.emplace_back(static_cast<SpaceId>(pid), static_cast<uint32_t>(threads.size()));
    for (uint64_t tid : threads) MOSE_TRY(compare_thread(c, static_cast<SpaceId>(pid), tid));
  }
  return {};
}

}  // namespace mose::restore
