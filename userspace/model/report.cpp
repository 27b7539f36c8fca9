// SPDX-License-Identifier: MIT
#include "model/report.h"

#include <nlohmann/json.hpp>

namespace mose {
namespace {

using Json = nlohmann::ordered_json;

// One table of the fields for both directions, so that they cannot drift apart.
struct Writer {
  Json& out;
  template <typename T>
  void field(const char* key, const std::optional<T>& value) {
    out[key] = value ? Json(*value) : Json(nullptr);
  }
  void field(const char* key, const std::string& value) { out[key] = value.empty() ? Json(nullptr) : Json(value); }
  template <typename F>
  void object(const char* key, F&& fill) {
    Json inner = Json::object();
    fill(Writer{inner});
    out[key] = std::move(inner);
  }
  template <typename T, typename F>
  void object_or_null(const char* key, const std::optional<T>& value, F&& fill) {
    Json inner = value ? Json::object() : Json(nullptr);
    if (value) fill(Writer{inner}, *value);
    out[key] = std::move(inner);
  }
  template <typename T, typename F>
  void list(const char* key, const std::vector<T>& values, F&& fill) {
    Json items = Json::array();
    for (const T& value : values) {
      Json inner = Json::object();
      fill(Writer{inner}, value);
      items.push_back(std::move(inner));
    }
    out[key] = std::move(items);
  }
};

struct Reader {
  const Json& in;
  // Half of a report comes from the peer: a number that its type cannot hold is no number, like any other wrong type.
  void field(const char* key, std::optional<bool>& value) {
    auto it = in.find(key);
    if (it != in.end() && it->is_boolean()) value = it->get<bool>();
  }
  void field(const char* key, std::optional<double>& value) {
    auto it = in.find(key);
    if (it != in.end() && it->is_number()) value = it->get<double>();
  }
  void field(const char* key, std::optional<uint64_t>& value) {
    auto it = in.find(key);
    if (it != in.end() && it->is_number_unsigned()) value = it->get<uint64_t>();
  }
  void field(const char* key, std::optional<int64_t>& value) {
    auto it = in.find(key);
    if (it == in.end() || !it->is_number_integer()) return;
    if (it->is_number_unsigned() && it->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return;
    value = it->get<int64_t>();
  }
  void field(const char* key, std::string& value) {
    auto it = in.find(key);
    if (it != in.end() && it->is_string()) value = it->get<std::string>();
  }
  template <typename F>
  void object(const char* key, F&& fill) {
    auto it = in.find(key);
    if (it != in.end() && it->is_object()) fill(Reader{*it});
  }
  template <typename T, typename F>
  void object_or_null(const char* key, std::optional<T>& value, F&& fill) {
    auto it = in.find(key);
    if (it != in.end() && it->is_object()) fill(Reader{*it}, value.emplace());
  }
  // What is no object in it is left out.
  template <typename T, typename F>
  void list(const char* key, std::vector<T>& values, F&& fill) {
    auto it = in.find(key);
    if (it == in.end() || !it->is_array()) return;
    for (const Json& item : *it) {
      if (item.is_object()) fill(Reader{item}, values.emplace_back());
    }
  }
};

template <typename Visitor, typename R>
void visit(Visitor v, R& r) {
  v.field("migration_id", r.migration_id);
  v.field("workload", r.workload);
  v.field("source_node", r.source_node);
  v.field("destination_node", r.destination_node);
  v.field("strategy_requested", r.strategy_requested);
  v.field("strategy", r.strategy);
  v.field("strategy_reason", r.strategy_reason);
  v.field("outcome", r.outcome);
  v.field("reason", r.reason);
  v.field("downtime_ms", r.downtime_ms);
  v.field("total_ms", r.total_ms);
  v.object_or_null("tls", r.tls, [](auto o, auto& tls) {
    o.field("version", tls.version);
    o.field("cipher", tls.cipher);
    o.field("peer", tls.peer);
  });
  v.object("phases_ms", [&](auto o) {
    o.field("quiesce", r.phases_ms.quiesce);
    o.field("freeze", r.phases_ms.freeze);
    o.field("scan", r.phases_ms.scan);
    o.field("dump", r.phases_ms.dump);
    o.field("transfer", r.phases_ms.transfer);
    o.field("restore", r.phases_ms.restore);
    o.field("commit", r.phases_ms.commit);
    o.field("drain", r.phases_ms.drain);
  });
  v.object("precopy", [&](auto o) {
    o.field("rounds", r.precopy.rounds);
    o.field("bytes", r.precopy.bytes);
    o.field("pages", r.precopy.pages);
    o.field("ended", r.precopy.ended);
    o.field("link_mbit", r.precopy.link_mbit);
    o.field("written_mbit", r.precopy.written_mbit);
    o.field("forecast_left_pages", r.precopy.forecast_left_pages);
    o.field("throttle_percent", r.precopy.throttle_percent);
    o.field("throttled_ms", r.precopy.throttled_ms);
    o.list("windows", r.precopy.windows, [](auto w, auto& window) {
      w.field("round", window.round);
      w.field("window_ms", window.window_ms);
      w.field("pages", window.pages);
      w.field("forecast_pages", window.forecast_pages);
      w.field("forecast_error", window.forecast_error);
    });
  });
  v.object("lazy", [&](auto o) {
    o.field("pages", r.lazy.pages);
    o.field("pages_at_commit", r.lazy.pages_at_commit);
    o.field("pages_at_commit_max", r.lazy.pages_at_commit_max);
    o.field("faults", r.lazy.faults);
    o.field("fault_p50_us", r.lazy.fault_p50_us);
    o.field("fault_p99_us", r.lazy.fault_p99_us);
    o.field("complete_ms", r.lazy.complete_ms);
  });
  v.object("tracking", [&](auto o) {
    o.field("source", r.tracking.source);
    o.field("reason", r.tracking.reason);
    o.field("ebpf", r.tracking.ebpf);
    o.field("ebpf_reason", r.tracking.ebpf_reason);
    o.field("ebpf_events", r.tracking.ebpf_events);
    o.field("ebpf_lost", r.tracking.ebpf_lost);
    o.list("processes", r.tracking.processes, [](auto p, auto& process) {
      p.field("process", process.process);
      p.field("threads", process.threads);
      p.field("write_faults", process.write_faults);
      p.field("write_faults_per_s", process.write_faults_per_s);
    });
  });
  v.object("standby", [&](auto o) {
    o.field("used", r.standby.used);
    o.field("reason", r.standby.reason);
    o.field("pause_ms", r.standby.pause_ms);
    o.field("refresh_ms", r.standby.refresh_ms);
  });
  v.object("steer", [&](auto o) {
    o.field("layer", r.steer.layer);
    o.field("mode", r.steer.mode);
  });
  v.field("bytes_sent", r.bytes_sent);
  v.object("bulk", [&](auto o) {
    o.field("bytes_uncompressed", r.bulk.bytes_uncompressed);
    o.field("bytes", r.bulk.bytes);
    o.field("ratio", r.bulk.ratio);
    o.field("frames_raw", r.bulk.frames_raw);
    o.field("frames_lz4", r.bulk.frames_lz4);
    o.field("frames_zstd", r.bulk.frames_zstd);
    o.field("bandwidth_max_bps", r.bulk.bandwidth_max_bps);
    o.field("capped_ms", r.bulk.capped_ms);
  });
  v.object("packets", [&](auto o) {
    o.field("held", r.packets.held);
    o.field("drained", r.packets.drained);
    o.field("redirected", r.packets.redirected);
    o.field("dropped", r.packets.dropped);
    o.field("overflow", r.packets.overflow);
    o.field("half_open", r.packets.half_open);
    o.field("last_out_us", r.packets.last_out_us);
    o.field("first_out_us", r.packets.first_out_us);
    o.field("silence_ms", r.packets.silence_ms);
  });
}

}  // namespace

std::string to_json(const Report& report) {
  Json out = Json::object();
  visit(Writer{out}, report);
  Json timeline = Json::array();
  for (const TimelineEntry& e : report.timeline) {
    timeline.push_back({{"node", e.node}, {"phase", e.phase}, {"start_us", e.start_us}, {"end_us", e.end_us}});
  }
  out["timeline"] = std::move(timeline);
  // Names and reasons may hold bytes from outside: replaced where they are not UTF-8, never an exception.
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<Report> report_from_json(std::string_view text) {
  Json in = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!in.is_object()) return fail("the report is not a JSON object");
  Report report;
  visit(Reader{in}, report);
  auto timeline = in.find("timeline");
  if (timeline == in.end() || !timeline->is_array()) return report;
  for (const Json& e : *timeline) {
    if (!e.is_object()) return fail("a timeline entry of the report is not an object");
    TimelineEntry entry;
    Reader reader{e};
    reader.field("node", entry.node);
    reader.field("phase", entry.phase);
    std::optional<int64_t> start, end;
    reader.field("start_us", start);
    reader.field("end_us", end);
    entry.start_us = start.value_or(0);
    entry.end_us = end.value_or(0);
    report.timeline.push_back(std::move(entry));
  }
  return report;
}

}  // namespace mose
