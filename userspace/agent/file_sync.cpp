// SPDX-License-Identifier: MIT
#include "agent/file_sync.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <set>
#include <sstream>

#include "agent/durable_file.h"
#include "agent/unsynced.h"
#include "base/fd.h"
#include "base/xxh3.h"

namespace mose::agent {
namespace {

namespace fs = std::filesystem;

constexpr size_t kReadChunk = 256 << 10;
constexpr size_t kCompareChunk = 64 << 10;

Result<FileIdentity> identify(int fd, std::string path) {
  struct stat info {};
  if (fstat(fd, &info) < 0) return fail_errno("stat " + path);
  FileIdentity identity{std::move(path), static_cast<uint64_t>(info.st_size), {}};
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  XXH3_128bits_reset(state.get());
  std::string buffer(kReadChunk, '\0');
  for (off_t at = 0;;) {
    ssize_t n = pread(fd, buffer.data(), buffer.size(), at);
    if (n < 0) return fail_errno("read " + identity.path);
    if (n == 0) break;
    XXH3_128bits_update(state.get(), buffer.data(), static_cast<size_t>(n));
    at += n;
  }
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state.get()));
  identity.digest.assign(reinterpret_cast<const char*>(canonical.digest), sizeof canonical.digest);
  return identity;
}

bool below(const std::string& path, const std::string& directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) && (path.size() == directory.size() || path[directory.size()] == '/');
}

// The declared mount that `path` (in the workload) lies on; null: its root.
const WorkloadMount* mount_of(const WorkloadSpec& spec, const std::string& path) {
  const WorkloadMount* best = nullptr;
  for (const WorkloadMount& mount : spec.mounts) {
    if (below(path, mount.target) && (!best || mount.target.size() > best->target.size())) best = &mount;
  }
  return best;
}

// Paths of mapped files, as the workload names them.
Result<std::set<std::string>> used_files(const ProcessHandle& process) {
  std::set<std::string> paths;
  std::string base = "/proc/" + std::to_string(process.pid());
  auto maps = read_file(base + "/maps");
  if (!maps && !process.alive()) return paths;  // it has ended since it was listed
  if (!maps) return std::unexpected(std::move(maps.error()));
  std::istringstream lines(*maps);
  for (std::string line; std::getline(lines, line);) {
    size_t at = line.find('/');
    if (at != std::string::npos && !line.ends_with(" (deleted)")) paths.insert(line.substr(at));
  }
  std::error_code error;
  for (fs::directory_iterator it(base + "/fd", error), end; !error && it != end; it.increment(error)) {
    struct stat info {};
    if (stat(it->path().c_str(), &info) < 0 || !S_ISREG(info.st_mode)) continue;
    std::error_code closed;  // it has been, since
    std::string target = fs::read_symlink(it->path(), closed);
    if (target.starts_with("/") && !target.ends_with(" (deleted)")) paths.insert(target);
  }
  if (error && process.alive()) return fail_errno("read directory " + base + "/fd", error.value());
  return paths;
}

// Where `path` of the workload lies on this node.
std::string path_on_node(const WorkloadSpec& spec, const std::string& path) {
  if (const WorkloadMount* mount = mount_of(spec, path)) return mount->source + path.substr(mount->target.size());
  return spec.root == "/" ? path : spec.root + path;
}

std::string copy_root(const WorkloadSpec& spec, const std::string& log_dir, uint32_t mount) {
  if (mount == kLogMount) return log_dir;
  return mount < spec.mounts.size() ? spec.mounts[mount].source : std::string();
}

Status read_tree(const std::string& root, uint32_t mount, std::vector<CopiedFile>& out, uint64_t& bytes) {
  std::error_code error;
  fs::recursive_directory_iterator it(root, error), end;
  if (error) return fail_errno("read directory " + root, error.value());
  for (; it != end; it.increment(error)) {
    const std::string path = it->path();
    struct stat info {};
    if (lstat(path.c_str(), &info) < 0) return fail_errno("stat " + path);
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
      return fail(path + " is neither a regular file nor a directory: a copied mount may hold only these");
    }
    CopiedFile file{mount, path.substr(root.size() + 1), info.st_mode & 07777u, info.st_uid, info.st_gid,
                    S_ISDIR(info.st_mode), {}};
    if (!file.directory) {
      bytes += static_cast<uint64_t>(info.st_size);
      if (bytes > kCopiedBytesMax) {
        return fail(fmt::format("copied mounts hold more than {} MiB: declare {} shared or identical",
                                kCopiedBytesMax >> 20, root));
      }
      MOSE_ASSIGN(file.contents, read_file(path, kCopiedBytesMax));
    }
    out.push_back(std::move(file));
    if (out.size() > kCopiedFilesMax) return fail(fmt::format("{} holds more than {} files", root, kCopiedFilesMax));
  }
  // One that cannot go on is at its end as well, and the destination removes what is not in the list.
  if (error) return fail_errno("read directory " + root, error.value());
  return {};
}

bool clean_relative(const std::string& path) {
  if (path.empty() || path.front() == '/' || path.find('\0') != std::string::npos) return false;
  for (const fs::path& part : fs::path(path)) {
    if (part == ".." || part == "." || part.empty()) return false;
  }
  return true;
}

// The directory that holds `path`, reached from `root` without following any link.
Result<Fd> open_parent(int root, const std::string& path, std::string& leaf) {
  MOSE_ASSIGN(Fd at, duplicate(root));
  fs::path parts(path);
  leaf = parts.filename();
  for (const fs::path& part : parts.parent_path()) {
    MOSE_ASSIGN(at, open_at(at.get(), part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  }
  return at;
}

Status write_at(int fd, std::string_view bytes, uint64_t at, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t n = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail_errno("write " + path, n < 0 ? errno : EIO);
    at += static_cast<uint64_t>(n);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

// In place: a file that is cut off takes the pages behind its end from everybody who has mapped it, also the private ones that
// were written and that no image would bring back.
Status write_differences(int parent, const std::string& leaf, const CopiedFile& file, int present, uint64_t size,
                         CopyTarget target, Unsynced& unsynced) {
  if (size > file.contents.size() && target == CopyTarget::standby) {
    return fail(file.path + " has become shorter since the standby was made");
  }
  Fd out;
  auto writable = [&]() -> Status {
    if (out) return {};
    MOSE_ASSIGN(out, open_at(parent, leaf, O_WRONLY | O_NOFOLLOW));
    unsynced.add(out.get());
    return {};
  };
  std::string buffer(kCompareChunk, '\0');
  const std::string_view contents(file.contents);
  for (size_t at = 0; at < contents.size(); at += kCompareChunk) {
    std::string_view wanted = contents.substr(at, kCompareChunk);
    ssize_t n = pread(present, buffer.data(), wanted.size(), static_cast<off_t>(at));
    if (n < 0) return fail_errno("read " + file.path);
    if (std::string_view(buffer).substr(0, static_cast<size_t>(n)) == wanted) continue;
    MOSE_TRY(writable());
    MOSE_TRY(write_at(out.get(), wanted, at, file.path));
  }
  if (size <= contents.size()) return {};
  MOSE_TRY(writable());
  if (ftruncate(out.get(), static_cast<off_t>(contents.size())) < 0) return fail_errno("cut off " + file.path);
  return {};
}

Status set_owner(int fd, const CopiedFile& file, Unsynced& unsynced) {
  struct stat info {};
  if (fstat(fd, &info) < 0) return fail_errno("stat " + file.path);
  if (info.st_uid == file.uid && info.st_gid == file.gid && (info.st_mode & 07777u) == file.mode) return {};
  if (fchown(fd, file.uid, file.gid) < 0 || fchmod(fd, file.mode) < 0) return fail_errno("set owner of " + file.path);
  unsynced.add(fd);
  return {};
}

Status write_one(int root, const CopiedFile& file, CopyTarget target, Unsynced& unsynced) {
  std::string leaf;
  MOSE_ASSIGN(Fd parent, open_parent(root, file.path, leaf));
  if (file.directory) {
    const bool made = mkdirat(parent.get(), leaf.c_str(), 0700) == 0;
    if (!made && errno != EEXIST) return fail_errno("make directory " + file.path);
    if (made) unsynced.add(parent.get());
    MOSE_ASSIGN(Fd dir, open_at(parent.get(), leaf, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    return set_owner(dir.get(), file, unsynced);
  }
  // For reading first: a program that runs cannot be opened for writing, and need not be when it is the same.
  auto present = open_at(parent.get(), leaf, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  if (!present && present.error().code == ENOENT) {
    present = open_at(parent.get(), leaf, O_RDONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0600);
    unsynced.add(parent.get());
  }
  if (!present) return std::unexpected(present.error());
  struct stat info {};
  if (fstat(present->get(), &info) < 0) return fail_errno("stat " + file.path);
  if (!S_ISREG(info.st_mode)) return fail(file.path + " is no regular file here");
  MOSE_TRY(write_differences(parent.get(), leaf, file, present->get(), static_cast<uint64_t>(info.st_size), target, unsynced));
  return set_owner(present->get(), file, unsynced);
}

// Removes what is not in `wanted`, deepest first.
Status remove_others(const std::string& root, const std::set<std::string>& wanted, Unsynced& unsynced) {
  std::vector<std::string> doomed;
  std::error_code error;
  for (fs::recursive_directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    std::string relative = it->path().string().substr(root.size() + 1);
    if (!wanted.contains(relative)) doomed.push_back(it->path());
  }
  if (error) return fail_errno("read directory " + root, error.value());
  for (auto path = doomed.rbegin(); path != doomed.rend(); ++path) {
    fs::remove(*path, error);
    if (error) return fail_errno("remove " + *path, error.value());
    MOSE_ASSIGN(Fd parent, open_file(fs::path(*path).parent_path(), O_RDONLY | O_DIRECTORY));
    unsynced.add(parent.get());
  }
  return {};
}

Status sync_tree(const std::string& root, int dir) {
  Unsynced unsynced;
  unsynced.add(dir);
  std::error_code error;
  for (fs::recursive_directory_iterator it(root, error), end; !error && it != end && !unsynced.all(); it.increment(error)) {
    std::error_code gone;
    if (it->is_symlink(gone) || !(it->is_regular_file(gone) || it->is_directory(gone))) continue;
    auto one = open_file(it->path(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (!one && (one.error().code == ENOENT || one.error().code == ELOOP)) continue;  // it has gone meanwhile
    if (!one) return std::unexpected(one.error());
    unsynced.add(one->get());
  }
  if (error) return fail_errno("read directory " + root, error.value());
  return unsynced.sync(dir);
}

Status write_mount(const std::string& root, int dir, uint32_t mount, const std::set<std::string>& names, const std::vector<CopiedFile>& files,
                   CopyTarget target, Unsynced& unsynced) {
  MOSE_TRY(remove_others(root, names, unsynced));
  for (const CopiedFile& file : files)
    if (file.mount == mount) MOSE_TRY(write_one(dir, file, target, unsynced));
  return {};
}

}  // namespace

Result<std::vector<FileIdentity>> identify_files(const WorkloadSpec& spec, const ProcessHandle& init) {
  MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(init));
  std::map<std::string, FileIdentity> found;
  for (const ProcessHandle& process : tree) {
    MOSE_ASSIGN(std::set<std::string> paths, used_files(process));
    for (const std::string& path : paths) {
      const WorkloadMount* mount = mount_of(spec, path);
      if (found.contains(path) || (mount && mount->mode != MountMode::identical)) continue;
      if (below(path, "/var/log/mose-workload") || below(path, "/dev")) continue;
      // Its own on each node, and not of files: Redis, for one, reads its own numbers there ten times a second.
      if (below(path, "/proc")) continue;
      auto fd = open_file("/proc/" + std::to_string(process.pid()) + "/root" + path, O_RDONLY);
      if (!fd) continue;  // shared memory and the like: preflight names what cannot be moved
      MOSE_ASSIGN(FileIdentity identity, identify(fd->get(), path));
      found.emplace(path, std::move(identity));
      if (found.size() > kIdentitiesMax) return fail(fmt::format("more than {} files are in use", kIdentitiesMax));
    }
  }
  std::vector<FileIdentity> out;
  out.reserve(found.size());
  for (auto& [path, identity] : found) out.push_back(std::move(identity));
  return out;
}

std::vector<std::string> compare_files(const WorkloadSpec& spec, const std::vector<FileIdentity>& identities) {
  std::vector<std::string> reasons;
  for (const FileIdentity& wanted : identities) {
    std::string path = path_on_node(spec, wanted.path);
    auto fd = open_file(path, O_RDONLY);
    if (!fd) {
      reasons.push_back(fmt::format("{} is used by the workload and cannot be opened here ({}): install the same version on both nodes",
                                    path, fd.error().what));
      continue;
    }
    auto identity = identify(fd->get(), wanted.path);
    if (!identity) {
      reasons.push_back(identity.error().what);
    } else if (!(*identity == wanted)) {
      reasons.push_back(fmt::format("{} differs from the source's ({} bytes here, {} there): install the same version on both nodes",
                                    path, identity->size, wanted.size));
    }
  }
  return reasons;
}

Result<std::vector<CopiedFile>> read_copied(const WorkloadSpec& spec, const std::string& log_dir) {
  std::vector<CopiedFile> files;
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < spec.mounts.size(); ++i) {
    if (spec.mounts[i].mode == MountMode::copy) MOSE_TRY(read_tree(spec.mounts[i].source, i, files, bytes));
  }
  if (!log_dir.empty()) MOSE_TRY(read_tree(log_dir, kLogMount, files, bytes));
  return files;
}

Status sync_copied(const WorkloadSpec& spec) {
  for (const WorkloadMount& mount : spec.mounts) {
    if (mount.mode != MountMode::copy) continue;
    auto root = open_file(mount.source, O_RDONLY | O_DIRECTORY);
    if (!root && root.error().code == ENOENT) continue;
    if (!root) return std::unexpected(root.error());
    if (auto synced = sync_tree(mount.source, root->get()); !synced) return context(mount.source, synced.error());
  }
  return {};
}

Status write_copied(const WorkloadSpec& spec, const std::string& log_dir, const std::vector<CopiedFile>& files,
                    CopyTarget target) {
  std::map<uint32_t, std::set<std::string>> wanted;
  for (uint32_t i = 0; i < spec.mounts.size(); ++i) {
    if (spec.mounts[i].mode == MountMode::copy) wanted[i];
  }
  if (!log_dir.empty()) wanted[kLogMount];
  for (const CopiedFile& file : files) {
    if (!wanted.contains(file.mount) || !clean_relative(file.path)) {
      return fail(fmt::format("the source sent a file outside of the copied mounts: \"{}\"", file.path));
    }
    wanted[file.mount].insert(file.path);
  }
  for (const auto& [mount, names] : wanted) {
    const std::string root = copy_root(spec, log_dir, mount);
    std::error_code error;
    const bool made = fs::create_directories(root, error);
    if (error) return fail_errno("make directory " + root, error.value());
    MOSE_ASSIGN(Fd dir, open_file(root, O_RDONLY | O_DIRECTORY));
    Unsynced unsynced;
    if (made) unsynced.add_all();
    const Status written = write_mount(root, dir.get(), mount, names, files, target, unsynced);
    // Also where that has failed: what is the same the next time is not written again.
    const Status synced = mount == kLogMount ? Status{} : unsynced.sync(dir.get());
    if (!written) return context(root, written.error());
    if (!synced) return context(root, synced.error());
  }
  return {};
}

bool copied_here(const std::string& state_dir, const std::string& source) {
  std::istringstream lines(read_file(state_dir + "/copied").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    if (line == source) return true;
  }
  return false;
}

Status mark_copied(const std::string& state_dir, const WorkloadSpec& spec) {
  for (const WorkloadMount& mount : spec.mounts) {
    if (mount.mode != MountMode::copy || copied_here(state_dir, mount.source)) continue;
    std::error_code error;
    fs::create_directories(state_dir, error);
    MOSE_ASSIGN(Fd file, open_file(state_dir + "/copied", O_WRONLY | O_APPEND | O_CREAT, 0600));
    MOSE_TRY(write_all(file.get(), mount.source + "\n"));
  }
  return {};
}

Status forget_copied(const std::string& state_dir) {
  if (unlink((state_dir + "/copied").c_str()) < 0) {
    if (errno == ENOENT) return {};
    return fail_errno("remove " + state_dir + "/copied");
  }
  return sync_directory(state_dir);
}

}  // namespace mose::agent
