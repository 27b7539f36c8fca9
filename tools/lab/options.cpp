// SPDX-License-Identifier: MIT
#include "lab/options.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <map>

#include "base/clock.h"
#include "base/units.h"
#include "client/load_client.h"
#include "model/migration.h"

namespace mose::lab {
namespace {

using Values = std::vector<std::string>;

// Which options a verb takes.
const std::map<std::string, Values> kVerbs = {
    {"up", {"--name", "--link", "--steer", "--plain", "--no-agents"}},
    {"down", {"--name"}},
    {"status", {"--name"}},
    {"list", {}},
    {"exec", {"--name"}},
    {"restart-agent", {"--name"}},
    {"run",
     {"--name", "--link", "--steer", "--plain", "--mb", "--connections", "--probes", "--repeat", "--baseline", "--strategy",
      "--tracker", "--seed", "--quiet", "--keep", "--rate", "--mix", "--keys", "--set-size", "--baseline-only",
      "--auto-converge", "--standby", "--max-bandwidth"}},
};

template <typename T>
Status parse_number(const std::string& option, const std::string& text, T low, T high, T& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error == std::errc{} && end == text.data() + text.size() && out >= low && out <= high) return {};
  return fail(option + " must be a number from " + std::to_string(low) + " to " + std::to_string(high) + ", not \"" + text + "\"");
}

// "rate=1gbit,rtt=10ms"
Status parse_link(const std::string& text, CommandLine& out) {
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find(',', begin), text.size());
    std::string part = text.substr(begin, end - begin);
    begin = end + 1;
    if (part.starts_with("rate=")) {
      auto rate = parse_bandwidth(part.substr(5));
      if (!rate) return context("--link", rate.error());
      out.link_rate_mbit = static_cast<double>(*rate) / 1e6;
    } else if (part.starts_with("rtt=")) {
      auto rtt = parse_duration(part.substr(4));
      if (!rtt) return context("--link", rtt.error());
      out.link_rtt_ms = to_ms(*rtt);
      if (*out.link_rtt_ms < kLinkRttMsMin || *out.link_rtt_ms > kLinkRttMsMax) {
        return fail("--link rtt= is " + std::to_string(kLinkRttMsMin) + " to " + std::to_string(kLinkRttMsMax) + " ms");
      }
    } else {
      return fail("--link takes rate=BANDWIDTH and rtt=TIME, not \"" + part + "\"");
    }
  }
  return {};
}

Status parse_baselines(const std::string& text, CommandLine& out) {
  out.baselines.clear();
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find(',', begin), text.size());
    std::string name = text.substr(begin, end - begin);
    begin = end + 1;
    if (name != kStockCold && name != kStockLazy && name != kNaiveProtection) {
      return fail("unknown baseline \"" + name + "\"; there are: " + kStockCold + ", " + kStockLazy + ", " + kNaiveProtection);
    }
    if (std::find(out.baselines.begin(), out.baselines.end(), name) != out.baselines.end()) {
      return fail("baseline " + name + " is named twice");
    }
    out.baselines.push_back(name);
  }
  // Both are the one service that stock CRIU moves, at one address.
  auto has = [&](const char* name) { return std::find(out.baselines.begin(), out.baselines.end(), name) != out.baselines.end(); };
  if (has(kStockCold) && has(kStockLazy)) return fail(std::string("baselines ") + kStockCold + " and " + kStockLazy + " need runs of their own");
  return {};
}

Status parse_steer(const std::string& text, CommandLine& out) {
  if (text != "tc" && text != "xdp" && text != "xdp-generic") return fail("--steer takes tc, xdp or xdp-generic, not \"" + text + "\"");
  out.steer = text;
  return {};
}

Status parse_standby(const std::string& text, CommandLine& out) {
  if (text != "auto" && text != "never") return fail("--standby takes auto or never, not \"" + text + "\"");
  out.standby = text;
  return {};
}

using Setter = std::function<Status(const std::string&, CommandLine&)>;
const std::map<std::string, Setter>& setters() {
  static const std::map<std::string, Setter> table = {
      {"--name",
       [](const std::string& v, CommandLine& c) {
         c.lab = v;
         return check_lab_name(v);
       }},
      {"--link", parse_link},
      {"--steer", parse_steer},
      {"--baseline", parse_baselines},
      {"--standby", parse_standby},
      {"--max-bandwidth",
       [](const std::string& v, CommandLine& c) -> Status {
         auto bound = parse_bandwidth(v);
         if (!bound) return context("--max-bandwidth", bound.error());
         c.max_bandwidth = v;
         return {};
       }},
      {"--json",
       [](const std::string& v, CommandLine& c) {
         c.json = true;
         c.json_file = v;
         return Status{};
       }},
      {"--strategy",
       [](const std::string& v, CommandLine& c) -> Status {
         MOSE_ASSIGN(Strategy strategy, parse_strategy(v));
         c.strategy = to_string(strategy);
         return {};
       }},
      {"--tracker",
       [](const std::string& v, CommandLine& c) -> Status {
         MOSE_ASSIGN(Tracker tracker, parse_tracker(v));
         c.tracker = to_string(tracker);
         return {};
       }},
      {"--mb",
       [](const std::string& v, CommandLine& c) { return parse_number("--mb", v, 0.1, kMegabytesMax, c.megabytes); }},
      {"--connections",
       [](const std::string& v, CommandLine& c) { return parse_number("--connections", v, 1u, 1024u, c.connections); }},
      {"--probes", [](const std::string& v, CommandLine& c) { return parse_number("--probes", v, 1u, 64u, c.probes); }},
      {"--repeat",
       [](const std::string& v, CommandLine& c) { return parse_number("--repeat", v, 1u, kRepeatMax, c.repeat); }},
      {"--rate", [](const std::string& v,
                    CommandLine& c) { return parse_number("--rate", v, 1u, client::kRateMax, c.rate.emplace()); }},
      {"--mix",
       [](const std::string& v, CommandLine& c) -> Status {
         MOSE_ASSIGN(client::Mix mix, client::parse_mix(v));
         c.mix = client::to_string(mix);
         return {};
       }},
      {"--keys",
       [](const std::string& v, CommandLine& c) -> Status {
         MOSE_ASSIGN([[maybe_unused]] auto parsed, client::parse_key_distribution(v));
         c.keys = v;
         return {};
       }},
      {"--set-size",
       [](const std::string& v, CommandLine& c) {
         return parse_number("--set-size", v, static_cast<uint32_t>(client::kValueHeaderBytes), client::kValueBytesMax,
                             c.value_bytes);
       }},
      {"--quiet",
       [](const std::string& v, CommandLine& c) -> Status {
         auto quiet = parse_duration(v);
         if (!quiet) return context("--quiet", quiet.error());
         if (*quiet < kQuietMin || *quiet > kQuietMax) return fail("--quiet is 1s to 10m, not \"" + v + "\"");
         c.quiet = *quiet;
         return {};
       }},
      {"--seed",
       [](const std::string& v, CommandLine& c) { return parse_number("--seed", v, uint64_t{0}, UINT64_MAX, c.seed); }},
  };
  return table;
}

bool set_flag(const std::string& option, CommandLine& out) {
  if (option == "--plain") {
    out.tls = false;
    return true;
  }
  if (option == "--keep") return out.keep = true;
  if (option == "--no-agents") return out.no_agents = true;
  if (option == "--auto-converge") return out.auto_converge = true;
  if (option == "--baseline-only") return out.baseline_only = true;
  return false;
}

}  // namespace

bool needs_agents(const CommandLine& line) {
  auto naive = std::find(line.baselines.begin(), line.baselines.end(), kNaiveProtection);
  return !line.baseline_only || naive != line.baselines.end();
}

bool asks_for_help(const std::vector<std::string>& args) {
  auto end = std::find(args.begin(), args.end(), "--");
  bool word = !args.empty() && args[0] == "help";
  return word || std::any_of(args.begin(), end, [](const std::string& arg) { return arg == "--help" || arg == "-h"; });
}

Result<CommandLine> parse_command_line(const std::vector<std::string>& args) {
  CommandLine out;
  if (args.empty()) return fail("lab needs a command");
  out.verb = args[0];
  auto verb = kVerbs.find(out.verb);
  if (verb == kVerbs.end()) return fail("unknown command \"lab " + out.verb + "\"");
  for (size_t i = 1; i < args.size(); ++i) {
    if (args[i] == "--") {
      out.command.assign(args.begin() + static_cast<ptrdiff_t>(i) + 1, args.end());
      break;
    }
    if (!args[i].starts_with("--")) {
      out.words.push_back(args[i]);
      continue;
    }
    size_t equals = args[i].find('=');
    std::string option = args[i].substr(0, equals);
    bool json = option == "--json";
    if (!json && std::find(verb->second.begin(), verb->second.end(), option) == verb->second.end()) {
      return fail("lab " + out.verb + " takes no option " + option);
    }
    if (equals == std::string::npos && set_flag(option, out)) continue;
    // --json with a file name belongs to `run`; elsewhere it is a flag.
    if (json && out.verb != "run" && equals == std::string::npos) {
      out.json = true;
      continue;
    }
    std::string value;
    if (equals != std::string::npos) {
      value = args[i].substr(equals + 1);
    } else if (i + 1 < args.size() && (!json || !args[i + 1].starts_with("--"))) {
      value = args[++i];
    } else if (json) {
      value = "-";
    } else {
      return fail(option + " needs a value");
    }
    auto setter = setters().find(option);
    if (setter == setters().end()) return fail(option + " takes no value");
    MOSE_TRY(setter->second(value, out));
  }
  if (out.link_rtt_ms && out.steer.starts_with("xdp"))
    return fail("--steer " + out.steer + " needs a link without rtt=");
  if (out.auto_converge) {
    MOSE_ASSIGN(Strategy strategy, parse_strategy(out.strategy));
    MOSE_TRY(may_converge(strategy));
  }
  if (!out.rate && (out.mix != "set" || out.keys != "uniform"))
    return fail("--mix and --keys say nothing without --rate");
  return out;
}

}  // namespace mose::lab
