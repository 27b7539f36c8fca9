// SPDX-License-Identifier: MIT
#include "kernel/shared_objects.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <map>
#include <memory>
#include <string_view>

#include "base/directory.h"
#include "kernel/procfs.h"

namespace mose {
namespace {

// The device of all such objects: the kernel's own mount.
Result<dev_t> shared_device() {
  static const dev_t device = [] {
    Fd fd(memfd_create("mose-probe", MFD_CLOEXEC));
    struct stat st{};
    return fd && fstat(fd.get(), &st) == 0 ? st.st_dev : dev_t{0};
  }();
  if (device == 0) return fail("no memfd can be made here");
  return device;
}

// What CRIU puts into a process that it dumps comes and goes while we look, and is none of the process's memory.
constexpr std::string_view kOfCriu = "/memfd:CRIUMFD";

bool is_memfd(std::string_view name) {
  return name.starts_with("/memfd:") && !name.starts_with(kOfCriu);
}

bool is_segment(std::string_view name) {
  return name.starts_with("/SYSV");
}
bool may_be_object(std::string_view name) {
  return is_memfd(name) || is_segment(name) || name.starts_with("/dev/zero");
}

// A segment's inode number is its id: segments and other objects are numbered apart.
constexpr SpaceId kSegments = 0x40000000u;
SpaceId shared_space(bool segment, uint64_t inode) {
  return kSharedSpaces | (segment ? kSegments : 0) | static_cast<SpaceId>(inode & (kSegments - 1));
}

std::string map_path(int pid, const Vma& vma) {
  return fmt::format("/proc/{}/map_files/{:x}-{:x}", pid, vma.pages.first * kPageSize, vma.pages.end() * kPageSize);
}

std::string plain_name(std::string_view name) {
  constexpr std::string_view kDeleted = " (deleted)";
  if (name.ends_with(kDeleted)) name.remove_suffix(kDeleted.size());
  return std::string(name);
}

// Calls visit(number, where it leads) for each descriptor of a process; for none where it has ended.
template <typename Visit>
void for_each_descriptor(int pid, Visit visit) {
  Directory dir = open_directory(fmt::format("/proc/{}/fd", pid));
  while (const dirent* entry = dir ? readdir(dir.get()) : nullptr) {
    char target[64];
    ssize_t length = readlinkat(dirfd(dir.get()), entry->d_name, target, sizeof target);
    if (length > 0) visit(std::string_view(entry->d_name), std::string_view(target, static_cast<size_t>(length)));
  }
}

class Search {
 public:
  explicit Search(dev_t device) : device_(device) {}

  Status look_at(const SpaceProcess& process) {
    auto vmas = read_vmas(process.pid);
    if (!vmas) return vmas.error().code == ESRCH ? Status{} : Status(std::unexpected(vmas.error()));
    for (const Vma& vma : *vmas) {
      if (!may_be_object(vma.name) || found_.contains({is_segment(vma.name), vma.inode})) continue;
      SharedObject object;
      object.address = vma.pages.first * kPageSize;
      object.name = plain_name(vma.name);
      MOSE_TRY(add(process, map_path(process.pid, vma), std::move(object)));
    }
    return look_at_descriptors(process);
  }

  std::vector<SharedObject> take() {
    std::vector<SharedObject> out;
    out.reserve(found_.size());
    for (auto& [key, object] : found_) out.push_back(std::move(object));
    std::ranges::sort(out, {}, &SharedObject::space);
    return out;
  }

 private:
  Status look_at_descriptors(const SpaceProcess& process) {
    Status added;
    for_each_descriptor(process.pid, [&](std::string_view number, std::string_view name) {
      if (!added || !is_memfd(name)) return;
      SharedObject object;
      std::from_chars(number.data(), number.data() + number.size(), object.fd);
      object.name = plain_name(name);
      added = add(process, fmt::format("/proc/{}/fd/{}", process.pid, number), std::move(object));
    });
    return added;
  }

  Status add(const SpaceProcess& process, std::string path, SharedObject object) {
    auto file = open_shared_object(path, O_RDONLY);
    if (!file) return file.error().code == ESRCH ? Status{} : Status(std::unexpected(file.error()));
    struct stat st{};
    if (fstat(file->get(), &st) != 0) return fail_errno("look at " + path);
    const bool segment = is_segment(object.name);
    if (st.st_dev != device_ || st.st_nlink != 0 || found_.contains({segment, st.st_ino})) return {};
    if (found_.size() == kSharedObjectsMax)
      return fail(fmt::format("more than {} objects of shared memory", kSharedObjectsMax));
    object.inode = st.st_ino;
    object.space = shared_space(segment, st.st_ino);
    if (segment) object.system_v = static_cast<int>(st.st_ino);
    object.size = static_cast<uint64_t>(st.st_size);
    object.resident = static_cast<uint64_t>(st.st_blocks) * 512;
    object.seals = std::max(fcntl(file->get(), F_GET_SEALS), 0);
    object.holder = process;
    object.holder.space = process.space;
    object.holder.object = std::move(path);
    for (const auto& [key, other] : found_) {
      if (other.space == object.space) return fail("two objects of shared memory have the same number");
    }
    found_.emplace(std::pair{segment, object.inode}, std::move(object));
    return {};
  }

  dev_t device_;
  std::map<std::pair<bool, uint64_t>, SharedObject> found_;  // by whether it is a segment, and inode
};

}  // namespace

Result<std::vector<SharedObject>> shared_objects(std::span<const SpaceProcess> processes) {
  MOSE_ASSIGN(dev_t device, shared_device());
  Search search(device);
  for (const SpaceProcess& process : processes) MOSE_TRY(search.look_at(process));
  return search.take();
}

Result<std::vector<SpaceProcess>> with_shared_objects(std::vector<SpaceProcess> processes) {
  MOSE_ASSIGN(std::vector<SharedObject> objects, shared_objects(processes));
  for (SharedObject& object : objects) {
    processes.push_back(std::move(object.holder));
    processes.back().space = object.space;
  }
  return processes;
}

namespace {

// The part of `set` that lies in `count` pages from `from` on, counted from `to` instead.
PageSet moved(const PageSet& set, uint64_t from, uint64_t count, uint64_t to) {
  PageSet out;
  const PageSet part = set.intersect(PageSet::from_runs({{from, count}}));
  for (const PageRun& run : part.runs()) out.add({run.first - from + to, run.count});
  return out;
}

}  // namespace

PageSet SharedMapping::to_process(const PageSet& object_pages) const { return moved(object_pages, first, pages.count, pages.first); }
PageSet SharedMapping::to_object(const PageSet& process_pages) const { return moved(process_pages, pages.first, pages.count, first); }

Result<std::vector<SharedMapping>> shared_mappings(pid_t pid) {
  using Kind = SharedMapping::Kind;
  MOSE_ASSIGN(std::vector<Vma> vmas, read_vmas(pid));
  std::vector<SharedMapping> out;
  for (const Vma& vma : vmas) {
    if (vma.kind != VmaKind::shared || !may_be_object(vma.name)) continue;
    const bool segment = is_segment(vma.name);
    const Kind kind = segment ? Kind::segment : is_memfd(vma.name) ? Kind::memfd : Kind::anonymous;
    out.push_back({shared_space(segment, vma.inode), kind, vma.write, vma.pages, vma.file_offset / kPageSize});
  }
  return out;
}

namespace {

// A socket tells how many descriptors wait in it.
bool holds_descriptors(int pid, std::string_view number) {
  auto text = read_file(fmt::format("/proc/{}/fdinfo/{}", pid, number));
  if (!text) return false;
  constexpr std::string_view kField = "scm_fds:";
  const size_t at = text->find(kField);
  if (at == std::string::npos) return false;
  const size_t digit = text->find_first_of("0123456789\n", at + kField.size());
  return digit != std::string::npos && (*text)[digit] > '0';
}

}  // namespace

OpenMemfds open_memfds(pid_t pid) {
  OpenMemfds out;
  for_each_descriptor(pid, [&](std::string_view number, std::string_view name) {
    struct stat st{};
    if (name.starts_with("socket:")) {
      out.on_the_way |= holds_descriptors(pid, number);
    } else if (name.starts_with("/memfd:") && stat(fmt::format("/proc/{}/fd/{}", pid, number).c_str(), &st) == 0) {
      out.open.push_back(shared_space(false, st.st_ino));
    }
  });
  return out;
}

Result<Fd> open_shared_object(const std::string& path, int flags) {
  auto file = open_file(path, flags);
  if (file || file.error().code != ENOENT) return file;
  Error error = std::move(file.error());
  error.code = ESRCH;
  return std::unexpected(std::move(error));
}

Result<Fd> open_shared_object(int pid, int fd, uint64_t address, int flags) {
  MOSE_ASSIGN(dev_t device, shared_device());
  std::string path = fmt::format("/proc/{}/fd/{}", pid, fd);
  if (fd < 0) {
    MOSE_ASSIGN(std::vector<Vma> vmas, read_vmas(pid));
    auto vma = std::ranges::find_if(vmas, [&](const Vma& one) {
      return address / kPageSize >= one.pages.first && address / kPageSize < one.pages.end();
    });
    if (vma == vmas.end()) return fail(fmt::format("process {} has nothing mapped at {:#x}", pid, address));
    path = map_path(pid, *vma);
  }
  MOSE_ASSIGN(Fd file, open_shared_object(path, flags));
  struct stat st{};
  if (fstat(file.get(), &st) != 0) return fail_errno("look at " + path);
  if (st.st_dev != device || st.st_nlink != 0) return fail(path + " is no shared memory");
  return file;
}

Result<PageSet> shared_object_pages(int object) {
  PageSet pages;
  off_t at = 0;
  for (;;) {
    off_t data = lseek(object, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return pages;
    if (data < 0) return fail_errno("find the pages of shared memory");
    off_t hole = lseek(object, data, SEEK_HOLE);
    if (hole < 0 && errno == ENXIO) return pages;  // it has become shorter
    if (hole < 0) return fail_errno("find the pages of shared memory");
    uint64_t first = static_cast<uint64_t>(data) / kPageSize;
    pages.add({first, (static_cast<uint64_t>(hole) + kPageSize - 1) / kPageSize - first});
    at = hole;
  }
}

}  // namespace mose
