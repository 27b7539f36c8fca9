// SPDX-License-Identifier: MIT
#include "checker_client.h"

#include <poll.h>
#include <unistd.h>

namespace mose::test {
namespace {

constexpr Nanoseconds kStepsBound = std::chrono::seconds(60);
constexpr const char* kIdle = "cold";  // writes nothing

}  // namespace

Result<Json> CheckerClient::ask(const std::string& request, Nanoseconds bound) {
  MOSE_TRY(write_all(out_ ? out_.get() : in_.get(), request + "\n"));
  const Timestamp deadline = now() + bound;
  for (;;) {
    if (size_t end = text_.find('\n'); end != std::string::npos) {
      Json answer = Json::parse(text_.substr(0, end), nullptr, /*allow_exceptions=*/false);
      text_.erase(0, end + 1);
      if (!answer.is_object()) return fail("the checker's answer to " + request + " is no object");
      if (answer.contains("error")) return fail(request + ": " + answer["error"].get<std::string>());
      return answer;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now()).count();
    pollfd waiting{in_.get(), POLLIN, 0};
    if (left <= 0 || ::poll(&waiting, 1, static_cast<int>(left)) == 0)
      return fail("the checker does not answer " + request);
    char bytes[4096];
    ssize_t got = ::read(in_.get(), bytes, sizeof bytes);
    if (got < 0) return fail_errno("the checker's answer to " + request);
    if (got == 0) return fail("the checker has closed the connection");
    text_.append(bytes, static_cast<size_t>(got));
  }
}

Status CheckerClient::wait_for_steps(const Json& counts, uint64_t more, const std::string& resting) {
  const std::string others = "," + resting + ",";
  for (const Timestamp deadline = now() + kStepsBound;; ::usleep(20'000)) {
    MOSE_ASSIGN(Json later, ask("counts"));
    std::string waits;
    for (const auto& [kind, before] : counts["kinds"].items()) {
      if (kind == kIdle || others.find("," + kind + ",") != std::string::npos) continue;
      if (later["kinds"][kind]["steps"].get<uint64_t>() < before["steps"].get<uint64_t>() + more) waits += " " + kind;
    }
    if (waits.empty()) return {};
    if (now() >= deadline) return fail("writers that do not go on:" + waits);
  }
}

std::string bad_pages(const Json& counts) {
  std::string text;
  for (const auto& [kind, count] : counts["kinds"].items()) {
    for (const char* verdict : {"stale", "ahead", "foreign", "lost", "torn"}) {
      if (count[verdict] == 0) continue;
      text += (text.empty() ? "" : ", ") + kind + ": " + count[verdict].dump() + " " + verdict;
    }
  }
  return text;
}

}  // namespace mose::test
