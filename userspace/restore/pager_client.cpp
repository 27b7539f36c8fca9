// SPDX-License-Identifier: MIT
#include "restore/pager_client.h"

#include <fcntl.h>

#include "kernel/spawn.h"
#include "pager.pb.h"
#include "restore/pager_frames.h"
#include "restore/pager_messages.h"

namespace mose::restore {

const char* to_string(PagerPhase phase) {
  switch (phase) {
    case PagerPhase::unknown: return "unknown";
    case PagerPhase::listening: return "listening";
    case PagerPhase::restoring: return "restoring";
    case PagerPhase::fencing: return "fencing";
    case PagerPhase::fenced: return "fenced";
    case PagerPhase::running: return "running";
    case PagerPhase::complete: return "complete";
    case PagerPhase::failed: return "failed";
  }
  return "?";
}

Result<PagerClient> PagerClient::connect(const std::string& socket_path) {
  MOSE_ASSIGN(Fd fd, unix_connect(socket_path));
  return PagerClient(std::move(fd));
}

Result<std::vector<PagerEvent>> PagerClient::on_ready() {
  MOSE_TRY(flush());
  auto end = read_available(socket_.get(), input_);
  std::vector<PagerEvent> events;
  for (;;) {
    MOSE_ASSIGN(auto frame, take_pager_frame(input_));
    if (!frame) break;
    MOSE_ASSIGN(PagerEvent event, apply(*frame));
    events.push_back(std::move(event));
  }
  // What came before the end is told first; the end is found again at the next call.
  if (!end && events.empty()) return context("pager", std::move(end).error());
  return events;
}

Result<PagerEvent> PagerClient::apply(const std::string& payload) {
  pager::v1::PagerReport report;
  if (!report.ParseFromString(payload)) return fail("pager: a message that cannot be parsed");
  PagerEvent event;
  if (!read_report(report, seen_, event)) return fail("pager: a message of an unknown kind");
  return event;
}

Status PagerClient::queue(const std::string& payload) {
  if (output_.size() + payload.size() > kPagerOutputMax) return fail("the pager does not read its requests");
  output_ += pager_frame(payload);
  return flush();
}

Status PagerClient::flush() { return write_available(socket_.get(), output_); }

Status PagerClient::ask_status() {
  pager::v1::PagerRequest request;
  request.mutable_status();
  return queue(request.SerializeAsString());
}

Status PagerClient::thawed() {
  pager::v1::PagerRequest request;
  request.mutable_thawed();
  return queue(request.SerializeAsString());
}

Status PagerClient::standby(bool discards) {
  pager::v1::PagerRequest request;
  request.mutable_standby()->set_discards(discards);
  return queue(request.SerializeAsString());
}

Status PagerClient::pages_awaited() {
  pager::v1::PagerRequest request;
  request.mutable_pages_awaited();
  return queue(request.SerializeAsString());
}

Status PagerClient::discarded(const std::vector<StalePages>& kept) {
  seen_.stale.clear();
  pager::v1::PagerRequest request;
  write_stale(kept, *request.mutable_discarded()->mutable_kept());
  return queue(request.SerializeAsString());
}

Status PagerClient::standby_dropped(const std::string& images_dir) {
  pager::v1::PagerRequest request;
  request.mutable_standby_dropped()->set_images_dir(images_dir);
  return queue(request.SerializeAsString());
}

Status PagerClient::quit(bool tree_is_dead) {
  pager::v1::PagerRequest request;
  request.mutable_quit()->set_tree_is_dead(tree_is_dead);
  return queue(request.SerializeAsString());
}

Result<ProcessHandle> launch_pager(const PagerLaunch& launch) {
  SpawnRequest request;
  MOSE_ASSIGN(request.program, helper_path("mose-pager"));
  auto add = [&](const char* name, const std::string& value) {
    request.arguments.emplace_back(name);
    request.arguments.push_back(value);
  };
  add("--id", launch.id);
  add("--epoch", std::to_string(launch.epoch));
  add("--source", launch.source);
  add("--node", launch.node);
  add("--peer-node", launch.peer_node);
  add("--images-dir", launch.images_dir);
  add("--socket", launch.socket);
  add("--cgroup", launch.cgroup);
  if (launch.store_bytes_max != 0) add("--store-bytes-max", std::to_string(launch.store_bytes_max));
  if (launch.reserve_bytes != 0) add("--reserve-bytes", std::to_string(launch.reserve_bytes));
  if (!launch.certificate.empty()) {
    add("--certificate", launch.certificate);
    add("--key", launch.key);
    add("--authorities", launch.authorities);
    if (!launch.revoked.empty()) add("--revoked", launch.revoked);
  }
  if (launch.adopt != 0) add("--adopt", std::to_string(launch.adopt));
  // By the environment: arguments are readable by everybody on the machine.
  request.environment = {"MOSE_PAGER_TOKEN=" + launch.token};
  request.new_session = true;
  Fd log;
  if (!launch.log.empty()) {
    MOSE_ASSIGN(log, open_file(launch.log, O_WRONLY | O_CREAT | O_APPEND, 0600));
    request.fds = {{log.get(), 1}, {log.get(), 2}};
  }
  return spawn(request);
}

}  // namespace mose::restore
