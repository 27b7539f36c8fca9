// SPDX-License-Identifier: MIT
#include "agent/config.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "agent/toml.h"
#include "base/directory.h"
#include "base/fd.h"
#include "base/units.h"
#include "kernel/cgroup.h"
#include "kernel/socket.h"
#include "mose/wire/frame.h"

namespace mose::agent {
namespace {

constexpr size_t kConfigFileMax = 1u << 20;
constexpr size_t kNodeNameMax = 63;
constexpr uint64_t kImagesBytesLeast = 64ull << 10;  // below the images of a tree of one process
constexpr uint64_t kStoreBytesLeast = 1ull << 20;
constexpr uint64_t kHoldBytesLeast = 128ull << 10;  // two frames of the largest size (GSO)
constexpr uint32_t kHistoryMax = 1000;  // the file is written anew at the end of each migration, 6 KB for each
constexpr uint64_t kAnySize = 1ull << 50;

// How a value gets from TOML into the configuration and back. The tables below are the one list of all keys: reading,
// refusing unknown ones and `mose config check` go by them.
struct Key {
  const char* name;
  const char* expected;
  std::function<Status(Config&, const toml::node&)> set;
  std::function<std::string(const Config&)> get;
};

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < ' ' || byte == 0x7f) {
      out += fmt::format("\\u{:04x}", byte);
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

// As a key: a dot in a bare one would begin a table below.
std::string quoted_key(const std::string& name) { return name.find('.') == std::string::npos ? name : quoted(name); }

std::string format_duration(Nanoseconds value) {
  auto count = value.count();
  if (count % 1'000'000'000 == 0) return fmt::format("{}s", count / 1'000'000'000);
  if (count % 1'000'000 == 0) return fmt::format("{}ms", count / 1'000'000);
  return fmt::format("{}us", count / 1000);
}

template <typename Section>
Key text_key(const char* name, Section Config::* section, std::string Section::* member) {
  return {name, "a string",
          [=](Config& config, const toml::node& node) -> Status {
            auto value = node.value_exact<std::string>();
            if (!value) return fail("");
            config.*section.*member = *value;
            return {};
          },
          [=](const Config& config) { return quoted(config.*section.*member); }};
}

template <typename Section, typename T>
Key number_key(const char* name, Section Config::* section, T Section::* member, T least,
               T most = std::numeric_limits<T>::max()) {
  return {name, "a positive whole number",
          [=](Config& config, const toml::node& node) -> Status {
            auto value = node.value_exact<int64_t>();
            if (!value) return fail("");
            if (*value < static_cast<int64_t>(least) || static_cast<uint64_t>(*value) > most) {
              return fail(fmt::format("{} is out of range ({} to {})", *value, least, most));
            }
            config.*section.*member = static_cast<T>(*value);
            return {};
          },
          [=](const Config& config) { return fmt::format("{}", config.*section.*member); }};
}

enum class Zero : bool { refused, means_default };

// A text with a unit.
template <typename T, typename Parse, typename Format>
Key quantity_key(const char* name, const char* expected, T LimitsConfig::* member, Parse parse, Format format) {
  return {name, expected,
          [=](Config& config, const toml::node& node) -> Status {
            auto text = node.value_exact<std::string>();
            if (!text) return fail("");
            MOSE_ASSIGN(config.limits.*member, parse(*text));
            return {};
          },
          [=](const Config& config) { return quoted(format(config.limits.*member)); }};
}

Key bytes_key(const char* name, uint64_t LimitsConfig::* member, uint64_t least, uint64_t most, Zero zero = Zero::refused) {
  auto parse = [=](const std::string& text) -> Result<uint64_t> {
    MOSE_ASSIGN(uint64_t bytes, parse_bytes(text));
    bool is_default = bytes == 0 && zero == Zero::means_default;
    if (is_default || (bytes >= least && bytes <= most)) return bytes;
    return fail(fmt::format("{} is out of range ({} to {})", text, format_bytes(least), format_bytes(most)));
  };
  return quantity_key(name, "a size with a unit such as \"64MiB\"", member, parse,
                      [](uint64_t bytes) { return fmt::format("{}B", bytes); });
}

Key bandwidth_key(const char* name, uint64_t LimitsConfig::* member) {
  return quantity_key(name, "a bandwidth with a unit such as \"500mbit\" (\"0bit\": unlimited)", member,
                      parse_bandwidth, [](uint64_t bits) { return fmt::format("{}bit", bits); });
}

Key duration_key(const char* name, Nanoseconds LimitsConfig::* member) {
  auto parse = [](const std::string& text) -> Result<Nanoseconds> {
    MOSE_ASSIGN(auto duration, parse_duration(text));
    return duration > Nanoseconds(0) ? Result<Nanoseconds>(duration) : fail("must be longer than 0");
  };
  return quantity_key(name, "a duration with a unit such as \"10s\"", member, parse, format_duration);
}

Key level_key() {
  return {"level", "debug, info, warn or error",
          [](Config& config, const toml::node& node) -> Status {
            auto value = node.value_exact<std::string>();
            if (!value || !log::parse_level(*value, config.log_level)) return fail("");
            return {};
          },
          [](const Config& config) {
            constexpr const char* kNames[] = {"debug", "info", "warn", "error"};
            return quoted(kNames[static_cast<size_t>(config.log_level)]);
          }};
}

template <typename Section>
Key flag_key(const char* name, Section Config::* section, bool Section::* member) {
  return {name, "true or false",
          [=](Config& config, const toml::node& node) -> Status {
            auto value = node.value_exact<bool>();
            if (!value) return fail("");
            config.*section.*member = *value;
            return {};
          },
          [=](const Config& config) { return std::string(config.*section.*member ? "true" : "false"); }};
}

constexpr SteerMode kSteerModes[] = {SteerMode::automatic, SteerMode::tc, SteerMode::xdp, SteerMode::xdp_generic};

Key steer_key() {
  return {"steer", "auto, tc, xdp or xdp-generic",
          [](Config& config, const toml::node& node) -> Status {
            auto value = node.value_exact<std::string>();
            auto mode = std::find_if(std::begin(kSteerModes), std::end(kSteerModes),
                                     [&](SteerMode m) { return value && *value == to_string(m); });
            if (mode == std::end(kSteerModes)) return fail("");
            config.node.steer = *mode;
            return {};
          },
          [](const Config& config) { return quoted(to_string(config.node.steer)); }};
}

struct Section {
  const char* name;
  std::vector<Key> keys;
};

const std::vector<Section>& sections() {
  static const std::vector<Section> kSections = {
      {"node",
       {text_key("name", &Config::node, &NodeConfig::name), text_key("listen", &Config::node, &NodeConfig::listen),
        text_key("uplink", &Config::node, &NodeConfig::uplink), text_key("bridge", &Config::node, &NodeConfig::bridge),
        text_key("cgroup", &Config::node, &NodeConfig::cgroup),
        text_key("state_dir", &Config::node, &NodeConfig::state_dir),
        text_key("runtime_dir", &Config::node, &NodeConfig::runtime_dir),
        text_key("libexec", &Config::node, &NodeConfig::libexec), text_key("criu", &Config::node, &NodeConfig::criu),
        text_key("workloads_dir", &Config::node, &NodeConfig::workloads_dir),
        text_key("bpffs", &Config::node, &NodeConfig::bpffs), steer_key(),
        number_key<NodeConfig, uint32_t>("vxlan_port", &Config::node, &NodeConfig::vxlan_port, 1, 65535)}},
      {"control",
       {text_key("socket", &Config::control, &ControlConfig::socket),
        text_key("group", &Config::control, &ControlConfig::group)}},
      {"tls",
       {text_key("certificate", &Config::tls, &TlsConfig::certificate), text_key("key", &Config::tls, &TlsConfig::key),
        text_key("authorities", &Config::tls, &TlsConfig::authorities), text_key("revoked", &Config::tls, &TlsConfig::revoked),
        flag_key("plain_text", &Config::tls, &TlsConfig::plain_text)}},
      {"metrics",
       {flag_key("enabled", &Config::metrics, &MetricsConfig::enabled),
        text_key("socket", &Config::metrics, &MetricsConfig::socket),
        text_key("listen", &Config::metrics, &MetricsConfig::listen)}},
      {"limits",
       {bytes_key("images_bytes_max", &LimitsConfig::images_bytes_max, kImagesBytesLeast, wire::kImagesPayloadMax),
        bytes_key("store_bytes_max", &LimitsConfig::store_bytes_max, kStoreBytesLeast, kAnySize, Zero::means_default),
        bandwidth_key("bandwidth_max", &LimitsConfig::bandwidth_max),
        // A full tap drops unseen: the program must find its bound first.
        number_key<LimitsConfig, uint32_t>("hold_packets_max", &Config::limits, &LimitsConfig::hold_packets_max, 1,
                                           handover::kTapQueueLength - 1),
        bytes_key("hold_bytes_max", &LimitsConfig::hold_bytes_max, kHoldBytesLeast, kAnySize),
        number_key<LimitsConfig, uint32_t>("xdp_services_max", &Config::limits, &LimitsConfig::xdp_services_max, 1,
                                           handover::kUplinkEntriesMax),
        number_key<LimitsConfig, uint32_t>("migrations_max", &Config::limits, &LimitsConfig::migrations_max, 1),
        number_key<LimitsConfig, uint32_t>("connections_max", &Config::limits, &LimitsConfig::connections_max, 2),
        number_key<LimitsConfig, uint32_t>("history_max", &Config::limits, &LimitsConfig::history_max, 1, kHistoryMax),
        duration_key("dump_time_max", &LimitsConfig::dump_time_max),
        duration_key("restore_time_max", &LimitsConfig::restore_time_max),
        duration_key("stop_grace", &LimitsConfig::stop_grace),
        duration_key("peer_connect_max", &LimitsConfig::peer_connect_max)}},
      {"log", {level_key()}},
  };
  return kSections;
}

std::string place(const std::string& file, const toml::source_region& source) {
  return fmt::format("{}:{}", file, source.begin.line);
}

template <typename Range>
std::string names_of(const Range& range) {
  std::string out;
  for (const auto& item : range) out += (out.empty() ? "" : ", ") + std::string(item.name);
  return out;
}

Status merge_section(Config& config, const Section& section, const toml::table& table, const std::string& file) {
  for (const auto& [name, node] : table) {
    auto key =
        std::find_if(section.keys.begin(), section.keys.end(), [&](const Key& k) { return name.str() == k.name; });
    if (key == section.keys.end()) {
      return fail(fmt::format("{}: unknown key \"{}\" in [{}]; known are {}", place(file, name.source()), name.str(),
                              section.name, names_of(section.keys)));
    }
    if (auto status = key->set(config, node); !status) {
      const std::string& why = status.error().what;
      return fail(fmt::format("{}: {}.{} must be {}{}{}", place(file, node.source()), section.name, name.str(),
                              key->expected, why.empty() ? "" : ": ", why));
    }
  }
  return {};
}

// A list of roles; one that is empty would be a peer that can do nothing.
Result<NodeRoles> roles_of(const toml::node& node) {
  const toml::array* list = node.as_array();
  if (list == nullptr) return fail("must be a list of source and destination");
  std::vector<std::string> names;
  for (const toml::node& item : *list) names.push_back(item.value_exact<std::string>().value_or("?"));
  return parse_roles(names);
}

Status merge_peers(Config& config, const toml::table& table, const std::string& file) {
  for (const auto& [name, node] : table) {
    const toml::table* peer = node.as_table();
    if (peer == nullptr) {
      return fail(fmt::format("{}: a peer is a table: [peers.{}] with address = \"ADDRESS:PORT\"",
                              place(file, name.source()), name.str()));
    }
    PeerConfig& entry = config.peers[std::string(name.str())];
    for (const auto& [key, value] : *peer) {
      if (key.str() == "roles") {
        auto roles = roles_of(value);
        if (!roles) return fail(fmt::format("{}: peers.{}.roles: {}", place(file, value.source()), name.str(), roles.error().what));
        entry.roles = *roles;
        continue;
      }
      if (key.str() != "address" && key.str() != "data_address") {
        return fail(fmt::format("{}: unknown key \"{}\" in [peers.{}]; known are address, data_address, roles",
                                place(file, key.source()), key.str(), name.str()));
      }
      auto address = value.value_exact<std::string>();
      if (!address) {
        return fail(
            fmt::format("{}: peers.{}.{} must be a string", place(file, value.source()), name.str(), key.str()));
      }
      (key.str() == "address" ? entry.address : entry.data_address) = *address;
    }
    if (entry.address.empty()) {
      return fail(fmt::format("{}: peer {} has no address", place(file, node.source()), name.str()));
    }
  }
  return {};
}

// What is listened on or connected to later. Port 0 would be another one at each start.
Status check_address(const std::string& key, const std::string& text) {
  if (auto status = check_endpoint(text); !status) return context(key, status.error());
  if (text.find_first_not_of('0', text.rfind(':') + 1) == std::string::npos) return fail(fmt::format("{}: '{}' has no port from 1 to 65535", key, text));
  return {};
}

bool node_name_ok(const std::string& name) {
  return !name.empty() && name.size() <= kNodeNameMax && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  });
}

// Names of the *.toml files of a directory in order; a missing directory has none.
Result<std::vector<std::string>> fragments(const std::string& directory) {
  std::vector<std::string> names;
  Directory dir = open_directory(directory);
  if (!dir) {
    if (errno == ENOENT) return names;
    return fail_errno("read " + directory);
  }
  while (dirent* entry = readdir(dir.get())) {
    std::string name = entry->d_name;
    if (name.size() > 5 && name.ends_with(".toml") && name[0] != '.') names.push_back(fmt::format("{}/{}", directory, name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

Status merge_file(Config& config, const std::string& path) {
  MOSE_ASSIGN(std::string text, read_file(path, kConfigFileMax));
  MOSE_TRY(merge_config(config, text, path));
  config.files.push_back(path);
  return {};
}

}  // namespace

const char* to_string(SteerMode mode) {
  switch (mode) {
    case SteerMode::automatic:
      return "auto";
    case SteerMode::tc:
      return "tc";
    case SteerMode::xdp:
      return "xdp";
    case SteerMode::xdp_generic:
      return "xdp-generic";
  }
  return "?";
}

Result<ServiceAddress> peer_data_address(const PeerConfig& peer) {
  std::string text = peer.data_address;
  if (text.empty()) {
    text = peer.address.substr(0, peer.address.rfind(':'));
    if (text.starts_with('[') && text.ends_with(']')) text = text.substr(1, text.size() - 2);
  }
  return parse_service_address(text + (text.find(':') == std::string::npos ? "/32" : "/128"));
}

Status merge_config(Config& config, const std::string& text, const std::string& name) {
  toml::table root;
  try {  // the library's only way to report; nothing leaves this block
    root = toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    return fail(fmt::format("{}: {}", place(name, error.source()), error.description()));
  }
  for (const auto& [key, node] : root) {
    const auto& known = sections();
    auto section = std::find_if(known.begin(), known.end(), [&](const Section& s) { return key.str() == s.name; });
    bool peers = key.str() == "peers";
    if (section == known.end() && !peers) {
      return fail(fmt::format("{}: unknown {} \"{}\"; known sections are {}, peers", place(name, key.source()),
                              node.is_table() ? "section" : "key", key.str(), names_of(known)));
    }
    const toml::table* table = node.as_table();
    if (table == nullptr) {
      return fail(fmt::format("{}: \"{}\" must be a section: [{}]", place(name, key.source()), key.str(), key.str()));
    }
    MOSE_TRY(peers ? merge_peers(config, *table, name) : merge_section(config, *section, *table, name));
  }
  return {};
}

Status complete_config(Config& config) {
  NodeConfig& node = config.node;
  if (node.name.empty()) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    node.name = std::string(host).substr(0, std::string(host).find('.'));
  }
  if (!node_name_ok(node.name)) {
    return fail(fmt::format("node.name = \"{}\" is not a name: letters, digits, '-', '_' and '.', at most {}",
                            node.name, kNodeNameMax));
  }
  if (node.cgroup.empty()) {
    auto mount = cgroup_mount();
    node.cgroup = (mount ? *mount : std::string("/sys/fs/cgroup")) + "/mose";
  }
  if (node.criu.empty()) {
    const char* prefix = getenv("MOSE_PREFIX");
    node.criu = std::string(prefix != nullptr && *prefix != '\0' ? prefix : "/opt/mose") + "/criu/bin/criu";
  }
  if (config.control.socket.empty()) config.control.socket = node.runtime_dir + "/mosed.sock";
  if (config.metrics.socket.empty()) config.metrics.socket = node.runtime_dir + "/metrics.sock";
  const std::pair<const char*, const std::string*> paths[] = {{"node.cgroup", &node.cgroup},
                                                              {"node.state_dir", &node.state_dir},
                                                              {"node.runtime_dir", &node.runtime_dir},
                                                              {"node.criu", &node.criu},
                                                              {"node.workloads_dir", &node.workloads_dir},
                                                              {"node.bpffs", &node.bpffs},
                                                              {"control.socket", &config.control.socket},
                                                              {"metrics.socket", &config.metrics.socket}};
  for (const auto& [key, path] : paths) {
    if (path->empty() || path->front() != '/')
      return fail(fmt::format("{} = \"{}\" is not an absolute path", key, *path));
  }
  if (!node.libexec.empty() && node.libexec.front() != '/') {
    return fail(fmt::format("node.libexec = \"{}\" is not an absolute path", node.libexec));
  }
  constexpr size_t kSocketPathMax = 107;  // sun_path
  if (config.control.socket.size() > kSocketPathMax) {
    return fail(fmt::format("control.socket is longer than {} bytes", kSocketPathMax));
  }
  if (config.metrics.socket.size() > kSocketPathMax) {
    return fail(fmt::format("metrics.socket is longer than {} bytes", kSocketPathMax));
  }
  MOSE_TRY(check_address("node.listen", node.listen));
  if (!config.metrics.listen.empty()) MOSE_TRY(check_address("metrics.listen", config.metrics.listen));
  for (const auto& [name, peer] : config.peers) {
    if (!node_name_ok(name)) return fail(fmt::format("peers.\"{}\" is not a node name", name));
    if (name == node.name) return fail(fmt::format("peers.{} is this node itself", name));
    MOSE_TRY(check_address("peers." + name + ".address", peer.address));
    if (peer.data_address.empty()) continue;
    if (auto parsed = peer_data_address(peer); !parsed)
      return context("peers." + name + ".data_address", parsed.error());
  }
  return check_rules(config);
}

Result<Config> load_config(const std::string& path, bool required) {
  Config config;
  if (required || access(path.c_str(), F_OK) == 0) MOSE_TRY(merge_file(config, path));
  std::string directory = path.substr(0, path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1) + "conf.d";
  MOSE_ASSIGN(auto files, fragments(directory));
  for (const std::string& file : files) MOSE_TRY(merge_file(config, file));
  MOSE_TRY(complete_config(config));
  return config;
}

std::string format_config(const Config& config) {
  std::string out;
  for (const Section& section : sections()) {
    out += fmt::format("[{}]\n", section.name);
    for (const Key& key : section.keys) out += fmt::format("{} = {}\n", key.name, key.get(config));
    out += "\n";
  }
  for (const auto& [name, peer] : config.peers) {
    out += fmt::format("[peers.{}]\naddress = {}\n", quoted_key(name), quoted(peer.address));
    if (!peer.data_address.empty()) out += fmt::format("data_address = {}\n", quoted(peer.data_address));
    if (peer.roles != NodeRoles{}) out += fmt::format("roles = [{}]\n", quoted(to_string(peer.roles)));
    out += "\n";
  }
  if (!out.empty()) out.pop_back();
  return out;
}

}  // namespace mose::agent
