// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "lab/names.h"

namespace mose::lab {

// The last five seconds before a move say what is normal (client/interruption.h).
inline constexpr Nanoseconds kQuietUsual = std::chrono::milliseconds(5500);
inline constexpr Nanoseconds kQuietMin = std::chrono::seconds(1), kQuietMax = std::chrono::minutes(10);

// What the commands of a lab take. One set for all: a command refuses the options that say nothing to it.
struct CommandLine {
  std::string verb;
  std::vector<std::string> words;    // after the verb, without options
  std::vector<std::string> command;  // after "--"
  std::string lab = kDefaultLab;
  std::optional<double> link_rate_mbit, link_rtt_ms;
  bool json = false;
  bool tls = true;  // nodes that know each other by certificates; --plain: by their names, and nothing is encrypted
  bool keep = false, no_agents = false, baseline_only = false;
  std::string json_file;
  std::string strategy = "auto";
  std::string tracker = "auto";  // how written pages are found, as of `mose migrate`
  bool auto_converge = false;
  std::string max_bandwidth;       // of the pages, as of `mose migrate`; empty: unlimited
  std::string standby = "auto";  // or "never", as of `mose migrate`
  std::string steer;  // tc, xdp or xdp-generic; empty: what nodes do by themselves
  std::vector<std::string> baselines;
  double megabytes = 200;
  uint32_t connections = 16, probes = 2, repeat = 5;
  uint64_t seed = 1;
  Nanoseconds quiet = kQuietUsual;  // under load, before each move
  // The load: absent is the closed loop. `mix` and `keys` as of mose-client.
  std::optional<uint32_t> rate;
  std::string mix = "set", keys = "uniform";
  uint32_t value_bytes = 1000;
};

inline constexpr double kLinkRttMsMin = 0.2, kLinkRttMsMax = 2000;  // a queue and two polls cost 0.1 ms
inline constexpr uint32_t kRepeatMax = 1000;
inline constexpr double kMegabytesMax = 1 << 16;

// The baselines that there are: these, and kNaiveProtection.
inline constexpr const char *kStockCold = "stock-cold", *kStockLazy = "stock-lazy";

// Whether a run has anything that MOSE moves.
[[nodiscard]] bool needs_agents(const CommandLine& line);

// Whether help is asked for, before "--".
[[nodiscard]] bool asks_for_help(const std::vector<std::string>& args);
[[nodiscard]] Result<CommandLine> parse_command_line(const std::vector<std::string>& args);

}  // namespace mose::lab
