// SPDX-License-Identifier: MIT
#include "sense/tracker.h"

#include "base/check.h"
#include "kernel/probe.h"

namespace mose::sense {
namespace {

Status refused(Tracker tracker, const std::string& reason) {
  return fail("written pages cannot be found with --tracker " + std::string(to_string(tracker)) + " on this host: " +
              reason + "; leave it out, or use hash");
}

}  // namespace

Status can_track(Tracker tracker) {
  if (tracker == Tracker::write_protection || tracker == Tracker::write_protection_early) {
    ProbeResult found = probe("uffd-wp-async");
    if (found.state != ProbeState::yes) return refused(tracker, found.detail);
  }
  if (tracker == Tracker::soft_dirty) {
    ProbeResult found = probe("soft-dirty");
    if (found.state != ProbeState::yes) return refused(tracker, found.detail);
    // Nothing that it could do is left undone: its reset costs the workload the same faults as write protection, and
    // what it cannot see hashing sees.
    return refused(tracker, "the kernel has it, this version makes no use of it");
  }
  return {};
}

std::unique_ptr<DirtySource> make_source(Tracker tracker, const WriteScanOptions& options) {
  MOSE_CHECK(tracker != Tracker::soft_dirty, "refused before");
  if (tracker == Tracker::hash) return std::make_unique<HashScan>(options.hash);
  if (tracker != Tracker::write_protection_early) return std::make_unique<WriteScan>(options);
  WriteScanOptions early = options;
  early.late = false;
  early.why = "armed from the first round on, as asked for";
  return std::make_unique<WriteScan>(std::move(early));
}

}  // namespace mose::sense
