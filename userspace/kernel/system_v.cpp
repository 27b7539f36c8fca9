// SPDX-License-Identifier: MIT
#include "kernel/system_v.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/shm.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>
#include <thread>

#include "base/fd.h"

namespace mose {
namespace {

constexpr unsigned kRemoved = SHM_DEST;
constexpr size_t kTableMax = 16u << 20;  // 4096 segments of 110 bytes each by default, and more where shmmni was raised

template <typename Work>
Status inside(int ipc, Work work) {
  Status done;
  std::thread([&] { done = setns(ipc, CLONE_NEWIPC) == 0 ? work() : fail_errno("enter the ipc namespace"); }).join();
  return done;
}

// What follows the line of titles.
Result<std::string> rows_of(const char* table) {
  MOSE_ASSIGN(std::string text, read_file(std::string("/proc/sysvipc/") + table, kTableMax));
  const size_t titles = text.find('\n');
  return titles == std::string::npos ? std::string() : text.substr(titles + 1);
}

Result<uint64_t> count_of(const char* table) {
  MOSE_ASSIGN(std::string rows, rows_of(table));
  return static_cast<uint64_t>(std::count(rows.begin(), rows.end(), '\n'));
}

// key shmid perms size cpid lpid nattch ...; perms in octal.
Result<SystemVSegment> segment_of(const std::string& row) {
  std::istringstream words(row);
  SystemVSegment out;
  int64_t key = 0, maker = 0, last = 0;
  std::string mode;
  words >> key >> out.id >> mode >> out.bytes >> maker >> last >> out.attached;
  char* end = nullptr;
  const auto bits = static_cast<unsigned>(std::strtoul(mode.c_str(), &end, 8));
  if (!words || end == mode.c_str() || *end != '\0') return fail("/proc/sysvipc/shm is not understood: " + row);
  out.removed = (bits & kRemoved) != 0;
  return out;
}

}  // namespace

Result<SystemVObjects> system_v_objects(int ipc) {
  SystemVObjects out;
  MOSE_TRY(inside(ipc, [&]() -> Status {
    MOSE_ASSIGN(out.semaphores, count_of("sem"));
    MOSE_ASSIGN(out.queues, count_of("msg"));
    MOSE_ASSIGN(std::string rows, rows_of("shm"));
    std::istringstream lines(rows);
    for (std::string row; std::getline(lines, row);) {
      MOSE_ASSIGN(SystemVSegment segment, segment_of(row));
      out.segments.push_back(segment);
    }
    return {};
  }));
  return out;
}

Status remove_segment(int ipc, int id) {
  return inside(ipc, [&]() -> Status {
    if (shmctl(id, IPC_RMID, nullptr) == 0) return {};
    return fail_errno(fmt::format("mark System V segment {} for removal", id));
  });
}

}  // namespace mose
