// SPDX-License-Identifier: MIT
#include "restore/shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <set>

#include "kernel/process.h"
#include "kernel/system_v.h"

namespace mose::restore {
namespace {

// The second adds the removed segment; the first is written where there is none, for agents that know no other.
constexpr std::string_view kHeader = "mose-shared 1\n", kHeaderRemoved = "mose-shared 2\n";
constexpr uint64_t kPiecePages = 512;
constexpr uint64_t kSizeMax = uint64_t{1} << 46;
constexpr size_t kImageTextMax = 128 * kSharedObjectsMax;

// The next number of a line.
std::optional<uint64_t> take_number(std::string_view& line) {
  while (line.starts_with(' ')) line.remove_prefix(1);
  uint64_t value = 0;
  auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
  if (error != std::errc{}) return std::nullopt;
  line.remove_prefix(static_cast<size_t>(end - line.data()));
  return value;
}

std::optional<SharedPlace> parse_line(std::string_view line, bool with_removed) {
  auto space = take_number(line), size = take_number(line), holder = take_number(line);
  auto fd = take_number(line);  // 0: none
  auto address = take_number(line);
  auto segment = with_removed ? take_number(line) : std::optional<uint64_t>(0);  // 0: none
  if (!space || !size || !holder || !fd || !address || !segment || !line.empty()) return std::nullopt;
  if (*space < kSharedSpaces || *space > UINT32_MAX || *size > kSizeMax || *holder == 0 || *holder >= kSharedSpaces ||
      *fd > INT32_MAX || *segment > INT32_MAX || *address % kPageSize != 0)
    return std::nullopt;
  SharedPlace place;
  place.space = static_cast<SpaceId>(*space);
  place.size = *size;
  place.holder = static_cast<SpaceId>(*holder);
  place.fd = static_cast<int>(*fd) - 1;
  place.address = *address;
  place.removed_segment = static_cast<int>(*segment) - 1;
  return place;
}

// None where there is no image.
Result<std::vector<SharedPlace>> read_shared_image(int dir) {
  auto file = open_at(dir, kSharedImage, O_RDONLY | O_NOFOLLOW);
  if (!file && file.error().code == ENOENT) return std::vector<SharedPlace>{};
  if (!file) return std::unexpected(file.error());
  MOSE_ASSIGN(std::string text, read_all(file->get(), kImageTextMax));
  return parse_shared_places(text);
}

uint64_t pages_of(uint64_t bytes) {
  return (bytes + kPageSize - 1) / kPageSize;
}

}  // namespace

std::string format_shared_places(std::span<const SharedObject> objects) {
  const bool removed = std::ranges::any_of(objects, &SharedObject::removed);
  std::string out(removed ? kHeaderRemoved : kHeader);
  for (const SharedObject& object : objects) {
    out += fmt::format("{} {} {} {} {}", object.space, object.size, object.holder.space, object.fd + 1, object.address);
    if (removed) out += fmt::format(" {}", object.removed ? object.system_v + 1 : 0);
    out += '\n';
  }
  return out;
}

Result<std::vector<SharedPlace>> parse_shared_places(std::string_view text) {
  const bool removed = text.starts_with(kHeaderRemoved);
  if (!removed && !text.starts_with(kHeader)) return fail(std::string(kSharedImage) + " is not understood");
  text.remove_prefix(kHeader.size());
  std::vector<SharedPlace> out;
  std::set<SpaceId> seen;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    auto place = end == std::string_view::npos ? std::nullopt : parse_line(text.substr(0, end), removed);
    if (!place || out.size() == kSharedObjectsMax || !seen.insert(place->space).second)
      return fail(std::string(kSharedImage) + " is not understood");
    out.push_back(*place);
    text.remove_prefix(end + 1);
  }
  return out;
}

Status write_shared_image(int dir, std::span<const SharedObject> objects) {
  if (objects.empty()) return {};
  MOSE_ASSIGN(Fd fd, open_at(dir, kSharedImage, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
  return write_all(fd.get(), format_shared_places(objects));
}

Result<SharedMemory> SharedMemory::open(const std::string& images_dir,
                                        const std::function<Result<int>(SpaceId)>& pid_of) {
  SharedMemory out;
  MOSE_ASSIGN(Fd dir, open_file(images_dir, O_RDONLY | O_DIRECTORY));
  MOSE_ASSIGN(std::vector<SharedPlace> places, read_shared_image(dir.get()));
  for (const SharedPlace& place : places) {
    MOSE_ASSIGN(int pid, pid_of(place.holder));
    MOSE_ASSIGN(Fd object, open_shared_object(pid, place.fd, place.address, O_RDWR));
    struct stat st{};
    if (fstat(object.get(), &st) != 0) return fail_errno("look at shared memory");
    // CRIU makes what nobody has open as long as it is mapped.
    if (static_cast<uint64_t>(st.st_size) != place.size)
      return fail(fmt::format("shared memory of {} bytes has been restored with {}", place.size, st.st_size));
    out.objects_.push_back({place.space, place.size, std::move(object), {}, false, {}});
  }
  return out;
}

Status mark_removed_segments(int dir, const std::function<Result<int>(SpaceId)>& pid_of) {
  MOSE_ASSIGN(std::vector<SharedPlace> places, read_shared_image(dir));
  for (const SharedPlace& place : places) {
    if (place.removed_segment < 0) continue;
    MOSE_ASSIGN(int pid, pid_of(place.holder));
    MOSE_ASSIGN(Fd object, open_shared_object(pid, place.fd, place.address, O_RDONLY));
    struct stat st{};
    if (fstat(object.get(), &st) != 0) return fail_errno("look at shared memory");
    // A segment's inode number is its id.
    if (st.st_ino != static_cast<ino_t>(place.removed_segment))
      return fail(std::string(kSharedImage) + " names another segment than the one that is there");
    MOSE_ASSIGN(auto holder, ProcessHandle::open(pid));
    MOSE_ASSIGN(Fd ipc, open_namespace(holder, NamespaceKind::ipc));
    MOSE_TRY(remove_segment(ipc.get(), place.removed_segment));
  }
  return {};
}

// By number, out of a sanitizer's sight: what is staged may be received again at the same moment, and counts for
// nothing then. Nothing is written behind the end: that would make the object longer.
Status SharedMemory::write(const Object& object, uint64_t page, std::span<const std::byte> bytes) {
  if (page >= pages_of(object.size)) return fail("a page behind the end of shared memory");
  uint64_t at = page * kPageSize;
  bytes = bytes.first(std::min<uint64_t>(bytes.size(), object.size - at));
  while (!bytes.empty()) {
    ssize_t n = ::syscall(SYS_pwrite64, object.file.get(), bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("write shared memory");
    bytes = bytes.subspan(static_cast<size_t>(n));
    at += static_cast<uint64_t>(n);
  }
  return {};
}

Status SharedMemory::stage(PageProvider& provider, const std::function<bool()>& go_on) {
  for (Object& object : objects_) {
    const PageSet fresh = provider.unstaged(object.space);
    for (PageRun rest : fresh.runs()) {
      while (rest.count != 0) {
        if (!go_on()) return {};
        auto bytes = provider.stage(object.space, rest.first, std::min(rest.count, kPiecePages));
        const uint64_t count = std::max<uint64_t>(bytes.size() / kPageSize, 1);
        if (!bytes.empty()) {
          // Noted first: what was torn off is judged as well.
          object.staged.add({rest.first, count});
          if (auto written = write(object, rest.first, bytes); !written) {
            provider.unstage(object.space, {rest.first, count});
            return written;
          }
        }
        rest = {rest.first + count, rest.count - count};
      }
    }
  }
  return {};
}

// What is there and should not be goes back; what should be and is not, or not as it should be, is left to do.
Status SharedMemory::plan(Object& object, PageProvider& provider) {
  const PageSet& present = provider.present(object.space);
  MOSE_ASSIGN(PageSet there, shared_object_pages(object.file.get()));
  const PageSet gone = there.minus(present);
  for (const PageRun& run : gone.runs()) {
    if (fallocate(object.file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(run.first * kPageSize), static_cast<off_t>(run.count * kPageSize)) != 0)
      return fail_errno("clear shared memory");
  }
  object.left = present.minus(provider.staged(object.space).intersect(object.staged));
  object.planned = true;
  std::vector<PageRun> remote;
  for (const PageRun& run : object.left.runs()) {
    for (PageRun rest = run; rest.count != 0;) {
      auto extent = provider.place(object.space, rest.first, rest.count);
      const uint64_t count = std::min(extent.count, rest.count);
      if (extent.place != PagePlace::local) remote.push_back({rest.first, count});
      rest = {rest.first + count, rest.count - count};
    }
  }
  provider.request_all(object.space, remote);
  return {};
}

Result<bool> SharedMemory::finish(PageProvider& provider) {
  bool all = true;
  for (Object& object : objects_) {
    if (!object.planned) MOSE_TRY(plan(object, provider));
    PageSet left;
    for (PageRun rest : object.left.runs()) {
      while (rest.count != 0) {
        auto bytes = provider.contents(object.space, rest.first, std::min(rest.count, kPiecePages));
        const uint64_t count = std::max<uint64_t>(bytes.size() / kPageSize, 1);
        if (bytes.empty())
          left.add({rest.first, 1});
        else
          MOSE_TRY(write(object, rest.first, bytes));
        rest = {rest.first + count, rest.count - count};
      }
    }
    object.left = std::move(left);
    all &= object.left.empty();
  }
  return all;
}

}  // namespace mose::restore
