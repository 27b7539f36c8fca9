// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "kernel/process.h"
#include "model/page_set.h"

namespace mose::restore {

// CRIU's images of one dump: what of them the agent reads, what it adds, and how they travel. A metadata-only dump has
// no memory in it: the page maps written here carry the pages that CRIU must find at once; all others come lazily.
// Everything read is treated as possibly damaged: it may come from the network.

// One mapping of a dumped process.
struct ImageVma {
  uint64_t start = 0, end = 0;  // addresses
  uint32_t protection = 0, flags = 0, status = 0;
  uint64_t shared_id = 0;       // shared memory: names the segment

  // CRIU registers it with the userfaultfd when restoring lazily: private anonymous, not locked, no huge pages of
  // hugetlbfs, no vdso or vvar.
  [[nodiscard]] bool lazy() const;
  [[nodiscard]] bool vdso() const;
  // Its contents never travel (vvar, vsyscall).
  [[nodiscard]] bool kernel_owned() const;
  // Private, so that its pages belong to a page map of the process (lazy or not).
  [[nodiscard]] bool is_private() const;
  // Anonymous shared memory, memfd or SysV: restored from an image of its own.
  [[nodiscard]] bool anonymous_shared() const;
};

struct ImageProcess {
  SpaceId space = 0;            // virtual pid
  uint32_t parent = 0;
  std::vector<uint32_t> threads;
  bool zombie = false;          // no mm image
  std::vector<ImageVma> vmas;   // ascending
};
// All processes of the dump in `dir`, in the order of pstree.img.
[[nodiscard]] Result<std::vector<ImageProcess>> read_processes(int dir);
// Pages of the mappings that can be lazy / that are private but must be present.
[[nodiscard]] PageSet lazy_area(const ImageProcess& process);
[[nodiscard]] PageSet eager_area(const ImageProcess& process);

struct ImageFile {
  std::string name;
  std::string bytes;
};
// pagemap-SPACE.img and its pages image, to stand instead of those in `dir`: of the pages `present` those that lie in private
// mappings and have contents of their own (a scan finds out), plus the vdso, contents read now from the frozen process.
// eager_area(process) for a lazy restore.
[[nodiscard]] Result<std::array<ImageFile, 2>> read_present_pages(int dir, const ImageProcess& process, const ProcessHandle& source,
                                                                  const PageSet& present);
// An image appears whole or not at all, in the place of one of its name. That one stays beside it under another name, as it is: it is overwritten
// when its directory goes.
[[nodiscard]] Status replace_image(int dir, const ImageFile& image);

// Files whose size CRIU would compare at restore, so that a log that grew since the dump fails it. Removes the size of
// every regular file whose path (in the workload) lies in one of `directories`; returns how many.
[[nodiscard]] Result<unsigned> forget_file_sizes(int dir, const std::vector<std::string>& directories);

// The workload's monotonic and boottime clocks, as the images say, go on by that much: a restore that comes later than the
// dump must not set them behind what the workload has seen in between.
[[nodiscard]] Status advance_clocks(int dir, Nanoseconds by);

// The clocks of the connections' TCP timestamps go on by that much, and a millisecond for the rounding of what the images say. CRIU
// reads them one after the other, and until everything is dumped the kernel may send again what is not acknowledged: a peer that
// has seen such a segment takes none with an older timestamp (PAWS). In milliseconds, as all but routes with tcp_usec_ts count.
[[nodiscard]] Status advance_tcp_timestamps(std::vector<ImageFile>& images, Nanoseconds by);

// Regular files that the workload has open or mapped, as the images name them.
struct ImageRegularFile {
  std::string path;
  uint64_t size = 0;
  bool has_size = false;
  uint32_t flags = 0;  // O_*
};
[[nodiscard]] Result<std::vector<ImageRegularFile>> read_regular_files(int dir);

inline constexpr size_t kImageFilesMax = 16384;
inline constexpr uint64_t kImageBytesMax = 512ull << 20;
inline constexpr size_t kImageNameMax = 128;
// All images in `dir` (logs and sockets are left out).
[[nodiscard]] Result<std::vector<ImageFile>> load_images(int dir);
// Writes one image as it came from a peer: plain name of an image, no path, never over an existing file.
[[nodiscard]] Status store_image(int dir, const ImageFile& image);
// There are no images any more, sockets and logs stay. Their files lie beside under other names: to overwrite them takes time, which a switchover
// has not, and is left to the end of their directory.
[[nodiscard]] Status set_images_aside(int dir);
// Makes (0700) or empties a directory for images. What is in it is overwritten.
[[nodiscard]] Result<Fd> make_images_dir(const std::string& path);

}  // namespace mose::restore
