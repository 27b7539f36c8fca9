// SPDX-License-Identifier: MIT
// Mappings and the pages that the images hold.
#include <fmt/format.h>

#include <algorithm>

#include "model/page_set.h"
#include "restore/standby_parts.h"

namespace mose::restore {
namespace {

constexpr uint32_t kStatusFilePrivate = 1u << 6, kStatusFileShared = 1u << 7;
constexpr uint32_t kFlagParent = 1, kFlagLazy = 2, kFlagPresent = 4;

// The pages that an image holds, ascending, and where.
struct Pages {
  struct Run {
    PageRun pages;
    uint64_t offset = 0;  // bytes in the pages image
  };
  std::vector<Run> runs;
  std::string_view contents;

  [[nodiscard]] std::string_view page(const Run& run, uint64_t number) const {
    return contents.substr(run.offset + (number - run.pages.first) * kPageSize, kPageSize);
  }
};

Result<Pages> read_pages(const ImageSet& images, SpaceId space, std::set<std::string>& compared) {
  const std::string name = "pagemap-" + std::to_string(space) + ".img";
  Pages out;
  MOSE_ASSIGN(ImageContent content, images.content(name, kMagicPageMap));
  if (content.messages.empty()) return fail(name + " is empty");
  compared.insert(name);
  MOSE_ASSIGN(ImageFields head, ImageFields::parse(content.messages[0]));
  auto id = head.take_number(1);
  if (!id || !head.empty()) return fail(name + " has a head that is not understood");
  const std::string pages_name = "pages-" + std::to_string(*id) + ".img";
  compared.insert(pages_name);
  out.contents = images.bytes(pages_name).value_or("");
  uint64_t next = 0, offset = 0;
  for (size_t i = 1; i < content.messages.size(); ++i) {
    MOSE_ASSIGN(ImageFields entry, ImageFields::parse(content.messages[i]));
    auto address = entry.take_number(1);
    auto count_old = entry.take_number(2);
    auto flags = entry.take_number(4).value_or(kFlagPresent);
    auto count = entry.take_number(5);
    if (!count) count = count_old;
    if (!address || !count || !entry.empty() || *address % kPageSize != 0)
      return fail(name + " has an entry that is not understood");
    const uint64_t first = *address >> kPageShift;
    if (first < next || *count == 0 || *count > kUserPages || first > kUserPages - *count)
      return fail(name + " names impossible pages");
    next = first + *count;
    if (flags & kFlagParent || flags & ~uint64_t{kFlagLazy | kFlagPresent})
      return fail(name + " has an entry that is not understood");
    if (!(flags & kFlagPresent)) continue;
    if (*count * kPageSize > out.contents.size() - offset) return fail(pages_name + " is cut off");
    out.runs.push_back({{first, *count}, offset});
    offset += *count * kPageSize;
  }
  if (offset != out.contents.size()) return fail(pages_name + " has more pages than its page map");
  return out;
}

// Mappings whose contents are ours to change, by kind.
struct Areas {
  PageSet writable_kinds;  // private: pages may differ
  PageSet anonymous;       // a page that has gone is a page of zeros
  PageSet lazy;
  PageSet vdso;
};

Status compare_vmas(StandbyComparison& c, FieldPair& mm, const std::string& what, ImageProcess& process) {
  std::vector<std::string_view> early = mm.early.take_messages(14), final = mm.final.take_messages(14);
  auto changed = [&](uint64_t address, const std::string& how) {
    return fail(fmt::format("the mappings of {} have changed since the standby was made (from {:x} on: {})", what, address, how));
  };
  const std::string counts = std::to_string(early.size()) + " have become " + std::to_string(final.size());
  for (size_t i = 0; i < std::min(early.size(), final.size()); ++i) {
    MOSE_ASSIGN(FieldPair vma, FieldPair::parse(what, early[i], final[i]));
    ImageFields copy = vma.final;
    ImageVma out;
    out.start = copy.take_number(1).value_or(0);
    out.end = copy.take_number(2).value_or(0);
    out.flags = static_cast<uint32_t>(copy.take_number(6).value_or(0));
    const auto status = static_cast<uint32_t>(copy.take_number(7).value_or(0));
    out.status = status;
    const uint64_t before = process.vmas.empty() ? 0 : process.vmas.back().end;
    if (out.start >= out.end || out.start < before || out.start % kPageSize || out.end % kPageSize)
      return fail("the mappings of " + what + " are out of order");
    process.vmas.push_back(out);
    if (status & (kStatusFilePrivate | kStatusFileShared)) {
      auto early_file = vma.early.take_number(4);
      auto final_file = vma.final.take_number(4);
      if (!early_file || !final_file ||
          !c.pair_files(static_cast<uint32_t>(*early_file), static_cast<uint32_t>(*final_file)))
        return changed(out.start, "another file");
    }
    auto field = ImageFields::difference(vma.early, vma.final);
    if (field && early.size() == final.size()) return changed(out.start, "field " + *field);
    if (field) return changed(out.start, counts);
  }
  if (early.size() != final.size()) return changed(0, counts);
  return {};
}

// Adds the pages of `run` that are to be written; adjacent ones as one.
void add_page(StandbyDelta& delta, SpaceId space, uint64_t number, std::string_view contents) {
  if (!delta.pages.empty()) {
    StandbyPages& last = delta.pages.back();
    const bool adjacent =
        last.space == space && last.run.end() == number &&
        (contents.empty() ? last.contents.empty()
                          : !last.contents.empty() && last.contents.data() + last.contents.size() == contents.data());
    if (adjacent) {
      ++last.run.count;
      if (!contents.empty()) last.contents = {last.contents.data(), last.contents.size() + contents.size()};
      return;
    }
  }
  delta.pages.push_back({space, {number, 1}, contents});
}

Status compare_pages(StandbyComparison& c, const ImageProcess& process, const std::string& what) {
  MOSE_ASSIGN(Pages early, read_pages(c.early, process.space, c.compared));
  MOSE_ASSIGN(Pages final, read_pages(c.final, process.space, c.compared));
  Areas areas;
  for (const ImageVma& vma : process.vmas) {
    PageRun run{vma.start >> kPageShift, (vma.end - vma.start) >> kPageShift};
    if (vma.vdso())
      areas.vdso.add(run);
    else if (vma.is_private())
      areas.writable_kinds.add(run);
    if (vma.is_private() && !vma.vdso() && !(vma.status & kStatusFilePrivate)) areas.anonymous.add(run);
  }
  areas.lazy = lazy_area(process);
  PageSet early_present, final_present;
  for (const Pages::Run& run : early.runs) early_present.add(run.pages);
  for (const Pages::Run& run : final.runs) final_present.add(run.pages);
  if (c.memory == StandbyMemory::eager &&
      !(final_present.intersect(areas.lazy).empty() && early_present.intersect(areas.lazy).empty()))
    return fail("the images of " + what + " hold pages that come lazily");
  // What is not private here: CRIU knows why, we do not.
  if (final_present.intersect(areas.writable_kinds.unite(areas.vdso)).pages() != final_present.pages())
    return fail("the images of " + what + " hold pages outside of its private mappings");
  const PageSet gone = early_present.minus(final_present).minus(areas.vdso);
  if (gone.intersect(areas.anonymous).pages() != gone.pages())
    return fail(what + " has given pages of a file back since the standby was made");

  size_t at = 0;
  for (const Pages::Run& run : final.runs) {
    for (uint64_t page = run.pages.first; page < run.pages.end(); ++page) {
      while (at < early.runs.size() && early.runs[at].pages.end() <= page) ++at;
      std::string_view contents = final.page(run, page);
      const bool had = at < early.runs.size() && early.runs[at].pages.first <= page;
      if (had && early.page(early.runs[at], page) == contents) continue;
      if (areas.vdso.contains(page)) return fail("the vdso of " + what + " is another one since the standby was made");
      add_page(c.delta, process.space, page, contents);
    }
  }
  for (const PageRun& run : gone.runs()) c.delta.pages.push_back({process.space, run, {}});
  return {};
}

Status compare_fs(StandbyComparison& c, SpaceId space, const std::string& what) {
  const std::string name = "fs-" + std::to_string(space) + ".img";
  MOSE_ASSIGN(std::string_view early, c.early.message(name, kMagicFs));
  MOSE_ASSIGN(std::string_view final, c.final.message(name, kMagicFs));
  c.compared.insert(name);
  MOSE_ASSIGN(FieldPair fs, FieldPair::parse(name, early, final));
  for (uint32_t number : {1u, 2u}) {
    auto early_id = fs.early.take_number(number);
    auto final_id = fs.final.take_number(number);
    if (!early_id || !final_id || !c.pair_files(static_cast<uint32_t>(*early_id), static_cast<uint32_t>(*final_id)))
      return fail(what + " has changed its directory since the standby was made");
  }
  return fs.rest_equal(what, {{"3", "its umask"}});
}

}  // namespace

Status compare_memory(StandbyComparison& c) {
  for (const auto& [space, threads] : c.delta.processes) {
    const std::string what = "process " + std::to_string(space);
    const std::string name = "mm-" + std::to_string(space) + ".img";
    MOSE_ASSIGN(std::string_view early, c.early.message(name, kMagicMm));
    MOSE_ASSIGN(std::string_view final, c.final.message(name, kMagicMm));
    c.compared.insert(name);
    MOSE_ASSIGN(FieldPair mm, FieldPair::parse(name, early, final));
    auto early_exe = mm.early.take_number(12);
    auto final_exe = mm.final.take_number(12);
    if (!early_exe || !final_exe || !c.pair_files(static_cast<uint32_t>(*early_exe), static_cast<uint32_t>(*final_exe)))
      return fail(what + " runs another program since the standby was made");
    ImageProcess process;
    process.space = space;
    MOSE_TRY(compare_vmas(c, mm, what, process));
    MOSE_TRY(mm.rest_equal("the memory of " + what, {{"7", "its break"}}));
    MOSE_TRY(compare_pages(c, process, what));
    MOSE_TRY(compare_fs(c, space, what));
  }
  return {};
}

}  // namespace mose::restore
