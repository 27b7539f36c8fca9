// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "kernel/shared_objects.h"
#include "model/page_provider.h"
#include "model/page_set.h"

namespace mose::restore {

// Memory that the workload's processes share without a file. CRIU makes each such object anew, with nothing in it (the
// dump saw none of its pages), and no userfaultfd covers it. So its pages travel like all others, in a space of their
// own, and are written into the object while the restored tree is frozen: into a standby what has come, the final rest
// at the switchover; else everything before the first thaw.
//
// CRIU makes a System V segment anew for the whole namespace and knows nothing of its removal: that is told anew here.
//
// Where the objects are is an image of ours beside CRIU's: a standby whose list has changed is restored anew.
inline constexpr const char* kSharedImage = "mose-shared.img";

struct SharedPlace {
  SpaceId space = 0;   // of the pages
  uint64_t size = 0;   // bytes
  SpaceId holder = 0;  // a process that has it
  int fd = -1;         // its descriptor; -1: mapped at
  uint64_t address = 0;
  int removed_segment = -1;  // its id, where it is a System V segment that goes with its last mapping
  bool operator==(const SharedPlace&) const = default;
};
[[nodiscard]] std::string format_shared_places(std::span<const SharedObject> objects);
[[nodiscard]] Result<std::vector<SharedPlace>> parse_shared_places(std::string_view text);
// Writes the image into `dir`; none where nothing is shared.
[[nodiscard]] Status write_shared_image(int dir, std::span<const SharedObject> objects);

// CRIU restores segments, not that they go with their last mapping: marks them so in the frozen tree, whose processes `pid_of` finds.
// Entering their namespace takes CAP_SYS_ADMIN, which the pager does not have: for mosed. Without an image in `dir` there are none.
[[nodiscard]] Status mark_removed_segments(int dir, const std::function<Result<int>(SpaceId)>& pid_of);

// The objects of one restored tree. One thread.
class SharedMemory {
 public:
  // `pid_of` finds a process of the tree, frozen. Without an image in the directory there are no objects.
  [[nodiscard]] static Result<SharedMemory> open(const std::string& images_dir,
                                                 const std::function<Result<int>(SpaceId)>& pid_of);
  // Before the seal: writes what the provider has and has not been staged, until `go_on` says no.
  [[nodiscard]] Status stage(PageProvider& provider, const std::function<bool()>& go_on);
  // After it: true once every object holds what the final map says. What is still at the source is asked for.
  [[nodiscard]] Result<bool> finish(PageProvider& provider);

 private:
  struct Object {
    SpaceId space;
    uint64_t size;
    Fd file;
    PageSet staged;  // by us
    bool planned = false;
    PageSet left;  // final pages that are not in yet
  };
  [[nodiscard]] static Status write(const Object& object, uint64_t page, std::span<const std::byte> bytes);
  [[nodiscard]] static Status plan(Object& object, PageProvider& provider);
  std::vector<Object> objects_;
};

}  // namespace mose::restore
