// SPDX-License-Identifier: MIT
#include "lab/load_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "client/commands.h"
#include "kernel/spawn.h"
#include "lab/child_process.h"
#include "lab/options.h"

namespace mose::lab {
namespace {

constexpr Nanoseconds kFillBound = std::chrono::minutes(3);  // filling many GB
constexpr Nanoseconds kServerBound = std::chrono::seconds(10);
constexpr useconds_t kRetryUs = 50'000;

}  // namespace

LoadRequest load_request(const CommandLine& line, const std::string& server) {
  return {.server = server,
          .megabytes = line.megabytes,
          .connections = line.connections,
          .probes = line.probes,
          .seed = line.seed,
          .rate = line.rate,
          .mix = line.mix,
          .keys = line.keys,
          .value_bytes = line.value_bytes};
}

Result<LoadProcess> LoadProcess::start(const Names& names, const LoadRequest& request) {
  MOSE_ASSIGN(std::string program, helper_path("mose-client"));
  MOSE_ASSIGN(auto place, Place::of_netns(names.netns_path("client")));
  int to[2], from[2];
  if (::pipe2(to, O_CLOEXEC) != 0) return fail_errno("pipe2");
  Fd to_read(to[0]), to_write(to[1]);
  if (::pipe2(from, O_CLOEXEC) != 0) return fail_errno("pipe2");
  Fd from_read(from[0]), from_write(from[1]);
  ProgramSpec spec;
  spec.argv = {program,
               "--server",
               request.server,
               "--port",
               std::to_string(kRedisPort),
               "--mb",
               std::to_string(request.megabytes),
               "--connections",
               std::to_string(request.connections),
               "--probes",
               std::to_string(request.probes),
               "--seed",
               std::to_string(request.seed),
               "--value-bytes",
               std::to_string(request.value_bytes)};
  if (request.rate) {
    spec.argv.insert(spec.argv.end(),
                     {"--rate", std::to_string(*request.rate), "--mix", request.mix, "--keys", request.keys});
  }
  spec.place = &place;
  spec.in = to_read.get();
  spec.out = from_write.get();
  spec.die_with_us = true;
  MOSE_ASSIGN(auto process, start_program(spec));
  return LoadProcess(std::move(process), std::move(to_write), std::move(from_read));
}

LoadProcess::~LoadProcess() {
  if (!process_) return;
  to_.reset();
  constexpr Nanoseconds kEndBound = std::chrono::seconds(2);
  if (process_.reap(kEndBound)) return;
  auto killed = process_.signal(SIGKILL);
  auto reaped = process_.reap(kEndBound);
}

Result<std::string> LoadProcess::call(const std::string& command) {
  MOSE_TRY(write_all(to_.get(), command + "\n"));
  Timestamp deadline = now() + kFillBound;
  while (!buffer_.contains('\n')) {
    pollfd p{from_.get(), POLLIN, 0};
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now()).count();
    if (left <= 0) return fail_errno("client " + command, ETIMEDOUT);
    if (::poll(&p, 1, static_cast<int>(left)) <= 0) continue;
    char chunk[4096];
    ssize_t n = ::read(from_.get(), chunk, sizeof chunk);
    if (n == 0) return fail("the load client has ended");
    if (n < 0 && errno != EINTR) return fail_errno("read from the load client");
    if (n > 0) buffer_.append(chunk, static_cast<size_t>(n));
  }
  size_t end = buffer_.find('\n');
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  return line;
}

Status LoadProcess::simple(const std::string& command) {
  MOSE_ASSIGN(std::string line, call(command));
  return client::check_answer(line);
}

Status LoadProcess::prepare() {
  Timestamp deadline = now() + kServerBound;
  Status filled = simple("fill");
  while (!filled && now() < deadline) {
    ::usleep(kRetryUs);
    filled = simple("fill");
  }
  MOSE_TRY(std::move(filled));
  MOSE_TRY(simple("start"));
  return pause();
}

Status LoadProcess::resume() { return simple("resume"); }
Status LoadProcess::pause() { return simple("pause"); }
Status LoadProcess::begin_window() { return simple("begin"); }

Status LoadProcess::watch_server(pid_t pid) {
  return simple("watch " + std::to_string(pid));
}

Result<client::Figures> LoadProcess::end_window(const client::PhaseBounds& bounds) {
  MOSE_ASSIGN(std::string line, call("end " + std::to_string(bounds.precopy_ns) + " " +
                                     std::to_string(bounds.handover_ns) + " " + std::to_string(bounds.resumed_ns)));
  return client::figures_from_json(line);
}

Result<client::Verification> LoadProcess::verify() {
  MOSE_ASSIGN(std::string line, call("verify"));
  return client::verification_from_json(line);
}

}  // namespace mose::lab
