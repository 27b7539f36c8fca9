// SPDX-License-Identifier: MIT
#include "client/commands.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/fd.h"

namespace mose::client {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kLineBytesMax = 256;

Json number(const std::optional<double>& v) { return v ? Json(*v) : Json(nullptr); }

std::optional<double> optional_number(const Json& in, const char* key) {
  auto it = in.find(key);
  return it != in.end() && it->is_number() ? std::optional(it->get<double>()) : std::nullopt;
}

uint64_t count(const Json& in, const char* key) {
  auto it = in.find(key);
  return it != in.end() && it->is_number() ? it->get<uint64_t>() : 0;
}

Phases phases_of(const Json& in) {
  Phases out;
  auto all = in.find("phases");
  if (all == in.end() || !all->is_object()) return out;
  for (size_t i = 0; i < out.size(); ++i) {
    auto p = all->find(kPhaseNames[i]);
    if (p == all->end() || !p->is_object()) continue;
    out[i] = PhaseFigures{optional_number(*p, "seconds").value_or(0),
                          count(*p, "requests"),
                          optional_number(*p, "answers_per_s").value_or(0),
                          optional_number(*p, "latency_p50_us"),
                          optional_number(*p, "latency_p99_us"),
                          optional_number(*p, "latency_p999_us"),
                          optional_number(*p, "latency_max_us"),
                          optional_number(*p, "server_cpu_us"),
                          optional_number(*p, "longest_gap_ms")};
  }
  return out;
}

void read_gap(const Json& in, Figures& out) {
  auto gap = in.find("longest_gap");
  if (gap == in.end() || !gap->is_object()) return;
  out.longest_gap = Window{gap->value("start_us", int64_t{0}) * 1000, gap->value("end_us", int64_t{0}) * 1000};
  auto phase = gap->find("phase");
  for (size_t i = 0; i < kPhaseNames.size(); ++i) {
    if (phase != gap->end() && *phase == kPhaseNames[i]) out.longest_gap_phase = static_cast<Phase>(i);
  }
}

std::optional<TcpCounters> tcp_of(const Json& in, const char* key) {
  auto it = in.find(key);
  if (it == in.end() || !it->is_object()) return std::nullopt;
  return TcpCounters{count(*it, "timeouts"), count(*it, "retransmits"), count(*it, "tail_loss_probes"),
                     count(*it, "resets_sent"), count(*it, "established_resets")};
}

std::string text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string failure(const Error& error) { return text({{"ok", false}, {"error", error.what}}); }

std::string done(const Status& status) { return status ? text({{"ok", true}}) : failure(status.error()); }

std::string answer(LoadClient& client, std::string_view command) {
  if (command == "fill") {
    auto keys = client.fill();
    return keys ? text({{"ok", true}, {"keys", *keys}}) : failure(keys.error());
  }
  if (command == "start") return done(client.start());
  if (command == "begin") return done(client.begin_window());
  if (command == "end" || command.starts_with("end ")) {
    std::istringstream words{std::string(command.substr(3))};
    PhaseBounds bounds;
    words >> bounds.precopy_ns >> bounds.handover_ns >> bounds.resumed_ns;
    return to_json(client.end_window(bounds));
  }
  if (command.starts_with("watch ")) {
    client.watch_server(static_cast<pid_t>(std::strtol(std::string(command.substr(6)).c_str(), nullptr, 10)));
    return done({});
  }
  if (command == "verify") return to_json(client.verify());
  if (command == "pause" || command == "resume") {
    command == "pause" ? client.pause() : client.resume();
    return done({});
  }
  return failure({0, "unknown command \"" + std::string(command) + "\""});
}

Result<Json> parse(const std::string& line) {
  Json in = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!in.is_object()) return fail("the client's answer is not JSON: " + line);
  if (!in.value("ok", false)) {
    auto error = in.find("error");
    return fail("client: " + (error != in.end() && error->is_string() ? error->get<std::string>() : "failed"));
  }
  return in;
}

}  // namespace

nlohmann::ordered_json phases_json(const Phases& phases) {
  Json out = Json::object();
  for (size_t i = 0; i < phases.size(); ++i) {
    const auto& p = phases[i];
    out[kPhaseNames[i]] = !p ? Json(nullptr)
                             : Json{{"seconds", p->seconds},
                                    {"requests", p->requests},
                                    {"answers_per_s", p->answers_per_s},
                                    {"latency_p50_us", number(p->latency_p50_us)},
                                    {"latency_p99_us", number(p->latency_p99_us)},
                                    {"latency_p999_us", number(p->latency_p999_us)},
                                    {"latency_max_us", number(p->latency_max_us)},
                                    {"server_cpu_us", number(p->server_cpu_us)},
                                    {"longest_gap_ms", number(p->longest_gap_ms)}};
  }
  return out;
}

nlohmann::ordered_json gap_json(const Figures& f) {
  if (!f.longest_gap) return nullptr;
  return {{"phase", f.longest_gap_phase ? Json(kPhaseNames[static_cast<size_t>(*f.longest_gap_phase)]) : Json(nullptr)},
          {"start_us", f.longest_gap->begin_ns / 1000},
          {"end_us", f.longest_gap->end_ns / 1000}};
}

nlohmann::ordered_json tcp_json(const std::optional<TcpCounters>& c, std::optional<uint64_t> resets_received) {
  if (!c) return nullptr;
  return {{"timeouts", c->timeouts},
          {"retransmits", c->retransmits},
          {"tail_loss_probes", c->tail_loss_probes},
          // A probe may carry new data: then this says one too few, never one too many.
          {"other_retransmits", c->retransmits - std::min(c->retransmits, c->tail_loss_probes)},
          {"resets_sent", c->resets_sent},
          {"resets_received", resets_received ? Json(*resets_received) : Json(nullptr)},
          {"established_resets", c->established_resets}};
}

std::string to_json(const Figures& f) {
  const Counts& c = f.counts;
  return text({{"ok", true},
               {"requests", c.requests},
               {"errors", c.errors},
               {"resets", c.resets},
               {"lost", c.lost},
               {"duplicated", c.duplicated},
               {"reordered", c.reordered},
               {"not_sent", c.not_sent},
               {"impossible", c.impossible},
               {"phases", phases_json(f.phases)},
               {"client_tcp", tcp_json(f.client_tcp, f.resets_received)},
               {"workload_tcp", tcp_json(f.workload_tcp)},
               {"latency_p50_us", number(f.latency_p50_us)},
               {"latency_p99_us", number(f.latency_p99_us)},
               {"latency_max_us", number(f.latency_max_us)},
               {"service_interruption_ms", number(f.service_interruption_ms)},
               {"interruption_any_ms", number(f.interruption_any_ms)},
               {"longest_gap", gap_json(f)},
               {"quiet_gap_p99_ms", number(f.quiet_gap_p99_ms)},
               {"retransmits", f.retransmits},
               {"answers", f.answers},
               {"unanswered", f.unanswered},
               {"all_answered", f.all_answered}});
}

std::string to_json(const Verification& v) {
  return text({{"ok", true},
               {"checked", v.checked},
               {"lost", v.lost},
               {"verified", v.verified},
               {"problem", v.problem}});
}

Status check_answer(const std::string& line) {
  MOSE_ASSIGN(Json in, parse(line));
  return {};
}

Result<Figures> figures_from_json(const std::string& line) {
  MOSE_ASSIGN(Json in, parse(line));
  Figures f;
  f.counts = {count(in, "requests"), count(in, "errors"),     count(in, "resets"),  count(in, "lost"),
              count(in, "duplicated"), count(in, "reordered"), count(in, "not_sent"), count(in, "impossible")};
  f.phases = phases_of(in);
  f.client_tcp = tcp_of(in, "client_tcp");
  f.workload_tcp = tcp_of(in, "workload_tcp");
  auto tcp = in.find("client_tcp");
  if (tcp != in.end() && tcp->is_object() && tcp->contains("resets_received") && (*tcp)["resets_received"].is_number())
    f.resets_received = count(*tcp, "resets_received");
  f.latency_p50_us = optional_number(in, "latency_p50_us");
  f.latency_p99_us = optional_number(in, "latency_p99_us");
  f.latency_max_us = optional_number(in, "latency_max_us");
  f.service_interruption_ms = optional_number(in, "service_interruption_ms");
  f.interruption_any_ms = optional_number(in, "interruption_any_ms");
  read_gap(in, f);
  f.quiet_gap_p99_ms = optional_number(in, "quiet_gap_p99_ms");
  f.retransmits = count(in, "retransmits");
  f.answers = count(in, "answers");
  f.unanswered = count(in, "unanswered");
  f.all_answered = in.value("all_answered", false);
  return f;
}

Result<Verification> verification_from_json(const std::string& line) {
  MOSE_ASSIGN(Json in, parse(line));
  return Verification{count(in, "checked"), count(in, "lost"), in.value("verified", false), in.value("problem", "")};
}

Status serve(LoadClient& client, int in_fd, int out_fd) {
  std::string input;
  while (true) {
    pollfd fds[2] = {{in_fd, POLLIN, 0}, {client.event_fd(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return fail_errno("poll");
    if (fds[1].revents) client.poll(0);
    if (!fds[0].revents) continue;
    char chunk[kLineBytesMax];
    ssize_t n = ::read(in_fd, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read a command");
    if (n == 0) return {};
    input.append(chunk, static_cast<size_t>(n));
    for (size_t end; (end = input.find('\n')) != std::string::npos;) {
      std::string command = input.substr(0, end);
      input.erase(0, end + 1);
      if (command == "quit") return {};
      MOSE_TRY(write_all(out_fd, answer(client, command) + "\n"));
    }
    if (input.size() > kLineBytesMax) return fail("a command line is too long");
  }
}

}  // namespace mose::client
