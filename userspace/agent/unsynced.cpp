// SPDX-License-Identifier: MIT
#include "agent/unsynced.h"

#include <sys/stat.h>
#include <unistd.h>

namespace mose::agent {

void Unsynced::add(int changed) {
  if (more_) return;
  struct stat info {};
  if (::fstat(changed, &info) == 0 && std::exchange(last_, std::pair(info.st_dev, info.st_ino)) == std::pair(info.st_dev, info.st_ino)) return;
  auto own = duplicate(changed);
  more_ = !own || changed_.size() == kOneByOneMax;
  if (!more_) changed_.push_back(std::move(*own));
}

Status Unsynced::sync(int root) {
  const std::vector<Fd> changed = std::exchange(changed_, {});
  last_ = {};
  if (std::exchange(more_, false)) {
    if (syncfs(root) < 0) return fail_errno("sync the file system");
    return {};
  }
  // All of them: what is the same the next time is not written, nor named, again.
  Status synced;
  for (const Fd& one : changed) {
    if (fsync(one.get()) < 0 && synced) synced = fail_errno("sync");
  }
  return synced;
}

}  // namespace mose::agent
