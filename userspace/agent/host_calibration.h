// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "sense/calibration.h"

// What tracking costs on this host (sense/calibration.h), kept in <state_dir>/calibration so that it is measured once
// per host, kernel and processor, not at every start. Any thread but the event loop's, which known_calibration() is
// for.
namespace mose::agent {

// Reads what is kept. What is damaged, of another version or of another host is named in the log, measured anew and
// replaced. That it cannot be written is a warning only.
[[nodiscard]] Result<sense::Calibration> kept_or_measured(const std::string& state_dir);

// The same, and the same answer until this process ends. Waits for who measures already.
[[nodiscard]] Result<sense::Calibration> host_calibration(const std::string& state_dir);
// What host_calibration() has found so far: never waits for a measurement.
[[nodiscard]] std::optional<sense::Calibration> known_calibration();

}  // namespace mose::agent
