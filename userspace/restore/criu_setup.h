// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "kernel/mapping_flags.h"

namespace mose::restore {

// The installed CRIU, made ready once per start of the agent: its version, and a mount namespace with a tmpfs on /run
// that holds CRIU's cache of kernel features. CRIU keeps that cache on tmpfs only; without it every call costs 40-60 ms.
// All later CRIU processes enter copies of this namespace.
class CriuSetup {
 public:
  struct Options {
    std::string criu;                        // empty: $MOSE_PREFIX/criu/bin/criu, /opt/mose/criu/bin/criu, /usr/sbin/criu
    Nanoseconds bound{10'000'000'000};       // for all of it
  };
  // Runs `criu check` in the new namespace. A check that complains is no failure (it asks for features that we do not
  // use); a CRIU that does not run, or is older than kCriuVersionMin, is.
  [[nodiscard]] static Result<CriuSetup> prepare(const Options& options);

  [[nodiscard]] const std::string& criu() const { return criu_; }
  [[nodiscard]] const std::string& preload() const { return preload_; }
  [[nodiscard]] const std::string& version() const { return version_; }  // "4.2.1"
  [[nodiscard]] int mounts_fd() const { return mounts_.get(); }
  // Null: this kernel does not tell (the reason is in the log), and CRIU reads smaps, which takes time with the memory.
  [[nodiscard]] const MappingFlags* mapping_flags() const { return mapping_flags_ ? &*mapping_flags_ : nullptr; }

 private:
  std::string criu_, preload_, version_;
  Fd mounts_;
  std::optional<MappingFlags> mapping_flags_;
};

// Older ones cannot dump a TCP socket on kernels from 6.16 on and have another layout of page maps.
inline constexpr int kCriuVersionMin = 402;  // major * 100 + minor

// "Version: 4.2.1" -> "4.2.1"; the number of "4.2.1" is 402.
[[nodiscard]] Result<std::string> parse_criu_version(std::string_view output);
[[nodiscard]] Result<int> criu_version_number(std::string_view version);

}  // namespace mose::restore
