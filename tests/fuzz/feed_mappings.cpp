// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/fd.h"
#include "fuzz/targets.h"
#include "restore/mapping_table.h"

extern "C" size_t merge_on_host(const char* maps, const mose_mapping_row* rows, uint64_t count, char* out);
extern "C" int told_on_host(int directory);

namespace mose::fuzz {
namespace {

// As describe() of the preload counts it: the label and two line ends per row.
constexpr size_t kRoomPerRow = sizeof(mose_mapping_row::flags) + sizeof "VmFlags: " + 1;

// Rows and lines for them: the lists may be of the same mappings.
void merge(Input input, bool same) {
  const size_t count = std::min<size_t>(input.size() / sizeof(mose_mapping_row), 64);
  std::vector<mose_mapping_row> rows(count);
  if (count != 0) memcpy(rows.data(), input.data(), count * sizeof rows[0]);
  std::string maps(text_of(input.subspan(count * sizeof(mose_mapping_row))));
  maps = maps.c_str();
  if (same) {
    const std::string line = maps.substr(0, maps.find('\n'));
    maps.clear();
    for (const mose_mapping_row& row : rows) {
      char range[40];
      snprintf(range, sizeof range, "%08llx-%08llx ", static_cast<unsigned long long>(row.start), static_cast<unsigned long long>(row.end));
      maps += range + line + "\n";
    }
  }
  // As much as there is in the preload, and no byte more.
  const size_t room = maps.size() + count * kRoomPerRow + 1;
  auto out = std::make_unique<char[]>(room);
  const size_t bytes = merge_on_host(maps.c_str(), rows.data(), count, out.get());
  MOSE_CHECK(bytes <= room, "it fits");
  MOSE_CHECK(!same || count == 0 || bytes >= maps.size(), "one list is told to the end");
}

// The table where CRIU inherits it, for our own process.
void tell(Input input) {
  std::string table(text_of(input));
  if (table.size() >= sizeof(mose_mapping_head) + sizeof(mose_mapped_process)) {
    const uint64_t magic = MOSE_MAPPING_TABLE_MAGIC, pid = static_cast<uint64_t>(getpid());
    memcpy(table.data(), &magic, sizeof magic);
    memcpy(table.data() + sizeof(mose_mapping_head), &pid, sizeof pid);
  }
  // Out of the way of the number that the table must have.
  auto high = [](Fd fd) { return Fd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 64)); };
  const Fd file = high(Fd(memfd_create("table", MFD_CLOEXEC)));
  const Fd directory = high(Fd(::open(("/proc/" + std::to_string(getpid())).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
  const Fd kept(fcntl(MOSE_MAPPING_TABLE_FD, F_DUPFD_CLOEXEC, 64));
  MOSE_CHECK(file && directory && write_all(file.get(), table), "a memory file");
  MOSE_CHECK(dup2(file.get(), MOSE_MAPPING_TABLE_FD) == MOSE_MAPPING_TABLE_FD, "the table's number");
  const int told = told_on_host(directory.get());
  if (told >= 0) ::close(told);
  if (kept) (void)dup2(kept.get(), MOSE_MAPPING_TABLE_FD);
  else ::close(MOSE_MAPPING_TABLE_FD);
}

}  // namespace

void feed_mappings(Input input) {
  if (input.empty()) return;
  const auto kind = static_cast<unsigned>(input[0]);
  if (kind % 4 == 3) tell(input.subspan(1));
  else merge(input.subspan(1), kind % 4 == 1);
}

}  // namespace mose::fuzz
