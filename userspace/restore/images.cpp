// SPDX-License-Identifier: MIT
#include "restore/images.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "base/wipe.h"
#include "criu_images.pb.h"
#include "kernel/pagemap.h"
#include "kernel/process_memory.h"
#include "restore/image_format.h"

namespace mose::restore {
namespace {

constexpr size_t kMessageBytesMax = 64u << 20;  // an mm image of 65530 mappings has about 4 MiB

constexpr uint32_t kFlagPresent = 4;  // of a page map entry

constexpr uint32_t kStatusVsyscall = 1u << 2, kStatusVdso = 1u << 3, kStatusFilePrivate = 1u << 6,
                   kStatusAnonShared = 1u << 8, kStatusAnonPrivate = 1u << 9, kStatusSysvIpc = 1u << 10,
                   kStatusVvar = 1u << 12, kStatusMemfd = 1u << 14;
constexpr uint32_t kMapLocked = 0x2000, kMapHugetlb = 0x40000;

Result<std::string> read_image(int dir, const std::string& name) {
  MOSE_ASSIGN(Fd fd, open_at(dir, name, O_RDONLY | O_NOFOLLOW));
  auto bytes = read_all(fd.get(), kImageBytesMax);
  if (!bytes) return context(name, std::move(bytes).error());
  return bytes;
}

// The messages of an image that has nothing else, as views into `bytes`.
Result<std::vector<std::string_view>> split(const std::string& name, std::string_view bytes, uint32_t magic) {
  MOSE_ASSIGN(ImageContent content, split_image(name, bytes, magic));
  for (std::string_view message : content.messages) {
    if (message.size() > kMessageBytesMax) return fail(name + " is cut off");
  }
  return std::move(content.messages);
}

template <typename Message>
Status parse(const std::string& name, std::string_view bytes, Message& out) {
  if (!out.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return fail(name + " holds a damaged message");
  return {};
}

std::string header(uint32_t magic) {
  std::string out;
  put_u32(out, kCommonMagic);
  put_u32(out, magic);
  return out;
}

template <typename Message>
void append(std::string& out, const Message& message) {
  put_u32(out, static_cast<uint32_t>(message.ByteSizeLong()));
  message.AppendToString(&out);
}

Result<std::vector<ImageVma>> read_vmas(int dir, SpaceId space) {
  std::string name = "mm-" + std::to_string(space) + ".img";
  MOSE_ASSIGN(std::string bytes, read_image(dir, name));
  MOSE_ASSIGN(std::vector<std::string_view> messages, split(name, bytes, kMagicMm));
  if (messages.size() != 1) return fail(name + " does not hold one message");
  criu::Mm mm;
  MOSE_TRY(parse(name, messages[0], mm));
  std::vector<ImageVma> out;
  for (const criu::Vma& vma : mm.vmas()) {
    if (vma.start() >= vma.end() || vma.start() % kPageSize || vma.end() % kPageSize || (!out.empty() && vma.start() < out.back().end))
      return fail(name + " has mappings out of order");
    out.push_back({vma.start(), vma.end(), vma.prot(), vma.flags(), vma.status(), vma.shmid()});
  }
  return out;
}

template <typename Predicate>
PageSet area(const ImageProcess& process, Predicate predicate) {
  PageSet out;
  for (const ImageVma& vma : process.vmas) {
    if (predicate(vma)) out.add({vma.start >> kPageShift, (vma.end - vma.start) >> kPageShift});
  }
  return out;
}

// What the dump wrote: where its pages lie and which it has put there (the vdso).
struct PageMap {
  uint32_t pages_id = 0;
  PageSet present;
};
Result<PageMap> read_page_map(int dir, const std::string& name) {
  MOSE_ASSIGN(std::string bytes, read_image(dir, name));
  MOSE_ASSIGN(std::vector<std::string_view> messages, split(name, bytes, kMagicPageMap));
  if (messages.empty()) return fail(name + " is empty");
  PageMap out;
  criu::PageMapHead head;
  MOSE_TRY(parse(name, messages[0], head));
  out.pages_id = head.pages_id();
  for (size_t i = 1; i < messages.size(); ++i) {
    criu::PageMapEntry entry;
    MOSE_TRY(parse(name, messages[i], entry));
    uint64_t count = entry.has_count() ? entry.count() : entry.count_old();
    uint64_t first = entry.vaddr() >> kPageShift;
    if (entry.vaddr() % kPageSize || count > (UINT64_MAX >> kPageShift) - first) return fail(name + " names impossible pages");
    if (!entry.has_flags() || (entry.flags() & kFlagPresent)) out.present.add({first, count});
  }
  return out;
}

// Those of `pages` that have contents of their own. Without this every page of every mapped library would travel.
Result<PageSet> populated_of(const ProcessHandle& process, const PageSet& pages) {
  MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(process.pid()));
  return pagemap.populated(pages);
}

struct ReadPages {
  std::string bytes;
  PageSet pages;
};
// Without those that cannot be read.
Result<ReadPages> read_pages(const ProcessMemory& memory, const PageSet& pages) {
  if (pages.pages() > kImageBytesMax / kPageSize) return fail("too many pages must be there at once");
  ReadPages out{std::string(pages.pages() * kPageSize, '\0'), pages};
  std::vector<uint64_t> unreadable;
  MOSE_TRY(memory.read(pages.runs(), std::as_writable_bytes(std::span<char>(out.bytes)), unreadable));
  for (uint64_t page : unreadable) {
    out.bytes.erase(out.pages.intersect(PageSet::from_runs({{0, page}})).pages() * kPageSize, kPageSize);
    out.pages.remove({page, 1});
  }
  return out;
}

constexpr const char* kAside = ".aside";  // no name of an image

bool plain_image_name(std::string_view name) {
  if (name.size() > kImageNameMax || name.size() < 5 || !name.ends_with(".img") || name.front() == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}

bool below(std::string_view path, std::string_view directory) {
  while (directory.size() > 1 && directory.ends_with('/')) directory.remove_suffix(1);
  return path.size() > directory.size() && path.starts_with(directory) && path[directory.size()] == '/';
}

template <typename Visit>
Status for_each_entry(int dir, Visit visit) {
  MOSE_ASSIGN(Fd copy, open_at(dir, ".", O_RDONLY | O_DIRECTORY));
  DIR* stream = ::fdopendir(copy.get());
  if (!stream) return fail_errno("list images");
  (void)copy.release();
  Status status;
  while (dirent* entry = ::readdir(stream)) {
    std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    status = visit(name);
    if (!status) break;
  }
  ::closedir(stream);
  return status;
}

}  // namespace

bool ImageVma::vdso() const { return status & kStatusVdso; }
bool ImageVma::kernel_owned() const { return status & (kStatusVsyscall | kStatusVvar); }
bool ImageVma::is_private() const { return (status & (kStatusAnonPrivate | kStatusFilePrivate | kStatusVdso)) && !kernel_owned(); }
bool ImageVma::anonymous_shared() const { return status & (kStatusAnonShared | kStatusSysvIpc | kStatusMemfd); }
bool ImageVma::lazy() const {
  return (status & kStatusAnonPrivate) && !vdso() && !kernel_owned() && !(flags & (kMapLocked | kMapHugetlb));
}

Result<std::vector<ImageProcess>> read_processes(int dir) {
  const std::string name = "pstree.img";
  MOSE_ASSIGN(std::string bytes, read_image(dir, name));
  MOSE_ASSIGN(std::vector<std::string_view> messages, split(name, bytes, kMagicTree));
  if (messages.size() > kTreeProcessesMax) return fail(name + " names too many processes");
  std::vector<ImageProcess> out;
  for (std::string_view message : messages) {
    criu::TreeEntry entry;
    MOSE_TRY(parse(name, message, entry));
    ImageProcess process;
    process.space = entry.pid();
    process.parent = entry.ppid();
    process.threads.assign(entry.threads().begin(), entry.threads().end());
    struct stat st{};
    std::string mm = "mm-" + std::to_string(process.space) + ".img";
    process.zombie = ::fstatat(dir, mm.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
    if (!process.zombie) {
      MOSE_ASSIGN(process.vmas, read_vmas(dir, process.space));
    }
    out.push_back(std::move(process));
  }
  return out;
}

PageSet lazy_area(const ImageProcess& process) {
  return area(process, [](const ImageVma& vma) { return vma.lazy(); });
}
PageSet eager_area(const ImageProcess& process) {
  return area(process, [](const ImageVma& vma) { return vma.is_private() && !vma.lazy(); });
}

Result<std::array<ImageFile, 2>> read_present_pages(int dir, const ImageProcess& process, const ProcessHandle& source, const PageSet& present) {
  std::string name = "pagemap-" + std::to_string(process.space) + ".img";
  MOSE_ASSIGN(PageMap old, read_page_map(dir, name));
  PageSet allowed = present.intersect(area(process, [](const ImageVma& vma) { return vma.is_private(); }));
  MOSE_ASSIGN(PageSet populated, populated_of(source, allowed));
  // What CRIU itself has put there stays in: it knows of the vdso, which no scan reports.
  PageSet wanted = populated.unite(old.present);
  MOSE_ASSIGN(ProcessMemory memory, ProcessMemory::open(source.pid()));
  if (!source.alive()) return fail_errno("read the memory of process " + std::to_string(source.pid()), ESRCH);
  MOSE_ASSIGN(ReadPages read, read_pages(memory, wanted));

  std::string map = header(kMagicPageMap);
  criu::PageMapHead head;
  head.set_pages_id(old.pages_id);
  append(map, head);
  for (const PageRun& run : read.pages.runs()) {
    criu::PageMapEntry entry;
    entry.set_vaddr(run.first << kPageShift);
    entry.set_count_old(static_cast<uint32_t>(std::min<uint64_t>(run.count, UINT32_MAX)));
    entry.set_flags(kFlagPresent);
    entry.set_count(run.count);
    append(map, entry);
  }
  return std::array{ImageFile{std::move(name), std::move(map)},
                    ImageFile{"pages-" + std::to_string(old.pages_id) + ".img", std::move(read.bytes)}};
}

Status replace_image(int dir, const ImageFile& image) {
  const std::string next = image.name + ".new";
  MOSE_TRY(wipe_file_at(dir, next));  // one that was replaced before
  MOSE_ASSIGN(Fd fd, open_at(dir, next, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
  MOSE_TRY(write_all(fd.get(), image.bytes));
  if (::renameat2(dir, next.c_str(), dir, image.name.c_str(), RENAME_EXCHANGE) == 0) return {};
  if (errno != ENOENT || ::renameat(dir, next.c_str(), dir, image.name.c_str()) < 0) return fail_errno("rename " + next);
  return {};
}

Result<std::vector<ImageRegularFile>> read_regular_files(int dir) {
  const std::string name = "files.img";
  MOSE_ASSIGN(std::string bytes, read_image(dir, name));
  MOSE_ASSIGN(std::vector<std::string_view> messages, split(name, bytes, kMagicFiles));
  std::vector<ImageRegularFile> out;
  for (std::string_view message : messages) {
    criu::File file;
    MOSE_TRY(parse(name, message, file));
    if (file.has_reg()) out.push_back({file.reg().name(), file.reg().size(), file.reg().has_size(), file.reg().flags()});
  }
  return out;
}

Result<unsigned> forget_file_sizes(int dir, const std::vector<std::string>& directories) {
  const std::string name = "files.img";
  MOSE_ASSIGN(std::string bytes, read_image(dir, name));
  MOSE_ASSIGN(std::vector<std::string_view> messages, split(name, bytes, kMagicFiles));
  unsigned changed = 0;
  std::string out = header(kMagicFiles);
  for (std::string_view message : messages) {
    criu::File file;
    MOSE_TRY(parse(name, message, file));
    bool grows = file.has_reg() && file.reg().has_size() &&
                 std::any_of(directories.begin(), directories.end(),
                             [&](const std::string& directory) { return below(file.reg().name(), directory); });
    if (!grows) {
      put_u32(out, static_cast<uint32_t>(message.size()));
      out += message;
      continue;
    }
    file.mutable_reg()->clear_size();
    append(out, file);
    ++changed;
  }
  if (changed > 0) MOSE_TRY(replace_image(dir, {name, std::move(out)}));
  return changed;
}

namespace {

Status advance(criu::ClockTime& clock, uint64_t by) {
  constexpr uint64_t kSecond = 1'000'000'000;
  if (clock.nanoseconds() >= kSecond || clock.seconds() > INT64_MAX / kSecond - by / kSecond - 1) return fail("a clock out of range");
  uint64_t nanoseconds = clock.nanoseconds() + by % kSecond;
  clock.set_seconds(clock.seconds() + by / kSecond + nanoseconds / kSecond);
  clock.set_nanoseconds(nanoseconds % kSecond);
  return {};
}

}  // namespace

Status advance_clocks(int dir, Nanoseconds by) {
  if (by.count() < 0) return fail("clocks are only advanced");
  std::vector<std::string> names;  // first: a file that is replaced meanwhile may be listed twice
  MOSE_TRY(for_each_entry(dir, [&](const std::string& name) -> Status {
    if (name.starts_with("timens-") && plain_image_name(name)) names.push_back(name);
    return {};
  }));
  for (const std::string& name : names) {
    MOSE_ASSIGN(std::string bytes, read_image(dir, name));
    MOSE_ASSIGN(std::vector<std::string_view> messages, split(name, bytes, kMagicTimens));
    std::string out = header(kMagicTimens);
    for (std::string_view message : messages) {
      criu::Clocks clocks;
      MOSE_TRY(parse(name, message, clocks));
      for (criu::ClockTime* clock : {clocks.mutable_monotonic(), clocks.mutable_boottime()}) {
        if (auto moved = advance(*clock, static_cast<uint64_t>(by.count())); !moved) return context(name, moved.error());
      }
      append(out, clocks);
    }
    MOSE_TRY(replace_image(dir, {name, std::move(out)}));
  }
  return {};
}

Status advance_tcp_timestamps(std::vector<ImageFile>& images, Nanoseconds by) {
  if (by.count() < 0) return fail("clocks are only advanced");
  const auto passed = static_cast<uint64_t>(std::chrono::ceil<std::chrono::milliseconds>(by).count());
  // The lowest bit tells the unit and stays; what the kernel gives has it in the place of an odd millisecond.
  const auto step = static_cast<uint32_t>((passed + 2) / 2 * 2);
  for (ImageFile& image : images) {
    if (!image.name.starts_with("tcp-stream-")) continue;
    MOSE_ASSIGN(ImageContent content, split_image(image.name, image.bytes, kMagicTcpStream, 1));
    criu::TcpStream stream;
    MOSE_TRY(parse(image.name, content.messages[0], stream));
    if (!stream.has_timestamp()) continue;
    stream.set_timestamp(stream.timestamp() + step);
    std::string out = header(kMagicTcpStream);
    append(out, stream);
    out += content.rest;
    image.bytes = std::move(out);
  }
  return {};
}

Status set_images_aside(int dir) {
  std::vector<std::string> names;  // first: they change under the walk
  MOSE_TRY(for_each_entry(dir, [&](const std::string& name) -> Status {
    if (plain_image_name(name)) names.push_back(name);
    return {};
  }));
  for (const std::string& name : names) {
    if (::renameat2(dir, name.c_str(), dir, (name + kAside).c_str(), RENAME_NOREPLACE) < 0) return fail_errno("set aside " + name);
  }
  return {};
}

Result<std::vector<ImageFile>> load_images(int dir) {
  std::vector<ImageFile> out;
  uint64_t total = 0;
  MOSE_TRY(for_each_entry(dir, [&](const std::string& name) -> Status {
    if (!plain_image_name(name)) return {};
    if (out.size() == kImageFilesMax) return fail("more than " + std::to_string(kImageFilesMax) + " images");
    MOSE_ASSIGN(std::string bytes, read_image(dir, name));
    total += bytes.size();
    if (total > kImageBytesMax) return fail("the images have more than " + std::to_string(kImageBytesMax) + " bytes");
    out.push_back({name, std::move(bytes)});
    return {};
  }));
  return out;
}

Status store_image(int dir, const ImageFile& image) {
  if (!plain_image_name(image.name)) return fail("\"" + image.name.substr(0, kImageNameMax) + "\" is no name of an image");
  if (image.bytes.size() > kImageBytesMax) return fail(image.name + " is too large");
  MOSE_ASSIGN(Fd fd, open_at(dir, image.name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  auto status = write_all(fd.get(), image.bytes);
  if (!status) return context(image.name, std::move(status).error());
  return {};
}

Result<Fd> make_images_dir(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) < 0 && errno != EEXIST) return fail_errno("make " + path);
  MOSE_ASSIGN(Fd dir, open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  if (::fchmod(dir.get(), 0700) < 0) return fail_errno("set the mode of " + path);
  MOSE_TRY(for_each_entry(dir.get(), [&](const std::string& name) -> Status {
    if (auto wiped = wipe_file_at(dir.get(), name); !wiped) return wiped;
    if (::unlinkat(dir.get(), name.c_str(), 0) < 0) return fail_errno("remove " + path + "/" + name);
    return {};
  }));
  return dir;
}

}  // namespace mose::restore
