// SPDX-License-Identifier: MIT
#include "agent/root_devices.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <vector>

#include "kernel/rooted.h"

namespace mose::agent {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDevices = "/dev";
constexpr size_t kLooksMax = 65536;  // a /dev of a running system has some hundreds of entries
constexpr size_t kNamed = 3;
constexpr unsigned kMemory = 1, kTerminals = 5, kMiscellaneous = 10, kPtsFirst = 136, kPtsLast = 143;
constexpr unsigned kTun = 200;  // a device of it lies in the workload's network

// null, zero, full, random, urandom; tty, console, ptmx; net/tun; terminals of a devpts.
bool is_harmless(const struct stat& info) {
  if (!S_ISCHR(info.st_mode)) return false;
  const unsigned kind = major(info.st_rdev), number = minor(info.st_rdev);
  switch (kind) {
    case kMemory: return number == 3 || number == 5 || (number >= 7 && number <= 9);
    case kTerminals: return number <= 2;
    case kMiscellaneous: return number == kTun;
    default: return kind >= kPtsFirst && kind <= kPtsLast;
  }
}

struct Found {
  std::vector<std::string> names;
  size_t looks = 0;
};

// `shown`: its name in the workload.
void judge(const struct stat& info, const std::string& shown, Found& found) {
  if ((!S_ISBLK(info.st_mode) && !S_ISCHR(info.st_mode)) || is_harmless(info)) return;
  const char* kind = S_ISBLK(info.st_mode) ? "block" : "character";
  found.names.push_back(fmt::format("{} ({} {}:{})", shown, kind, major(info.st_rdev), minor(info.st_rdev)));
}

// Of one mount alone; `inside` need not be there.
Status look_into(const std::string& place, const std::string& inside, const std::string& shown, Found& found) {
  MOSE_ASSIGN(Fd mount, mount_alone(place));
  struct stat info;
  if (::fstat(mount.get(), &info) != 0) return fail_errno("look at " + place);
  if (!S_ISDIR(info.st_mode)) {
    judge(info, shown, found);
    return {};
  }
  auto directory = open_in_root("/proc/self/fd/" + std::to_string(mount.get()), inside, O_PATH | O_DIRECTORY);
  if (!directory) return {};
  const std::string top = "/proc/self/fd/" + std::to_string(directory->get()) + "/";
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(top, error); !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (++found.looks > kLooksMax) return fail(fmt::format("{} has more than {} entries: device nodes cannot be looked for", shown, kLooksMax));
    if (::lstat(it->path().c_str(), &info) == 0) judge(info, shown + "/" + it->path().string().substr(top.size()), found);
  }
  if (error) return fail_errno("look for device nodes in " + place, error.value());
  return {};
}

bool is_of_devices(const std::string& path) { return path == kDevices || path.starts_with(std::string(kDevices) + "/"); }

}  // namespace

Result<std::string> devices_of_the_node(const WorkloadSpec& spec) {
  Found found;
  MOSE_TRY(look_into(spec.root, kDevices, kDevices, found));
  for (const WorkloadMount& mount : spec.mounts) {
    if (is_of_devices(mount.source) || is_of_devices(mount.target)) MOSE_TRY(look_into(mount.source, "/", mount.target, found));
  }
  std::string out;
  for (size_t i = 0; i < found.names.size(); ++i) {
    if (i == kNamed) return out + fmt::format(" and {} more", found.names.size() - kNamed);
    out += (i == 0 ? "" : ", ") + found.names[i];
  }
  return out;
}

}  // namespace mose::agent
