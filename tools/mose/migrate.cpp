// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "mose/control/control.pb.h"
#include "mose/output.h"
#include "mose/session.h"

namespace mose::cli {
namespace {

using control::v1::Request;
using control::v1::Response;

constexpr Nanoseconds kLookForInterrupts = std::chrono::milliseconds(200);

volatile sig_atomic_t interrupted = 0;
void on_interrupt(int) {
  interrupted = 1;
}

// Without SA_RESTART: a wait for the agent ends with EINTR.
void catch_interrupts() {
  struct sigaction action{};
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

Request make_request(const Command& command) {
  Request request;
  auto& migrate = *request.mutable_migrate();
  migrate.set_workload(command.subject);
  migrate.set_node(command.node);
  migrate.set_strategy(command.strategy);
  migrate.set_objective(command.objective);
  migrate.set_tracker(command.tracker);
  migrate.set_steer(command.steer);
  migrate.set_max_downtime_ns(static_cast<uint64_t>(command.max_downtime.count()));
  migrate.set_max_total_ns(static_cast<uint64_t>(command.max_total.count()));
  migrate.set_max_stall_ns(static_cast<uint64_t>(command.max_stall.count()));
  migrate.set_max_bandwidth_bps(command.max_bandwidth_bps);
  migrate.set_rounds_max(command.rounds_max);
  migrate.set_standby(command.standby);
  migrate.set_auto_converge(command.auto_converge);
  migrate.set_dry_run(command.dry_run);
  migrate.set_detach(command.detach);
  return request;
}

// One migration as this command sees it: follows the stream and turns interrupts into a cancel or a detach.
class Follower {
 public:
  Follower(const Command& command, agent::ControlClient client)
      : command_(command), client_(std::move(client)), terminal_(isatty(STDERR_FILENO) != 0 && !command.json) {}

  int run() {
    Request request = make_request(command_);
    auto sent = client_.send(request);
    if (!sent) return report(command_, lost(sent.error()).error());
    for (;;) {
      if (interrupted != 0) {
        interrupted = 0;
        if (auto code = on_interrupted()) return *code;
      }
      Response response;
      // A migration takes as long as it takes, and a dead agent closes the connection: the bound is for an interrupt
      // that came just before the wait.
      auto status = client_.receive(response, kLookForInterrupts);
      if (!status && (status.error().code == EINTR || status.error().code == ETIMEDOUT)) continue;
      if (!status) {
        clear_line();
        std::string hint = id_.empty() ? "" : fmt::format("; migration {}: see mose show when it is back", id_);
        return report(command_, {kExitUnreachable, status.error().what + hint});
      }
      if (response.id() == cancel_id_ && response.id() != 0) {
        // A cancel that comes too late is a detach, as the interrupt would have been a moment later.
        if (response.has_failure() && !before_commit_) return detached();
        if (command_.detach) return withdrawn_one_ends(response);
        continue;
      }
      if (auto code = take(response)) return *code;
    }
  }

 private:
  std::optional<int> take(const Response& response) {
    if (response.has_failure()) {
      clear_line();
      return report(command_, {static_cast<int>(response.failure().exit_code()), response.failure().reason()});
    }
    if (response.has_check_result()) {  // --dry-run
      fmt::print("{}", show(response.check_result(), command_.json));
      return response.check_result().ok() ? 0 : 3;
    }
    if (response.has_started()) {
      id_ = response.started().migration_id();
      if (interrupts_ > 0) {
        cancel();
      } else if (command_.detach) {
        fmt::print("{}", command_.json ? fmt::format("{{\"migration_id\":\"{}\"}}\n", id_) : id_ + "\n");
        return 0;
      }
    } else if (response.has_progress()) {
      before_commit_ = response.progress().before_commit();
      draw(response.progress());
    } else if (response.has_finished()) {
      return finish(response.finished());
    }
    return std::nullopt;
  }

  int finish(const control::v1::Finished& finished) {
    clear_line();
    if (finished.exit_code() != 0 && !finished.reason().empty()) fmt::print(stderr, "mose: {}\n", finished.reason());
    if (!finished.report_json().empty()) {
      fmt::print("{}", show_report(finished.report_json(), command_.json));
    } else if (command_.json) {
      return report(command_, {static_cast<int>(finished.exit_code()), finished.reason()});
    }
    return static_cast<int>(finished.exit_code());
  }

  // A code: this command ends. The second interrupt ends it in any case: the agent may not answer for long.
  std::optional<int> on_interrupted() {
    clear_line();
    if (!before_commit_) return detached();
    if (++interrupts_ > 1) return left();
    if (id_.empty()) {
      fmt::print(stderr, "mose: the migration is cancelled as soon as the agent answers; interrupt again to leave\n");
    } else {
      cancel();
    }
    return std::nullopt;
  }

  void cancel() {
    fmt::print(stderr, "mose: cancelling migration {}\n", id_);
    Request request;
    request.mutable_cancel()->set_migration_id(id_);
    auto sent = client_.send(request);
    if (sent) cancel_id_ = *sent;
  }

  int left() {
    if (id_.empty()) {
      return report(command_,
                    {kExitUnreachable,
                     fmt::format("the agent has not answered, so whether {} is being moved is not known: see mose "
                                 "status and mose history when it does",
                                 command_.subject)});
    }
    return report(command_,
                  {kExitUnreachable, fmt::format("migration {} was asked to abort and its state is not known: see "
                                                 "mose status and mose show {}",
                                                 id_, id_.substr(0, 8))});
  }

  // Nobody would tell how a detached one ends.
  int withdrawn_one_ends(const Response& response) {
    if (!response.has_failure()) return report(command_, {5, fmt::format("migration {} was asked to abort", id_)});
    return report(command_, {kExitUnreachable, fmt::format("migration {} could not be cancelled ({}): see mose show {}",
                                                           id_, response.failure().reason(), id_.substr(0, 8))});
  }

  int detached() {
    clear_line();
    fmt::print(stderr, "mose: migration {} has committed and goes on; see mose show {}\n", id_, id_.substr(0, 8));
    return kExitUnreachable;  // its end is not known here
  }

  void draw(const control::v1::Progress& progress) {
    if (!terminal_) return;
    std::string text = show(progress, false);
    text.pop_back();
    fmt::print(stderr, "\r\033[K{} -> {}: {}", progress.workload(), progress.destination(), text);
    std::fflush(stderr);
    drawn_ = true;
  }

  void clear_line() {
    if (drawn_) fmt::print(stderr, "\r\033[K");
    drawn_ = false;
  }

  const Command& command_;
  agent::ControlClient client_;
  std::string id_;
  uint64_t cancel_id_ = 0;
  unsigned interrupts_ = 0;  // before the commit
  bool terminal_, drawn_ = false, before_commit_ = true;
};

}  // namespace

int run_migrate(const Command& command) {
  auto client = connect(command);
  if (!client) return report(command, client.error());
  catch_interrupts();
  return Follower(command, std::move(*client)).run();
}

}  // namespace mose::cli
