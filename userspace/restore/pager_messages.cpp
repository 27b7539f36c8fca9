// SPDX-License-Identifier: MIT
#include "restore/pager_messages.h"

namespace mose::restore {
namespace {

PagerProgress read_progress(const pager::v1::Progress& in) {
  PagerProgress out;
  out.spaces = in.spaces();
  out.present_pages = in.present_pages();
  out.installed_pages = in.installed_pages();
  out.remote_left = in.remote_left();
  out.unregistered_pages = in.unregistered_pages();
  out.faults = in.faults();
  out.zero_faults = in.zero_faults();
  out.remote_faults = in.remote_faults();
  out.fault_p50_us = in.fault_p50_us();
  out.fault_p99_us = in.fault_p99_us();
  out.fault_max_us = in.fault_max_us();
  out.bytes_received = in.bytes_received();
  out.fork_events = in.fork_events();
  out.remap_events = in.remap_events();
  out.remove_events = in.remove_events();
  out.first_fault_us = in.first_fault_us();
  out.complete_us = in.complete_us();
  out.filled = in.filled();
  for (const auto& page : in.waiting()) out.waits.oldest.push_back({page.space(), page.page(), page.since_us()});
  out.waits.faults = in.waiting_faults();
  out.trouble = {in.source_trouble(), in.source_trouble_since_us()};
  return out;
}

void write_progress(const PagerProgress& in, pager::v1::Progress& out) {
  out.set_spaces(in.spaces);
  out.set_present_pages(in.present_pages);
  out.set_installed_pages(in.installed_pages);
  out.set_remote_left(in.remote_left);
  out.set_unregistered_pages(in.unregistered_pages);
  out.set_faults(in.faults);
  out.set_zero_faults(in.zero_faults);
  out.set_remote_faults(in.remote_faults);
  out.set_fault_p50_us(in.fault_p50_us);
  out.set_fault_p99_us(in.fault_p99_us);
  out.set_fault_max_us(in.fault_max_us);
  out.set_bytes_received(in.bytes_received);
  out.set_fork_events(in.fork_events);
  out.set_remap_events(in.remap_events);
  out.set_remove_events(in.remove_events);
  out.set_first_fault_us(in.first_fault_us);
  out.set_complete_us(in.complete_us);
  out.set_filled(in.filled);
  out.set_waiting_faults(in.waits.faults);
  for (const WaitingPage& page : in.waits.oldest) {
    auto& told = *out.add_waiting();
    told.set_space(page.space);
    told.set_page(page.page);
    told.set_since_us(page.since_us);
  }
  out.set_source_trouble(in.trouble.reason);
  out.set_source_trouble_since_us(in.trouble.since_us);
}

PagerStandby read_standby(const pager::v1::StandbyStatus& in) {
  return {.standby = in.standby(),
          .staged = in.staged(),
          .refreshed = in.refreshed(),
          .staged_pages = in.staged_pages(),
          .restaged_pages = in.restaged_pages(),
          .stale_pages = in.stale_pages(),
          .zeroed_pages = in.zeroed_pages(),
          .remote_pages = in.remote_pages(),
          .discarded_pages = in.discarded_pages(),
          .staged_us = in.staged_us(),
          .sealed_us = in.sealed_us(),
          .refreshed_us = in.refreshed_us(),
          .refusal = in.refusal()};
}

void write_standby(const PagerStandby& in, pager::v1::StandbyStatus& out) {
  out.set_standby(in.standby);
  out.set_staged(in.staged);
  out.set_refreshed(in.refreshed);
  out.set_staged_pages(in.staged_pages);
  out.set_restaged_pages(in.restaged_pages);
  out.set_stale_pages(in.stale_pages);
  out.set_zeroed_pages(in.zeroed_pages);
  out.set_remote_pages(in.remote_pages);
  out.set_discarded_pages(in.discarded_pages);
  out.set_staged_us(in.staged_us);
  out.set_sealed_us(in.sealed_us);
  out.set_refreshed_us(in.refreshed_us);
  out.set_refusal(in.refusal);
}

PagerPhase read_phase(pager::v1::Phase phase) {
  auto number = static_cast<unsigned>(phase);
  return number > static_cast<unsigned>(PagerPhase::failed) ? PagerPhase::unknown : static_cast<PagerPhase>(number);
}

// An event never takes a phase back: Restored may repeat what a status that said `running` has implied.
void reach(PagerStatus& status, PagerPhase phase) {
  if (status.phase < phase) status.phase = phase;
}

}  // namespace

bool read_stale(const google::protobuf::RepeatedPtrField<pager::v1::StalePages>& in, std::vector<StalePages>& out) {
  out.clear();
  for (const auto& one : in) {
    StalePages pages{.space = one.space(), .runs = {}, .descriptor = static_cast<int>(one.descriptor())};
    if (one.runs_size() % 2 != 0) return false;
    uint64_t end = 0;
    for (int i = 0; i < one.runs_size(); i += 2) {
      const uint64_t gap = one.runs(i), count = one.runs(i + 1);
      if (gap > kUserPages - end || count == 0 || count > kUserPages - end - gap) return false;
      pages.runs.push_back({end + gap, count});
      end += gap + count;
    }
    out.push_back(std::move(pages));
  }
  return true;
}

void write_stale(const std::vector<StalePages>& in, google::protobuf::RepeatedPtrField<pager::v1::StalePages>& out) {
  for (const StalePages& pages : in) {
    auto& one = *out.Add();
    one.set_space(pages.space);
    one.set_descriptor(static_cast<uint32_t>(pages.descriptor));
    uint64_t end = 0;
    for (const PageRun& run : pages.runs) {
      one.add_runs(run.first - end);
      one.add_runs(run.count);
      end = run.end();
    }
  }
}

bool read_report(const pager::v1::PagerReport& report, PagerStatus& status, PagerEvent& event) {
  using Kind = pager::v1::PagerReport::KindCase;
  switch (report.kind_case()) {
    case Kind::kStatus: {
      const auto& in = report.status();
      event.kind = PagerEventKind::status;
      status.phase = read_phase(in.phase());
      status.sealed = in.sealed();
      status.adopted = in.adopted();
      status.guardian_pid = in.guardian_pid();
      status.guardian_start_time = in.guardian_start_time();
      status.reason = in.reason();
      status.progress = read_progress(in.progress());
      status.standby = read_standby(in.standby());
      return read_stale(in.stale(), status.stale);
    }
    case Kind::kListening:
      event.kind = PagerEventKind::listening;
      reach(status, PagerPhase::listening);
      return true;
    case Kind::kSealed:
      event.kind = PagerEventKind::sealed;
      status.sealed = true;
      status.progress.present_pages = report.sealed().present_pages();
      status.progress.remote_left = report.sealed().remote_pages();
      return true;
    case Kind::kRestored:
      event.kind = PagerEventKind::restored;
      reach(status, PagerPhase::fenced);
      return true;
    case Kind::kProgress:
      event.kind = PagerEventKind::progress;
      status.progress = read_progress(report.progress());
      return true;
    case Kind::kComplete:
      event.kind = PagerEventKind::complete;
      reach(status, PagerPhase::complete);
      status.progress = read_progress(report.complete().stats());
      return true;
    case Kind::kFailed:
      event.kind = PagerEventKind::failed;
      event.reason = report.failed().reason();
      status.phase = PagerPhase::failed;
      status.reason = event.reason;
      return true;
    case Kind::kStaged:
      event.kind = PagerEventKind::staged;
      status.standby = read_standby(report.staged().standby());
      return true;
    case Kind::kRefreshed:
      event.kind = PagerEventKind::refreshed;
      status.standby = read_standby(report.refreshed().standby());
      status.stale.clear();
      return true;
    case Kind::kStale:
      event.kind = PagerEventKind::stale;
      return read_stale(report.stale().pages(), status.stale);
    case Kind::KIND_NOT_SET:
      break;
  }
  return false;
}

pager::v1::PagerReport write_report(PagerEventKind kind, const PagerStatus& status) {
  pager::v1::PagerReport report;
  switch (kind) {
    case PagerEventKind::status: {
      auto& out = *report.mutable_status();
      out.set_phase(static_cast<pager::v1::Phase>(status.phase));
      out.set_sealed(status.sealed);
      out.set_adopted(status.adopted);
      out.set_guardian_pid(status.guardian_pid);
      out.set_guardian_start_time(status.guardian_start_time);
      out.set_reason(status.reason);
      write_progress(status.progress, *out.mutable_progress());
      write_standby(status.standby, *out.mutable_standby());
      write_stale(status.stale, *out.mutable_stale());
      break;
    }
    case PagerEventKind::listening:
      report.mutable_listening();
      break;
    case PagerEventKind::sealed:
      report.mutable_sealed()->set_present_pages(status.progress.present_pages);
      report.mutable_sealed()->set_remote_pages(status.progress.remote_left);
      break;
    case PagerEventKind::restored:
      report.mutable_restored()->set_spaces(status.progress.spaces);
      break;
    case PagerEventKind::progress:
      write_progress(status.progress, *report.mutable_progress());
      break;
    case PagerEventKind::complete:
      write_progress(status.progress, *report.mutable_complete()->mutable_stats());
      break;
    case PagerEventKind::failed:
      report.mutable_failed()->set_reason(status.reason);
      break;
    case PagerEventKind::staged:
      write_standby(status.standby, *report.mutable_staged()->mutable_standby());
      break;
    case PagerEventKind::refreshed:
      write_standby(status.standby, *report.mutable_refreshed()->mutable_standby());
      break;
    case PagerEventKind::stale:
      write_stale(status.stale, *report.mutable_stale()->mutable_pages());
      break;
  }
  return report;
}

}  // namespace mose::restore
