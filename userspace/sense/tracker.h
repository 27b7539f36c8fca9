// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "model/dirty_source.h"
#include "model/migration.h"
#include "sense/write_scan.h"

// The operator's choice of how written pages are found.
namespace mose::sense {

// Whether this host can do it: the reason why not, and what to ask for instead. Probes it, once.
[[nodiscard]] Status can_track(Tracker tracker);

// A tracker that can_track(). Automatic: write protection where the host and the process have it, contents elsewhere;
// what was at work, and why, is told by the source. A process that cannot be write-protected is hashed with either.
[[nodiscard]] std::unique_ptr<DirtySource> make_source(Tracker tracker, const WriteScanOptions& options);

}  // namespace mose::sense
