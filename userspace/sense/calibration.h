// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

// What finding written pages costs on this host. It decides whether a workload is write-protected from the first round
// on or for the last one only, and differs by a factor of ten between machines: a write fault takes well under 1 us on
// bare metal and 11-16 us on some virtual machines. So it is measured, once per host and kernel.
namespace mose::sense {

// Microseconds per page.
struct Calibration {
  std::string host;  // what it holds for: kernel and processor
  // What a write to a protected page takes more than another write. Absent: pages cannot be protected here.
  std::optional<double> fault_us;
  std::optional<double> scan_us;  // looking at the kernel's record of one page; absent with fault_us
  double copy_us = 0;             // reading one page of another process
  double hash_us = 0;             // hashing one page
};

// This kernel and this processor.
[[nodiscard]] std::string host_identity();

// Measures with 5 MiB of memory of this process, on the calling thread: 5 ms of processor time on bare metal, 50 ms
// where a page fault costs 16 us. The least of several tries of each, because what else runs on the host only adds.
// Figures that cannot be true are an error.
[[nodiscard]] Result<Calibration> calibrate();

// As a text to keep. A text of another version, or one that is damaged, is an error.
[[nodiscard]] std::string to_text(const Calibration& calibration);
[[nodiscard]] Result<Calibration> calibration_from_text(std::string_view text);

// When to protect, and why: a sentence with the figures.
struct TrackingChoice {
  bool late = true;  // for the round that may be the last only
  bool dear = true;  // a write fault costs more than a page that the final scan reads: what is hot is best left unprotected
  std::string reason;
};
// A protected page costs the workload a fault when it is written; a hashed one costs the agent a copy and a hash
// whether it was written or not. Protection from the first round on is worth it where the workload pays no more than
// that.
[[nodiscard]] TrackingChoice choose_tracking(const std::optional<Calibration>& calibration);

// One line for `mose check`.
[[nodiscard]] std::string describe(const Calibration& calibration);

}  // namespace mose::sense
