// SPDX-License-Identifier: MIT
#include "sense/calibration.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <vector>

#include "base/clock.h"
#include "base/xxh3.h"
#include "kernel/pagemap.h"
#include "kernel/process_memory.h"
#include "kernel/write_tracking.h"

namespace mose::sense {
namespace {

// More than most second-level caches hold, as a workload's memory is: it is read into a buffer as large as a round's.
constexpr uint64_t kMeasuredPages = 1024;
constexpr uint64_t kBufferPages = 256;
// Of those, written after protection: 16 us each at worst, in each try.
constexpr uint64_t kFaultedPages = 256;
constexpr int kTriesEach = 5;
// What the final scan takes for a page that it has to read because nobody protected it: they lie scattered.
constexpr double kFinalPageUs = 2;
constexpr std::string_view kTextVersion = "mose.calibration/1";
constexpr double kFigureMax = 1e6;

// Memory of this process whose pages are all there and all different.
class MeasuredMemory {
 public:
  static Result<MeasuredMemory> map() {
    void* at = ::mmap(nullptr, kMeasuredPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return fail_errno("memory for the calibration");
    MeasuredMemory memory(static_cast<std::byte*>(at));
    // Small pages, as a workload that is written to page by page has them.
    (void)::madvise(at, kMeasuredPages * kPageSize, MADV_NOHUGEPAGE);
    memory.write(kMeasuredPages);
    return memory;
  }
  MeasuredMemory(MeasuredMemory&& other) noexcept : at_(std::exchange(other.at_, nullptr)) {}
  MeasuredMemory& operator=(MeasuredMemory&&) = delete;
  ~MeasuredMemory() {
    if (at_ != nullptr) ::munmap(at_, kMeasuredPages * kPageSize);
  }
  // One word of each of the first `count` pages, with something else each time.
  void write(uint64_t count) {
    for (uint64_t page = 0; page < count; ++page) {
      auto* word = reinterpret_cast<volatile uint64_t*>(at_ + page * kPageSize);
      *word = *word + page + 1;
    }
  }
  [[nodiscard]] PageRun pages(uint64_t from, uint64_t count) const {
    return {(reinterpret_cast<uintptr_t>(at_) >> kPageShift) + from, count};
  }

 private:
  explicit MeasuredMemory(std::byte* at) : at_(at) {}
  std::byte* at_;
};

// The least time that something took, per page.
class Least {
 public:
  explicit Least(uint64_t pages) : pages_(pages) {}
  void note(Nanoseconds time) { least_ = std::min(least_, time); }
  [[nodiscard]] double us() const { return static_cast<double>(least_.count()) / 1000 / static_cast<double>(pages_); }

 private:
  uint64_t pages_;
  Nanoseconds least_ = Nanoseconds::max();
};

// Fault and scan. The kernel can do it: what goes wrong is an error.
Status measure_protection(WriteTracking& tracking, MeasuredMemory& memory, Calibration& out) {
  const PageRun run = memory.pages(0, kMeasuredPages);
  const PageSet area = PageSet::from_runs({run});
  MOSE_TRY(tracking.add(run));
  MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(::getpid()));
  Least protected_write(kFaultedPages), free_write(kFaultedPages), scan(kMeasuredPages);
  for (int i = 0; i < kTriesEach; ++i) {
    MOSE_TRY(pagemap.protect(area));
    Timestamp start = now();
    MOSE_ASSIGN(Pagemap::Tracked before, pagemap.tracked(area));
    scan.note(now() - start);
    if (before.clean.pages() != kMeasuredPages) return fail("pages are not protected when they should be");
    start = now();
    memory.write(kFaultedPages);
    protected_write.note(now() - start);
    start = now();
    memory.write(kFaultedPages);
    free_write.note(now() - start);
    MOSE_ASSIGN(Pagemap::Tracked after, pagemap.tracked(area));
    if (after.written.pages() != kFaultedPages) return fail("written pages are not found");
  }
  out.fault_us = protected_write.us() - free_write.us();
  out.scan_us = scan.us();
  if (*out.fault_us <= 0) return fail("write faults that cost nothing");
  return {};
}

// As a round reads: a piece at a time, each into the same buffer.
Status measure_reading(const MeasuredMemory& memory, Calibration& out) {
  MOSE_ASSIGN(ProcessMemory reader, ProcessMemory::open(::getpid()));
  std::vector<std::byte> buffer(kBufferPages * kPageSize);  // touched here, so that this is not measured
  std::vector<uint64_t> unreadable;
  Least copy(kMeasuredPages), hash(kMeasuredPages);
  uint64_t sum = 0;
  for (int i = 0; i < kTriesEach; ++i) {
    Nanoseconds copying{0}, hashing{0};
    for (uint64_t from = 0; from < kMeasuredPages; from += kBufferPages) {
      const std::array<PageRun, 1> runs{memory.pages(from, kBufferPages)};
      const Timestamp start = now();
      MOSE_TRY(reader.read(runs, buffer, unreadable));
      const Timestamp read = now();
      for (uint64_t page = 0; page < kBufferPages; ++page) sum += XXH3_64bits(&buffer[page * kPageSize], kPageSize);
      copying += read - start;
      hashing += now() - read;
    }
    copy.note(copying);
    hash.note(hashing);
  }
  // The sum is looked at so that it is computed.
  if (!unreadable.empty() || sum == 0) return fail("the calibration could not read its own memory");
  out.copy_us = copy.us();
  out.hash_us = hash.us();
  return {};
}

Result<double> figure_of(std::string_view text) {
  double value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  // Not a number is not above 0 either.
  if (error != std::errc() || end != text.data() + text.size() || !(value > 0) || value > kFigureMax)
    return fail(fmt::format("the calibration has a figure that cannot be: \"{}\"", text));
  return value;
}

}  // namespace

std::string host_identity() {
  utsname name{};
  ::uname(&name);
  std::string processor = "unknown processor";
  // By lines: the kernel makes the text for hundreds of processors as it is read.
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    if (size_t at = line.find(": "); at != std::string::npos) processor = line.substr(at + 2);
    break;
  }
  return fmt::format("{} {}, {}", name.release, name.version, processor);
}

Result<Calibration> calibrate() {
  Calibration out;
  out.host = host_identity();
  MOSE_ASSIGN(MeasuredMemory memory, MeasuredMemory::map());
  // A kernel without it has no such cost.
  if (auto tracking = WriteTracking::of_self()) MOSE_TRY(measure_protection(*tracking, memory, out));
  MOSE_TRY(measure_reading(memory, out));
  return out;
}

std::string to_text(const Calibration& c) {
  std::string out =
      fmt::format("{}\nhost {}\ncopy_us {:.6f}\nhash_us {:.6f}\n", kTextVersion, c.host, c.copy_us, c.hash_us);
  if (c.fault_us) out += fmt::format("fault_us {:.6f}\n", *c.fault_us);
  if (c.scan_us) out += fmt::format("scan_us {:.6f}\n", *c.scan_us);
  return out + "end\n";
}

Result<Calibration> calibration_from_text(std::string_view text) {
  std::map<std::string_view, std::string_view> values;
  bool first = true, ended = false;
  while (!text.empty() && !ended) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (std::exchange(first, false)) {
      if (line != kTextVersion) return fail("no calibration of this version");
      continue;
    }
    ended = line == "end";
    if (size_t space = line.find(' '); space != std::string_view::npos)
      values.emplace(line.substr(0, space), line.substr(space + 1));
  }
  // A figure may be absent, but not because the text is cut off.
  if (!ended) return fail("the calibration ends early");
  auto optional = [&](std::string_view name, std::optional<double>& out) -> Status {
    auto it = values.find(name);
    if (it == values.end()) return {};
    MOSE_ASSIGN(out, figure_of(it->second));
    return {};
  };
  Calibration out;
  out.host = values["host"];
  MOSE_ASSIGN(out.copy_us, figure_of(values["copy_us"]));
  MOSE_ASSIGN(out.hash_us, figure_of(values["hash_us"]));
  MOSE_TRY(optional("fault_us", out.fault_us));
  MOSE_TRY(optional("scan_us", out.scan_us));
  return out;
}

TrackingChoice choose_tracking(const std::optional<Calibration>& c) {
  if (!c) return {true, true, "the cost of a write fault is not known here yet: protected for the last rounds only"};
  const double read = c->copy_us + c->hash_us;
  if (!c->fault_us)
    return {true, true, fmt::format("a hashed page costs {:.2f} us here, and pages cannot be protected", read)};
  const bool late = *c->fault_us > read;
  return {late, *c->fault_us > kFinalPageUs,
          fmt::format("a write fault costs {:.2f} us here, a hashed page {:.2f} us: protected {}", *c->fault_us, read,
                      late ? "for the last rounds only" : "from the first round on")};
}

std::string describe(const Calibration& c) {
  auto or_dash = [](const char* what, const std::optional<double>& value) {
    return value ? fmt::format("{} {:.3f} us", what, *value) : fmt::format("{} -", what);
  };
  return fmt::format("per page: {}, {}, copy {:.3f} us, hash {:.3f} us; {}", or_dash("write fault", c.fault_us),
                     or_dash("scan", c.scan_us), c.copy_us, c.hash_us, choose_tracking(c).reason);
}

}  // namespace mose::sense
