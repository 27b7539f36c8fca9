// SPDX-License-Identifier: MIT
#include "agent/workload_record.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "agent/toml.h"
#include "base/fd.h"

namespace mose::agent {
namespace {

using nlohmann::json;

std::optional<WorkloadState> state_from(const std::string& name) {
  using enum WorkloadState;
  for (WorkloadState state : {starting, running, moving, arriving, stopping, exited, away, waiting}) {
    if (name == to_string(state)) return state;
  }
  return std::nullopt;
}

std::optional<WorkloadOrigin> origin_from(const std::string& name) {
  using enum WorkloadOrigin;
  for (WorkloadOrigin origin : {run, described, moved}) {
    if (name == to_string(origin)) return origin;
  }
  return std::nullopt;
}

// Reads typed members of an object; the first one that is missing or of another type is remembered as the error.
class Reader {
 public:
  explicit Reader(const json& object) : object_(object) {}

  std::string text(const char* key) {
    auto it = object_.find(key);
    if (it != object_.end() && it->is_string()) return it->get<std::string>();
    miss(key);
    return {};
  }
  int64_t number(const char* key) {
    auto it = object_.find(key);
    if (it != object_.end() && it->is_number_integer()) return it->get<int64_t>();
    miss(key);
    return 0;
  }
  bool flag(const char* key) {
    auto it = object_.find(key);
    if (it != object_.end() && it->is_boolean()) return it->get<bool>();
    miss(key);
    return false;
  }
  const json& list(const char* key) {
    static const json kEmpty = json::array();
    auto it = object_.find(key);
    if (it != object_.end() && it->is_array()) return *it;
    miss(key);
    return kEmpty;
  }
  std::vector<std::string> texts(const char* key) {
    std::vector<std::string> out;
    for (const json& item : list(key)) {
      if (item.is_string()) {
        out.push_back(item.get<std::string>());
      } else {
        miss(key);
      }
    }
    return out;
  }
  void miss(const char* key) {
    if (missing_.empty()) missing_ = key;
  }
  [[nodiscard]] Status status() const {
    if (missing_.empty()) return {};
    return fail(fmt::format("\"{}\" is missing or of another type", missing_));
  }

 private:
  const json& object_;
  std::string missing_;
};

json encode_spec(const WorkloadSpec& spec) {
  json addresses = json::array(), mounts = json::array();
  for (const ServiceAddress& address : spec.addresses) addresses.push_back(format_with_prefix(address));
  for (const WorkloadMount& mount : spec.mounts) {
    mounts.push_back({{"source", mount.source},
                      {"target", mount.target},
                      {"mode", to_string(mount.mode)},
                      {"read_only", mount.read_only}});
  }
  return {
      {"name", spec.name}, {"addresses", addresses}, {"mac", format_mac(spec.mac)}, {"gateway", spec.gateway},
      {"root", spec.root}, {"mounts", mounts},       {"command", spec.command},     {"environment", spec.environment}};
}

Result<WorkloadSpec> decode_spec(const json& object) {
  Reader reader(object);
  WorkloadSpec spec;
  spec.name = reader.text("name");
  spec.gateway = reader.text("gateway");
  spec.root = reader.text("root");
  spec.command = reader.texts("command");
  spec.environment = reader.texts("environment");
  std::string mac = reader.text("mac");
  for (const std::string& text : reader.texts("addresses")) {
    MOSE_ASSIGN(auto address, parse_service_address(text));
    spec.addresses.push_back(address);
  }
  for (const json& item : reader.list("mounts")) {
    if (!item.is_object()) return fail("a mount is no object");
    Reader fields(item);
    WorkloadMount mount{fields.text("source"), fields.text("target")};
    mount.read_only = fields.flag("read_only");
    std::string mode = fields.text("mode");
    MOSE_TRY(fields.status());
    MOSE_ASSIGN(mount.mode, parse_mount_mode(mode));
    spec.mounts.push_back(mount);
  }
  MOSE_TRY(reader.status());
  MOSE_ASSIGN(spec.mac, parse_mac(mac));
  MOSE_TRY(validate(spec));
  return spec;
}

std::string at(const std::string& file, const toml::source_region& source) {
  return fmt::format("{}:{}", file, source.begin.line);
}

// Calls `take` with each string of an array; false when it is not an array of strings.
template <typename Take>
Result<bool> each_text(const toml::node& node, Take take) {
  const toml::array* array = node.as_array();
  if (array == nullptr) return false;
  for (const toml::node& item : *array) {
    auto text = item.value_exact<std::string>();
    if (!text) return false;
    MOSE_TRY(take(*text));
  }
  return true;
}

// One key of a description. False: of another type.
Result<bool> describe_key(WorkloadDescription& out, std::string_view key, const toml::node& node) {
  auto text_into = [&](std::string& target) {
    auto value = node.value_exact<std::string>();
    if (value) target = *value;
    return value.has_value();
  };
  if (key == "cgroup") return text_into(out.cgroup);
  if (key == "gateway") return text_into(out.spec.gateway);
  if (key == "root") return text_into(out.spec.root);
  if (key == "pid") {
    auto value = node.value_exact<int64_t>();
    if (!value || *value <= 0 || *value > 0x3fffff) return false;
    out.pid = static_cast<pid_t>(*value);
    return true;
  }
  if (key == "addresses") {
    return each_text(node, [&](const std::string& text) -> Status {
      MOSE_ASSIGN(auto address, parse_service_address(text));
      out.spec.addresses.push_back(address);
      return {};
    });
  }
  return each_text(node, [&](const std::string& text) -> Status {  // mounts
    MOSE_ASSIGN(auto mount, parse_mount(text));
    out.spec.mounts.push_back(mount);
    return {};
  });
}

constexpr std::pair<std::string_view, const char*> kDescriptionKeys[] = {
    {"cgroup", "a string"},          {"pid", "a process id"}, {"addresses", "a list of strings"},
    {"mounts", "a list of strings"}, {"gateway", "a string"}, {"root", "a string"}};

}  // namespace

std::string encode_record(const WorkloadRecord& record) {
  const Workload& workload = record.workload;
  json out{{"format", 1},
           {"spec", encode_spec(workload.spec)},
           {"state", to_string(workload.state)},
           {"origin", to_string(workload.origin)},
           {"cgroup", workload.cgroup},
           {"host_device", workload.host_device},
           {"log", workload.log},
           {"migration", workload.migration},
           {"node", workload.node},
           {"exit_status", workload.exit_status},
           {"since_unix_ms", workload.since_unix_ms},
           {"pid", record.pid},
           {"start_time", record.start_time},
           {"boot", record.boot}};
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<WorkloadRecord> decode_record(const std::string& text) {
  auto value = json::parse(text, nullptr, false);
  if (!value.is_object()) return fail("it is not JSON");
  Reader reader(value);
  if (reader.number("format") != 1) return fail("it is of another format");
  WorkloadRecord record;
  Workload& workload = record.workload;
  std::string state = reader.text("state"), origin = reader.text("origin");
  workload.cgroup = reader.text("cgroup");
  workload.host_device = reader.text("host_device");
  workload.log = reader.text("log");
  workload.migration = reader.text("migration");
  workload.node = reader.text("node");
  workload.exit_status = reader.text("exit_status");
  workload.since_unix_ms = reader.number("since_unix_ms");
  record.pid = static_cast<pid_t>(reader.number("pid"));
  record.start_time = static_cast<uint64_t>(reader.number("start_time"));
  record.boot = reader.text("boot");
  MOSE_TRY(reader.status());
  auto known_state = state_from(state);
  auto known_origin = origin_from(origin);
  if (!known_state || !known_origin) return fail(fmt::format("unknown state \"{}\" or origin \"{}\"", state, origin));
  workload.state = *known_state;
  workload.origin = *known_origin;
  auto spec = value.find("spec");
  if (spec == value.end() || !spec->is_object()) return fail("\"spec\" is missing");
  MOSE_ASSIGN(workload.spec, decode_spec(*spec));
  return record;
}

Result<WorkloadDescription> parse_description(const std::string& name, const std::string& text,
                                              const std::string& file) {
  toml::table root;
  try {  // the library's only way to report; nothing leaves this block
    root = toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    return fail(fmt::format("{}: {}", at(file, error.source()), error.description()));
  }
  WorkloadDescription out;
  out.spec.name = name;
  for (const auto& [key, node] : root) {
    const char* expected = nullptr;
    for (const auto& [known, type] : kDescriptionKeys) {
      if (key.str() == known) expected = type;
    }
    if (expected == nullptr) {
      return fail(fmt::format("{}: unknown key \"{}\"; known are cgroup, pid, addresses, mounts, gateway, root",
                              at(file, key.source()), key.str()));
    }
    auto done = describe_key(out, key.str(), node);
    if (!done) return context(at(file, node.source()), done.error());
    if (!*done) return fail(fmt::format("{}: {} must be {}", at(file, node.source()), key.str(), expected));
  }
  if (out.cgroup.empty() == (out.pid == 0)) return fail(fmt::format("{}:1: give either cgroup or pid", file));
  if (!out.cgroup.empty() && out.cgroup.front() != '/') {
    return fail(fmt::format("{}:1: cgroup \"{}\" is not an absolute path", file, out.cgroup));
  }
  if (auto status = validate(out.spec); !status) return context(file + ":1", status.error());
  out.spec.mac = mac_for(out.spec.addresses[0]);
  return out;
}

std::string boot_id() {
  auto text = read_file("/proc/sys/kernel/random/boot_id", 128);
  if (!text) return {};
  return text->substr(0, text->find('\n'));
}

}  // namespace mose::agent
