// SPDX-License-Identifier: MIT
#include "agent/host_calibration.h"

#include <cerrno>
#include <mutex>

#include "agent/durable_file.h"
#include "base/fd.h"
#include "base/log.h"

namespace mose::agent {
namespace {

constexpr size_t kCalibrationBytesMax = 4096;

struct KnownCalibration {
  std::mutex measuring;  // one at a time: two would measure each other
  std::mutex lock;       // of what follows
  std::optional<sense::Calibration> value;
};

KnownCalibration& of_this_process() {
  static KnownCalibration known;
  return known;
}

// Nothing where none is of use here; why not is in the log.
std::optional<sense::Calibration> kept_calibration(const std::string& path) {
  auto text = read_file(path, kCalibrationBytesMax);
  if (!text && text.error().code == ENOENT) return std::nullopt;
  auto calibration =
      text ? sense::calibration_from_text(*text) : Result<sense::Calibration>(std::unexpected(std::move(text.error())));
  if (!calibration) {
    log::warn("the kept calibration is of no use", {{"file", path}, {"reason", calibration.error().what}});
    return std::nullopt;
  }
  if (calibration->host != sense::host_identity()) {
    log::info("the kept calibration is of another kernel or processor", {{"file", path}, {"host", calibration->host}});
    return std::nullopt;
  }
  return *calibration;
}

}  // namespace

Result<sense::Calibration> kept_or_measured(const std::string& state_dir) {
  const std::string path = state_dir + "/calibration";
  if (auto kept = kept_calibration(path)) return *kept;
  MOSE_ASSIGN(sense::Calibration measured, sense::calibrate());
  log::info("the cost of tracking memory was measured", {{"figures", sense::describe(measured)}});
  if (auto written = replace_file(path, sense::to_text(measured)); !written)
    log::warn("the calibration is not kept", {{"reason", written.error().what}});
  return measured;
}

Result<sense::Calibration> host_calibration(const std::string& state_dir) {
  KnownCalibration& known = of_this_process();
  std::lock_guard one(known.measuring);
  if (auto found = known_calibration()) return *found;
  MOSE_ASSIGN(sense::Calibration calibration, kept_or_measured(state_dir));
  std::lock_guard lock(known.lock);
  known.value = calibration;
  return calibration;
}

std::optional<sense::Calibration> known_calibration() {
  KnownCalibration& known = of_this_process();
  std::lock_guard lock(known.lock);
  return known.value;
}

}  // namespace mose::agent
