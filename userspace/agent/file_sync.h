// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "kernel/process.h"
#include "model/workload.h"

// MOSE moves memory, not disks: what of a workload's files must already be the same at the destination, and what the
// agents bring along.
namespace mose::agent {

// A file that the workload has open or mapped on a mount that is declared identical (its root is). `path` is the path
// inside the workload.
struct FileIdentity {
  std::string path;
  uint64_t size = 0;
  std::string digest;  // XXH3-128 of the contents, 16 bytes

  bool operator==(const FileIdentity&) const = default;
};
inline constexpr size_t kIdentitiesMax = 4096;

// Every mapped or open regular file of the tree that lies on an identical mount, each once, sorted by path. Files on
// shared and copied mounts are left out.
[[nodiscard]] Result<std::vector<FileIdentity>> identify_files(const WorkloadSpec& spec, const ProcessHandle& init);
// Compares with this node's files; one sentence for each that differs or is missing.
[[nodiscard]] std::vector<std::string> compare_files(const WorkloadSpec& spec,
                                                     const std::vector<FileIdentity>& identities);

// One entry of a mount that is declared `copy`. `path` is relative to the mount.
struct CopiedFile {
  uint32_t mount = 0;  // index into WorkloadSpec::mounts; kLogMount: the workload's log directory
  std::string path;
  uint32_t mode = 0, uid = 0, gid = 0;
  bool directory = false;
  std::string contents;
};
inline constexpr uint32_t kLogMount = 0xffffffff;
inline constexpr uint64_t kCopiedBytesMax = 64ull << 20;  // travels while frozen: more is refused in preflight
inline constexpr size_t kCopiedFilesMax = 16384;

// Reads all `copy` mounts and the log directory. Fails when they hold more than the bounds, or something that is neither
// a regular file nor a directory.
[[nodiscard]] Result<std::vector<CopiedFile>> read_copied(const WorkloadSpec& spec, const std::string& log_dir);
// Who has the destination's copy open or mapped while it is written.
enum class CopyTarget : uint8_t {
  nobody,
  standby,  // a tree whose private pages must stay: a file that has become shorter is an error, before it is touched
};
// What lies on this node's copies of the `copy` mounts is on the disk afterwards. Who has written it need not have synced it: an agent
// that died before it did, the workload when it was here. Long before the switchover, because a disk takes its time.
[[nodiscard]] Status sync_copied(const WorkloadSpec& spec);
// Makes the destination's copy equal: writes what differs, in place, and removes what the source does not have. Paths are
// checked: nothing outside the mounts is touched, no symbolic link is followed. A mount is on the disk afterwards as it is, when
// sync_copied() has been called before: the workload may have been told that it is, at the source. That is not so of the log directory.
[[nodiscard]] Status write_copied(const WorkloadSpec& spec, const std::string& log_dir,
                                  const std::vector<CopiedFile>& files, CopyTarget target = CopyTarget::nobody);

// Which directories of this node hold a copy that is the workload's: kept in <state_dir>/copied. Only such a one is
// overwritten by an arrival.
[[nodiscard]] bool copied_here(const std::string& state_dir, const std::string& source);
[[nodiscard]] Status mark_copied(const std::string& state_dir, const WorkloadSpec& spec);
// They are nobody's copy any more: the next arrival finds files that are not its own. Durable; no mark is fine.
[[nodiscard]] Status forget_copied(const std::string& state_dir);

}  // namespace mose::agent
