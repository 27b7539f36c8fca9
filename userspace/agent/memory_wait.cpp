// SPDX-License-Identifier: MIT
#include "agent/memory_wait.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>

#include "base/units.h"
#include "model/page_set.h"

namespace mose::agent {
namespace {

std::string time_of_day(int64_t monotonic_us) {
  return fmt::format("{:%F %T}", fmt::localtime(static_cast<std::time_t>(to_unix_ms(monotonic_us) / 1000)));
}

bool lasts(int64_t since_us, Timestamp now) { return since_us != 0 && since_us <= to_us(now - kWaitAlarm); }

}  // namespace

bool alarming(const MemoryWait& wait, Timestamp now) {
  if (wait.missing_pages == 0) return false;
  return lasts(wait.waits.since_us(), now) || (!wait.trouble.reason.empty() && lasts(wait.trouble.since_us, now));
}

int64_t to_unix_ms(int64_t monotonic_us) { return unix_now_ms() - (to_us(now()) - monotonic_us) / 1000; }

std::string what_is_missing(const MemoryWait& wait, const std::string& workload, const std::string& source) {
  return fmt::format("{} of {} pages ({} of {}) of {} are only at node {}", wait.missing_pages, wait.pages,
                     format_bytes(wait.missing_pages * kPageSize), format_bytes(wait.pages * kPageSize), workload, source);
}

std::string explain(const MemoryWait& wait, const std::string& workload, const std::string& source) {
  std::string out = what_is_missing(wait, workload, source);
  if (!wait.trouble.reason.empty()) {
    out += fmt::format(", from where none has come since {} ({})", time_of_day(wait.trouble.since_us), wait.trouble.reason);
  }
  if (wait.waits.faults != 0) {
    out += fmt::format("; {} stands still where it needs one of them:", workload);
    const char* separator = " ";
    for (const WaitingPage& page : wait.waits.oldest) {
      out += fmt::format("{}process {} for the page at {:#x} since {}", separator, page.space, page.page * kPageSize, time_of_day(page.since_us));
      separator = ", ";
    }
    if (wait.waits.faults > wait.waits.oldest.size()) out += fmt::format(" and {} more", wait.waits.faults - wait.waits.oldest.size());
  }
  return out + fmt::format("; it goes on by itself as soon as node {0} brings them; if node {0} is gone for good so are they, and "
                           "`mose stop {1}` here ends {1} and gives the migration up", source, workload);
}

}  // namespace mose::agent
