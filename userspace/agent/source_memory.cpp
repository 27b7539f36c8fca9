// SPDX-License-Identifier: MIT
#include "agent/source_memory.h"

#include <fmt/format.h>

#include <algorithm>

#include "agent/host_calibration.h"
#include "base/log.h"
#include "kernel/pagemap.h"
#include "kernel/procfs.h"
#include "kernel/shared_objects.h"
#include "kernel/socket.h"
#include "model/page_provider.h"
#include "move/hello.h"
#include "plan/strategy.h"

namespace mose::agent {
namespace {

// The pager connects as soon as it runs, before PREPARED is sent.
constexpr auto kConnectBound = std::chrono::seconds(10);
constexpr size_t kTurnedAwayMax = 4;  // the two connections of a pager, and its next two
// Between two looks at what the kernel still has to send.
constexpr auto kLookPause = std::chrono::milliseconds(1);
// What HEAT may take of the link, before each round.
constexpr Nanoseconds kHeatOnLinkMax = std::chrono::milliseconds(20);

}  // namespace

SourceMemory::SourceMemory(std::string cgroup, std::unique_ptr<DirtySource> source, const move::StreamId& stream,
                           uint64_t bandwidth_bps_max, Timeline& timeline)
    : cgroup_(std::move(cgroup)),
      source_(std::move(source)),
      stream_(stream),
      bandwidth_(bandwidth_bps_max),
      encoder_(&bandwidth_),
      timeline_(timeline) {}

SourceMemory::~SourceMemory() {
  cancel();
  urgent_.clear();  // joins
}

void SourceMemory::attach_bulk(move::StreamSocket socket, uint64_t features) {
  std::lock_guard lock(mutex_);
  // A second bulk stream has no meaning after the first carried a round: the store behind it is another one.
  if (bulk_) {
    log::warn("a second bulk connection is refused");
    return;
  }
  encoder_.set_peer(features);
  peer_takes_heat_ = (features & wire::kFeatureHeat) != 0;
  bulk_ = std::make_unique<move::Channel>(std::move(socket), stream_);
  arrived_.notify_all();
}

void SourceMemory::attach_urgent(move::StreamSocket socket) {
  auto channel = std::make_shared<move::Channel>(std::move(socket), stream_);
  std::list<Urgent> ended;  // joined without the lock
  std::lock_guard lock(mutex_);
  for (auto it = urgent_.begin(); it != urgent_.end();) {
    auto next = std::next(it);
    if (*it->ended) ended.splice(ended.end(), urgent_, it);
    it = next;
  }
  if (urgent_.size() >= kUrgentEndingMax) {
    log::warn("urgent connections come faster than they end: one is not served");
    return;
  }
  if (std::ranges::count(urgent_, false, &Urgent::closed) >= static_cast<std::ptrdiff_t>(kUrgentMax)) {
    log::warn("more urgent connections than a destination needs: the oldest is closed");
    auto oldest = std::ranges::find(urgent_, false, &Urgent::closed);
    oldest->channel->shut_down();
    oldest->closed = true;
    // A thread that reads pages from swap is joined when it has ended: the agent waits for nobody.
    if (!oldest->server.joinable()) ended.splice(ended.end(), urgent_, oldest);
  }
  urgent_.push_back({std::move(channel)});
  if (server_) begin_serving(urgent_.back());
}

bool SourceMemory::has_pager() const {
  std::lock_guard lock(mutex_);
  return std::ranges::any_of(urgent_, [](const Urgent& urgent) { return !urgent.closed && !*urgent.ended; });
}

// The connection stays for a while: closed with a request unread, it would be reset and the reason lost.
void SourceMemory::turn_away(move::StreamSocket socket, const std::string& reason) {
  turned_away_.emplace_back(std::move(socket), stream_);
  (void)move::turn_away(turned_away_.back(), reason);
  if (turned_away_.size() > kTurnedAwayMax) turned_away_.pop_front();
}

// Under mutex_.
void SourceMemory::begin_serving(Urgent& urgent) {
  urgent.server = std::jthread(log::carried([this, channel = urgent.channel, ended = urgent.ended] {
    serve(*channel);
    *ended = true;
  }));
}

void SourceMemory::serve(move::Channel& channel) {
  auto served = server_->serve(channel, stop_.get_token());
  if (!served && !stop_.stop_requested()) {
    log::info("an urgent connection ended", {{"reason", served.error().what}});
  }
}

void SourceMemory::start_waiting_servers() {
  std::lock_guard lock(mutex_);
  server_ = std::make_shared<move::PageServer>(frozen_, &gate_, &bandwidth_);
  for (Urgent& urgent : urgent_) begin_serving(urgent);
}

Result<move::Channel*> SourceMemory::bulk() {
  std::unique_lock lock(mutex_);
  bool there = arrived_.wait_for(lock, kConnectBound, [this] { return bulk_ || stop_.stop_requested(); });
  if (stop_.stop_requested()) return std::unexpected(Error{ECANCELED, "cancelled"});
  if (!there) return fail("the destination's pager did not connect: can it reach this node's listen address?");
  return bulk_.get();
}

Result<plan::RoundStats> SourceMemory::round(plan::RoundAhead ahead, bool closing) {
  const unsigned number = ahead.round;
  Timeline::Span span(timeline_, fmt::format("precopy_{}", number));
  writes_.attach(cgroup_);
  MOSE_ASSIGN(move::Channel * channel, bulk());
  MOSE_ASSIGN(auto listed, cgroup_spaces(cgroup_));
  MOSE_ASSIGN(auto processes, with_shared_objects(std::move(listed)));
  move::PageSenderOptions options;
  options.bandwidth = &bandwidth_;
  options.encoder = &encoder_;
  options.stop = stop_.get_token();
  options.sent = [this](SpaceId space, std::span<const PageRun> runs) { writes_.sent(space, runs); };
  options.progress = [this](uint64_t, uint64_t) { writes_.sample(); };
  move::PageSender sender(*channel, std::move(options));
  // The second round is the first of written pages: nothing has been forecast of it.
  if (number == 2) ahead.expected = source_->estimate_written(processes);
  if (closing || plan::prepares_early(ahead)) source_->expect_last();
  writes_.begin_round();
  source_->read_last(writes_.heat());
  MOSE_TRY(send_heat(sender));
  const size_t waiting = unacknowledged_bytes(channel->fd()).value_or(0);
  const Timestamp start = now();
  // Its faults show all that is written; in the round that begins with it, and where some pages were left unprotected, they do not.
  const bool tracked = source_->name() == "write-protection" && !left_unprotected_;
  MOSE_ASSIGN(auto sent, sender.run_round(number, *source_, processes));
  const uint64_t link_bps = note_link(sent, waiting, unacknowledged_bytes(channel->fd()).value_or(0));
  writes_.end_round(number, start, now(), sent.pages, sent.scan.pages_present, tracked);
  left_unprotected_ = sent.scan.pages_unprotected != 0;
  std::lock_guard lock(mutex_);
  tracking_ = {std::string(source_->name()), source_->reason()};
  totals_.rounds += 1;
  totals_.pages += sent.pages;
  totals_.bytes += sent.bytes;
  plan::RoundStats stats{sent.scan.pages_present, sent.pages, sent.bytes, sent.duration};
  stats.link_bps = link_bps;
  const Nanoseconds sending = link_bps == 0 ? sent.duration : plan::time_to_send(sent.pages, link_bps);
  stats.outlook = writes_.outlook(sent.duration, link_bps,
                                  plan::next_look({sent.duration, sending, sent.scan.pages_read, sent.scan.pages_armed}));
  stats.unprepared = source_->waits_for_last();
  stats.pages_next_protected = sent.scan.pages_next_protected;
  if (auto costs = known_calibration(); costs && costs->fault_us) stats.write_fault_seconds = *costs->fault_us / 1e6;
  return stats;
}

// Before the round and not after it, where it would stand between the last round and the freeze. Until something has been
// sent nothing is known of the link, and nothing of the heat.
Status SourceMemory::send_heat(move::PageSender& sender) {
  if (!peer_takes_heat_) return {};
  const double link_bps = static_cast<double>(totals().link_bps);
  const double bytes_max = link_bps / 8 * to_ms(kHeatOnLinkMax) / 1000;
  return sender.send_heat(writes_.heat(), static_cast<uint64_t>(bytes_max) / sizeof(PageRun));
}

// The round that carried most says what the link can do: at least that, for a round may also have waited for the look
// at its pages. What waits in the kernel has not been carried.
uint64_t SourceMemory::note_link(const move::SendStats& sent, size_t waiting_before, size_t waiting_after) {
  std::lock_guard lock(mutex_);
  const uint64_t given = sent.bytes + waiting_before;
  const uint64_t carried = given - std::min<uint64_t>(waiting_after, given);
  const double seconds = to_ms(sent.duration) / 1000;
  if (carried > link_seen_bytes_ && seconds > 0) {
    link_seen_bytes_ = carried;
    totals_.link_bps = static_cast<uint64_t>(static_cast<double>(carried) * 8 / seconds);
    if (bandwidth_.limited()) {
      totals_.link_bps = std::min(totals_.link_bps, static_cast<uint64_t>(bandwidth_.bytes_per_second() * 8));
    }
  }
  return totals_.link_bps;
}

namespace {

// Where a scan looks for pages.
Result<std::map<SpaceId, PageSet>> lazy_areas(std::span<const SpaceProcess> processes) {
  std::map<SpaceId, PageSet> areas;
  for (const SpaceProcess& process : processes) {
    if (!process.object.empty()) continue;
    MOSE_ASSIGN(std::vector<Vma> vmas, read_vmas(process.pid));
    areas[process.space] = lazy_pages(vmas);
  }
  return areas;
}

}  // namespace

Status SourceMemory::tree_stopped() {
  MOSE_ASSIGN(auto processes, cgroup_spaces(cgroup_));
  source_->tree_stopped(processes);
  return {};
}

Status SourceMemory::serve_frozen() {
  MOSE_ASSIGN(auto listed, cgroup_spaces(cgroup_));
  MOSE_ASSIGN(frozen_, with_shared_objects(std::move(listed)));
  start_waiting_servers();
  return {};
}

Result<plan::FinalStats> SourceMemory::final_scan() {
  const Timestamp stopped = now();
  MOSE_TRY(serve_frozen());
  MOSE_ASSIGN(move::Channel * channel, bulk());
  FinalPages pages;
  {
    Timeline::Span span(timeline_, "scan");
    MOSE_ASSIGN(pages, source_->final_scan(frozen_));
  }
  move::PageSenderOptions options;
  options.bandwidth = &bandwidth_;
  options.stop = stop_.get_token();
  move::PageSender sender(*channel, std::move(options));
  MOSE_TRY(sender.send_map(pages));
  writes_.stopped(stopped, pages.stats.pages_changed);
  writes_.mark_hot(pages);
  MOSE_ASSIGN(auto scanned, lazy_areas(frozen_));
  std::lock_guard lock(mutex_);
  scanned_ = std::move(scanned);
  for (const SpacePages& space : pages.spaces) {
    totals_.present_pages += space.present.pages();
    totals_.remote_pages += space.remote.pages();
  }
  totals_.scan_ms = to_ms(pages.stats.duration);
  tracking_ = {std::string(source_->name()), source_->reason()};
  final_ = std::move(pages);
  return plan::FinalStats{.pages_left = totals_.remote_pages};
}

void SourceMemory::push(std::optional<uint64_t> pages_left_max, bool standby, const std::function<void(uint64_t)>& tell) {
  Timeline::Span span(timeline_, "push");
  auto channel = bulk();
  if (!channel) return;
  move::PageSenderOptions options;
  options.bandwidth = &bandwidth_;
  options.encoder = &encoder_;
  options.stop = stop_.get_token();
  options.gate = &gate_;
  const Totals before = totals();
  const uint64_t remote = before.remote_pages;
  const bool awaited = standby && plan::time_to_send(remote, before.link_bps) <= kFreshTime;
  bool told = !pages_left_max;
  // What waits in this kernel is not at the destination.
  auto look = [&](uint64_t pages_sent) {
    if (told) return;
    const move::StreamStats stream = encoder_.stats();
    const uint64_t contents_per_byte = stream.wire == 0 ? 1 : 1 + stream.contents / stream.wire;  // rounded up: never too few
    const uint64_t waiting = unacknowledged_bytes((*channel)->fd()).value_or(0) * contents_per_byte / kPageSize;
    const uint64_t left = remote - std::min(pages_sent, remote) + waiting;
    if (left > *pages_left_max) return;
    told = true;
    tell(left);
    if (!awaited) push_in_background();
  };
  options.progress = [&](uint64_t pages, uint64_t) { look(pages); };
  move::PageSender sender(**channel, std::move(options));
  look(0);
  auto sent = sender.push(final_, frozen_);
  // Not less than was sent: what urgent answers have taken out of the push is at the destination as well.
  while (sent && !told && !stop_.stop_requested()) {
    look(remote);
    if (!told) std::this_thread::sleep_for(kLookPause);
  }
  if (!sent && !stop_.stop_requested()) {
    log::warn("the push of remaining pages broke off; the destination asks for them",
              {{"reason", sent.error().what}});
  }
  {
    std::lock_guard lock(mutex_);
    background_.reset();
  }
  writes_.end();
}

void SourceMemory::push_in_background() {
  InBackground* background = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (committed_ || stop_.stop_requested()) return;
    background = &background_.emplace();
  }
  background->begin();  // this thread alone takes it away again
}

void SourceMemory::committed() {
  std::lock_guard lock(mutex_);
  committed_ = true;
  if (background_) background_->end();
}

void SourceMemory::end_tracking() {
  writes_.end();
  source_->end_tracking();
}

SourceMemory::Tracking SourceMemory::tracking() const {
  std::lock_guard lock(mutex_);
  return tracking_;
}

void SourceMemory::cancel() {
  stop_.request_stop();
  std::lock_guard lock(mutex_);
  if (background_) background_->end();
  if (bulk_) bulk_->shut_down();
  for (const Urgent& urgent : urgent_) urgent.channel->shut_down();
  arrived_.notify_all();
}

// Under mutex_.
Status SourceMemory::check_scanned(SpaceId space, const PageSet& area) const {
  auto scanned = scanned_.find(space);
  const PageSet beyond = scanned == scanned_.end() ? area : area.minus(scanned->second);
  if (beyond.empty()) return {};
  auto process = std::ranges::find(frozen_, space, &SpaceProcess::space);
  if (process == frozen_.end()) return fail(fmt::format("process {} is not in the frozen tree", space));
  MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(process->pid));
  MOSE_ASSIGN(PageSet missed, pagemap.populated(beyond));
  if (missed.empty()) return {};
  return fail(fmt::format("process {} has {} pages that a lazy restore would take for zero: they were not scanned (first at {:#x})",
                          space, missed.pages(), missed.runs().front().first << kPageShift));
}

Status SourceMemory::check_areas(const std::map<SpaceId, PageSet>& areas) const {
  std::lock_guard lock(mutex_);
  std::map<SpaceId, const PageSet*> present;
  for (const SpacePages& space : final_.spaces) present[space.space] = &space.present;
  for (const auto& [space, area] : areas) {
    auto it = present.find(space);
    if (it == present.end()) {
      if (area.empty()) continue;
      return fail(fmt::format("process {} is in the images but its memory was not scanned", space));
    }
    if (PageSet outside = it->second->minus(area); !outside.empty()) {
      return fail(fmt::format("process {} has {} scanned pages that a lazy restore would not bring back (first at {:#x})",
                              space, outside.pages(), outside.runs().front().first << kPageShift));
    }
    MOSE_TRY(check_scanned(space, area));
  }
  return {};
}

SourceMemory::Totals SourceMemory::totals() const {
  std::lock_guard lock(mutex_);
  Totals totals = totals_;
  totals.bytes_sent = bulk_ ? bulk_->bytes_sent() : 0;
  if (server_) totals.bytes_sent += server_->stats().bytes;
  totals.stream = encoder_.stats();
  totals.capped = bandwidth_.waited();
  return totals;
}

}  // namespace mose::agent
