// SPDX-License-Identifier: MIT
#include "sense/page_reader.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include "base/xxh3.h"
#include "kernel/process_memory.h"
#include "kernel/shared_objects.h"
#include "model/zero_page.h"

namespace mose::sense {
namespace {

// One read: large enough that the system call does not count, small enough that a thread's buffer stays in its cache.
constexpr uint64_t kUnitPages = 256;
static_assert(kUnitPages <= PageSink::kPagesPerSendMax);
constexpr uint64_t kNoHash = 0;

uint64_t hash_page(const std::byte* page) {
  uint64_t hash = XXH3_64bits(page, kPageSize);
  return hash == kNoHash ? 1 : hash;  // 0 means "never sent"
}

// What is read at once: at most kUnitPages pages.
struct Unit {
  std::vector<PageRun> runs;
  uint64_t pages = 0;
};

// Cuts a set into units. Two units of the list may share a hash block (different entries of it), never an entry.
std::vector<Unit> make_units(const PageSet& set) {
  std::vector<Unit> units;
  for (PageRun run : set.runs()) {
    while (run.count != 0) {
      if (units.empty() || units.back().pages == kUnitPages) units.emplace_back();
      Unit& unit = units.back();
      uint64_t take = std::min(run.count, kUnitPages - unit.pages);
      unit.runs.push_back({run.first, take});
      unit.pages += take;
      run.first += take;
      run.count -= take;
    }
  }
  return units;
}

// What is hot at the end. The parts are disjoint, whatever the levels are.
std::vector<Unit> units_hot_last(const PageSet& pages, std::span<const PageSet> hot) {
  PageSet rest = pages;
  std::vector<PageSet> parts;
  for (const PageSet& level : hot) {
    PageSet part = rest.intersect(level);
    if (part.empty()) continue;
    rest = rest.minus(part);
    parts.push_back(std::move(part));
  }
  std::vector<Unit> units = make_units(rest);
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    for (Unit& unit : make_units(*part)) units.push_back(std::move(unit));
  }
  return units;
}

// The pages of the units from `begin` on that are announced together, about `most`; `end` becomes the unit behind them.
PageSet take_group(const std::vector<Unit>& units, size_t begin, size_t& end, uint64_t most) {
  end = std::min<size_t>(units.size(), begin + std::max<uint64_t>(most / kUnitPages, 1));
  std::vector<PageRun> runs;
  for (size_t i = begin; i < end; ++i) runs.insert(runs.end(), units[i].runs.begin(), units[i].runs.end());
  return PageSet::from_runs(std::move(runs));
}

void make_blocks(Hashes& hashes, const PageSet& set) {
  for (const PageRun& run : set.runs()) {
    for (uint64_t page = run.first - run.first % Hashes::kBlockPages; page < run.end(); page += Hashes::kBlockPages) {
      static_cast<void>(hashes.block_of(page));
    }
  }
}

// What became of one page.
enum class Verdict : uint8_t { same, zero, changed, unreadable };

// Runs `work(index)` for every index below `count` on `threads` threads (this one among them) until one fails.
template <typename Work>
Status run_parallel(unsigned threads, size_t count, Work work) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::optional<Error> error;
  auto loop = [&](unsigned thread) {
    for (size_t i = next++; i < count; i = next++) {
      if (Status status = work(thread, i); !status) {
        std::lock_guard lock(mutex);
        if (!error) error = std::move(status.error());
        next = count;
      }
    }
  };
  std::vector<std::jthread> helpers;
  for (unsigned thread = 1; thread < threads && thread < count; ++thread) helpers.emplace_back(loop, thread);
  loop(0);
  helpers.clear();
  if (error) return std::unexpected(std::move(*error));
  return {};
}

struct Piece {
  PageRun run;
  size_t at = 0;  // index of its first page in the buffer
};

// What a thread needs to read and judge units.
struct Reader {
  std::vector<std::byte> buffer = std::vector<std::byte>(kUnitPages * kPageSize);
  std::vector<uint64_t> unreadable;
  std::vector<uint64_t> hashes = std::vector<uint64_t>(kUnitPages);
  std::vector<Verdict> verdicts = std::vector<Verdict>(kUnitPages);

  // Reads the unit and compares; the table is not changed. Unreadable pages are listed in `unreadable` as well.
  Status judge(const ProcessMemory& memory, const Unit& unit, const Hashes& table) {
    unreadable.clear();
    MOSE_TRY(memory.read(unit.runs, buffer, unreadable));
    size_t at = 0;
    for (const PageRun& run : unit.runs) {
      const Hashes::Block* block = nullptr;
      for (uint64_t page = run.first; page < run.end(); ++page, ++at) {
        if (block == nullptr || page % Hashes::kBlockPages == 0) block = table.find_block(page);
        const std::byte* bytes = buffer.data() + at * kPageSize;
        if (!unreadable.empty() && std::ranges::find(unreadable, page) != unreadable.end()) {
          verdicts[at] = Verdict::unreadable;
          continue;
        }
        if (is_zero_page(bytes)) {
          verdicts[at] = Verdict::zero;
          continue;
        }
        hashes[at] = hash_page(bytes);
        bool same = block != nullptr && (*block)[page % Hashes::kBlockPages] == hashes[at];
        verdicts[at] = same ? Verdict::same : Verdict::changed;
      }
    }
    return {};
  }

  // Every maximal run of pages with `verdict`, and where it lies in the buffer.
  [[nodiscard]] std::vector<Piece> pieces(const Unit& unit, Verdict verdict) const {
    std::vector<Piece> out;
    size_t at = 0;
    for (const PageRun& run : unit.runs) {
      for (uint64_t i = 0; i < run.count;) {
        uint64_t length = 0;
        while (i + length < run.count && verdicts[at + i + length] == verdict) ++length;
        if (length != 0) out.push_back({{run.first + i, length}, at + i});
        i += length == 0 ? 1 : length;
      }
      at += run.count;
    }
    return out;
  }
};

uint64_t count(const std::vector<Piece>& pieces) {
  uint64_t pages = 0;
  for (const Piece& piece : pieces) pages += piece.run.count;
  return pages;
}

Status send(SpaceId space, const Reader& reader, const std::vector<Piece>& pieces, PageSink& sink) {
  std::vector<PageRun> runs;
  std::vector<std::span<const std::byte>> bytes;
  std::vector<uint64_t> hashes;
  for (const Piece& piece : pieces) {
    runs.push_back(piece.run);
    const uint64_t* first = reader.hashes.data() + piece.at;
    hashes.insert(hashes.end(), first, first + piece.run.count);
    bytes.emplace_back(reader.buffer.data() + piece.at * kPageSize, piece.run.count * kPageSize);
  }
  return sink.send_hashed(space, runs, bytes, hashes);
}

PageSet joined(const std::vector<std::vector<Piece>>& parts) {
  std::vector<PageRun> runs;
  for (const auto& pieces : parts) {
    for (const Piece& piece : pieces) runs.push_back(piece.run);
  }
  return PageSet::from_runs(std::move(runs));
}

}  // namespace

Result<Populated> populated_pages(const SpaceProcess& process, ScanPace pace, bool with_pages) {
  Populated populated;
  if (!process.object.empty()) {
    MOSE_ASSIGN(Fd object, open_shared_object(process.object, O_RDONLY));
    MOSE_ASSIGN(populated.pages, shared_object_pages(object.get()));
    populated.areas = populated.pages;
    return populated;
  }
  MOSE_ASSIGN(populated.vmas, read_vmas(process.pid));
  populated.areas = lazy_pages(populated.vmas);
  if (populated.areas.empty() || !with_pages) return populated;
  MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(process.pid, pace));
  // Not what lies between the regions: terabytes of nothing are a long way in bounded steps.
  MOSE_ASSIGN(populated.pages, pagemap.populated(populated.areas));
  return populated;
}

Status send_changed(const SpaceProcess& process, const PageSet& pages, const Reading& reading, Hashes& hashes,
                    PageSink& sink, const std::stop_token& stop, ScanStats& stats) {
  if (pages.empty()) return {};
  MOSE_ASSIGN(ProcessMemory memory, ProcessMemory::open(process));
  std::vector<Unit> units = units_hot_last(pages, reading.hot);
  make_blocks(hashes, pages);
  std::vector<Reader> readers(reading.threads);
  std::vector<std::vector<Piece>> zeros(units.size());
  std::mutex sink_mutex;
  auto do_unit = [&](unsigned thread, size_t i) -> Status {
    if (stop.stop_requested()) return fail_errno("round", ECANCELED);
    Reader& reader = readers[thread];
    MOSE_TRY(reader.judge(memory, units[i], hashes));
    zeros[i] = reader.pieces(units[i], Verdict::zero);
    const uint64_t absent_pages = count(zeros[i]) + reader.unreadable.size();
    const std::vector<Piece> changed = reader.pieces(units[i], Verdict::changed);
    std::lock_guard lock(sink_mutex);
    stats.pages_present += units[i].pages - absent_pages;
    stats.pages_zero += absent_pages;
    // Of a page that was sent and could not be read now nothing is known.
    for (uint64_t page : reader.unreadable) hashes.set(page, kNoHash);
    stats.pages_read += units[i].pages;
    if (changed.empty()) return {};
    MOSE_TRY(send(process.space, reader, changed, sink));
    for (const Piece& piece : changed) {
      for (uint64_t n = 0; n < piece.run.count; ++n) hashes.set(piece.run.first + n, reader.hashes[piece.at + n]);
    }
    stats.pages_changed += count(changed);
    return {};
  };
  for (size_t begin = 0; begin < units.size();) {
    size_t end = units.size();
    if (reading.before) {
      PageSet next = take_group(units, begin, end, reading.before_pages);
      MOSE_TRY(reading.before(next));
    }
    MOSE_TRY(run_parallel(reading.threads, end - begin, [&](unsigned thread, size_t i) { return do_unit(thread, begin + i); }));
    begin = end;
  }
  if (reading.zero != nullptr) *reading.zero = joined(zeros);
  return {};
}

Result<Compared> compare(const SpaceProcess& process, const PageSet& pages, const Hashes& hashes, unsigned threads) {
  // Nothing was sent: all of it is to be brought, and what is zero shows when it is read for that. Not in the frozen tree.
  if (hashes.blocks() == 0) return Compared{{}, pages, {}};
  if (pages.empty()) return Compared{};
  MOSE_ASSIGN(ProcessMemory memory, ProcessMemory::open(process));
  std::vector<Unit> units = make_units(pages);
  std::vector<Reader> readers(std::min<size_t>(threads, units.size()));
  std::vector<std::vector<Piece>> zeros(units.size()), changes(units.size()), unreadable(units.size());
  auto do_unit = [&](unsigned thread, size_t i) -> Status {
    Reader& reader = readers[thread];
    MOSE_TRY(reader.judge(memory, units[i], hashes));
    if (!reader.unreadable.empty()) unreadable[i] = reader.pieces(units[i], Verdict::unreadable);
    zeros[i] = reader.pieces(units[i], Verdict::zero);
    changes[i] = reader.pieces(units[i], Verdict::changed);
    return {};
  };
  MOSE_TRY(run_parallel(threads, units.size(), do_unit));
  return Compared{joined(zeros), joined(changes), joined(unreadable)};
}

Status check_all_read(const PageSet& populated_unreadable) {
  if (populated_unreadable.empty()) return {};
  return fail("page " + std::to_string(populated_unreadable.runs().front().first) + " cannot be read");
}

PageSet known_pages(const PageSet& set, const Hashes& hashes) {
  PageSet known;
  for (const PageRun& run : set.runs()) {
    for (uint64_t page = run.first; page < run.end();) {
      const uint64_t block_end = std::min(run.end(), (page / Hashes::kBlockPages + 1) * Hashes::kBlockPages);
      const Hashes::Block* block = hashes.find_block(page);
      if (block == nullptr) {
        page = block_end;
        continue;
      }
      while (page < block_end) {
        uint64_t from = page;
        while (page < block_end && (*block)[page % Hashes::kBlockPages] != 0) ++page;
        if (page != from) known.add({from, page - from});
        while (page < block_end && (*block)[page % Hashes::kBlockPages] == 0) ++page;
      }
    }
  }
  return known;
}

uint64_t count_pages(const Hashes& hashes) {
  uint64_t pages = 0;
  hashes.for_each([&](uint64_t, uint64_t) { ++pages; });
  return pages;
}

bool Picking::pick() {
  constexpr uint64_t kScatter = 0x9e3779b97f4a7c15;  // multiplied by it, neighbouring numbers lie far apart
  const uint64_t stretch = seen / every, place = seen % every;
  ++seen;
  return place == (stretch * kScatter >> 32) % every;
}

Status look_for_changes(const SpaceProcess& process, const PageSet& pages, const Hashes& hashes, Sample& sample) {
  if (pages.empty()) return {};
  MOSE_ASSIGN(ProcessMemory memory, ProcessMemory::open(process));
  Reader reader;
  for (const Unit& unit : make_units(pages)) {
    MOSE_TRY(reader.judge(memory, unit, hashes));
    const auto end = reader.verdicts.begin() + static_cast<std::ptrdiff_t>(unit.pages);
    sample.changed += static_cast<uint64_t>(std::count_if(reader.verdicts.begin(), end, [](Verdict v) { return v == Verdict::changed || v == Verdict::zero; }));
    sample.read += unit.pages;
  }
  return {};
}

std::span<const PageSet> levels_of(std::span<const SpaceHeat> heat, SpaceId space) {
  auto it = std::ranges::find(heat, space, &SpaceHeat::space);
  return it == heat.end() ? std::span<const PageSet>{} : std::span<const PageSet>(it->levels);
}

Result<ScanStats> round_over(std::span<const SpaceProcess> processes,
                             const std::function<Status(const SpaceProcess&, ScanStats&)>& one) {
  const Timestamp start = now();
  ScanStats stats;
  for (const SpaceProcess& process : processes) {
    Status status = one(process, stats);
    if (!status && status.error().code == ESRCH) {
      ++stats.spaces_gone;
    } else if (!status) {
      return context("round over space " + std::to_string(process.space), status.error());
    }
  }
  stats.duration = now() - start;
  return stats;
}

Result<FinalPages> final_over(std::span<const SpaceProcess> processes,
                              const std::function<Result<SpacePages>(const SpaceProcess&, ScanStats&)>& one) {
  const Timestamp start = now();
  FinalPages final;
  for (const SpaceProcess& process : processes) {
    // One that has ended before is moved as that; it has no pages.
    const bool ended = process.object.empty() && is_zombie(process.pid);
    auto pages = one(process, final.stats);
    if (!pages) return context("final scan of space " + std::to_string(process.space), pages.error());
    // One that was killed meanwhile would have no pages, and its copy zeros in their place.
    if (auto whole = check_not_ending(process); !ended && !whole) return context("final scan of space " + std::to_string(process.space), whole.error());
    final.spaces.push_back(std::move(*pages));
  }
  final.stats.duration = now() - start;
  return final;
}

}  // namespace mose::sense
