// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "model/dirty_source.h"
#include "model/page_set.h"

// Memory that processes share without a file: MAP_SHARED|MAP_ANONYMOUS, memfd, System V segments. The kernel keeps each
// such object as a file that has no name; it is found, and opened, through a process that maps it or has it open.
namespace mose {

inline constexpr size_t kSharedObjectsMax = 1024;

struct SharedObject {
  SpaceId space = 0;  // kSharedSpaces and its number
  uint64_t inode = 0;
  uint64_t size = 0;     // bytes
  uint64_t resident = 0; // bytes that have contents
  int seals = 0;         // F_SEAL_*; 0 where it cannot be sealed
  SpaceProcess holder;   // one who has it, with `object` set to the path that opens it
  int fd = -1;           // of the holder; -1: mapped at
  uint64_t address = 0;  // this one
  std::string name;      // as the kernel calls it: "/memfd:cache", "/dev/zero", "/SYSV0052e2c1"
  int system_v = -1;     // the segment's id in its ipc namespace; -1: no segment
  bool removed = false;  // a segment that goes with its last mapping; for who asks system_v_objects()
};

// All objects that these processes have, each once, ascending by space. Processes that end meanwhile are left out.
// Objects of huge pages are not among them, nor segments that no process has attached.
[[nodiscard]] Result<std::vector<SharedObject>> shared_objects(std::span<const SpaceProcess> processes);
// The processes, and behind them the objects that they share.
[[nodiscard]] Result<std::vector<SpaceProcess>> with_shared_objects(std::vector<SpaceProcess> processes);

// A shared mapping of such an object.
struct SharedMapping {
  enum class Kind : uint8_t { anonymous, memfd, segment };
  SpaceId object = 0;
  Kind kind = Kind::anonymous;
  bool write = false;
  PageRun pages;       // of the process
  uint64_t first = 0;  // page of the object at its beginning

  // Pages of the object that lie in it, as those of the process, and the other way.
  [[nodiscard]] PageSet to_process(const PageSet& object_pages) const;
  [[nodiscard]] PageSet to_object(const PageSet& process_pages) const;
};
[[nodiscard]] Result<std::vector<SharedMapping>> shared_mappings(pid_t pid);

// Through what a process can write to memfds without mapping them.
struct OpenMemfds {
  std::vector<SpaceId> open;
  bool on_the_way = false;  // one of its sockets holds descriptors that nobody has received yet
};
[[nodiscard]] OpenMemfds open_memfds(pid_t pid);

// ESRCH when it is not there any more.
[[nodiscard]] Result<Fd> open_shared_object(const std::string& path, int flags);
// The one that process `pid` has open as `fd` or, with -1, mapped at `address`.
[[nodiscard]] Result<Fd> open_shared_object(int pid, int fd, uint64_t address, int flags);
// Pages that have contents.
[[nodiscard]] Result<PageSet> shared_object_pages(int object);

}  // namespace mose
