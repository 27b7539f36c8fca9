// SPDX-License-Identifier: MIT
#include "client/commands.h"

#include <poll.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

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
  if (command == "end") return to_json(client.end_window());
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
               {"latency_p50_us", number(f.latency_p50_us)},
               {"latency_p99_us", number(f.latency_p99_us)},
               {"latency_max_us", number(f.latency_max_us)},
               {"service_interruption_ms", number(f.service_interruption_ms)},
               {"interruption_any_ms", number(f.interruption_any_ms)},
               {"quiet_gap_p99_ms", number(f.quiet_gap_p99_ms)},
               {"retransmits", f.retransmits},
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
              count(in, "duplicated"), count(in, "reordered"), count(in, "not_sent")};
  f.latency_p50_us = optional_number(in, "latency_p50_us");
  f.latency_p99_us = optional_number(in, "latency_p99_us");
  f.latency_max_us = optional_number(in, "latency_max_us");
  f.service_interruption_ms = optional_number(in, "service_interruption_ms");
  f.interruption_any_ms = optional_number(in, "interruption_any_ms");
  f.quiet_gap_p99_ms = optional_number(in, "quiet_gap_p99_ms");
  f.retransmits = count(in, "retransmits");
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
