// SPDX-License-Identifier: MIT
#include "restore/told_mappings.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/check.h"
#include "base/fd.h"
#include "base/log.h"
#include "restore/mapping_table.h"

namespace mose::restore {
namespace {

// Below it smaps is as fast: its cost is that of the pages.
constexpr uint64_t kResidentPagesMin = 4096;

static_assert(sizeof(mose_mapping_head) == 16 && sizeof(mose_mapped_process) == 24 && sizeof(mose_mapping_row) == 128);

uint64_t resident_pages(const ProcessHandle& process) {
  auto text = read_file("/proc/" + std::to_string(process.pid()) + "/statm");
  unsigned long size = 0, resident = 0;
  if (!text || std::sscanf(text->c_str(), "%lu %lu", &size, &resident) != 2) return 0;
  return resident;
}

bool fits_a_row(const MappingWords& mapping) { return mapping.words.size() < sizeof(mose_mapping_row::flags); }

mose_mapping_row row_of(const MappingWords& mapping) {
  MOSE_CHECK(fits_a_row(mapping), "longer ones are not told");
  mose_mapping_row row{mapping.start, mapping.end, {}};
  std::memcpy(row.flags, mapping.words.data(), mapping.words.size());
  return row;
}

template <typename T>
void append_bytes(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

std::vector<MappedProcess> mapped_processes(const MappingFlags& flags, const std::vector<ProcessHandle>& tree, Nanoseconds bound) {
  std::vector<MappedProcess> out;
  const Timestamp deadline = now() + bound;
  for (const ProcessHandle& process : tree) {
    if (now() >= deadline) break;
    if (resident_pages(process) < kResidentPagesMin) continue;
    auto mappings = flags.of(process.pid());
    if (mappings && !std::ranges::all_of(*mappings, fits_a_row)) mappings = fail("the flags of a mapping are too long");
    if (mappings) out.push_back({process.pid(), std::move(*mappings)});
    else log::debug("CRIU reads smaps", {{"pid", process.pid()}, {"reason", mappings.error().what}});
  }
  return out;
}

std::string mapping_table(const std::vector<MappedProcess>& processes) {
  std::string out;
  append_bytes(out, mose_mapping_head{MOSE_MAPPING_TABLE_MAGIC, processes.size()});
  uint64_t first = 0;
  for (const MappedProcess& process : processes) {
    append_bytes(out, mose_mapped_process{static_cast<uint64_t>(process.pid), first, process.mappings.size()});
    first += process.mappings.size();
  }
  for (const MappedProcess& process : processes) {
    for (const MappingWords& mapping : process.mappings) append_bytes(out, row_of(mapping));
  }
  return out;
}

}  // namespace mose::restore
