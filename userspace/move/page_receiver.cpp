// SPDX-License-Identifier: MIT
#include "move/page_receiver.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>

#include "kernel/urgently.h"
#include "move/page_contents.h"

namespace mose::move {
namespace {

constexpr std::chrono::milliseconds kHeaderWait{500};
// Requests under way on one connection: enough to fill a link of 1 Gbit/s and 50 ms, few enough that a page asked for
// urgently does not wait long behind them.
constexpr size_t kRefillWindow = 4;
constexpr size_t kUrgentWindow = 64;

}  // namespace

Connector connect_to_source(std::string endpoint, StreamId stream, Hello mine, Nanoseconds bound, std::shared_ptr<Tls> tls,
                            std::string peer) {
  return [endpoint = std::move(endpoint), stream, mine = std::move(mine), bound, tls = std::move(tls),
          peer = std::move(peer)](Purpose purpose) -> Result<Channel> {
    MOSE_ASSIGN(StreamSocket socket, connect_stream(endpoint, tls, peer, bound));
    Channel channel(std::move(socket), stream);
    Hello hello = mine;
    hello.purpose = purpose;
    auto theirs = greet(channel, hello, bound);
    if (!theirs) return context(endpoint, theirs.error());
    if (!peer.empty() && theirs->node != peer) return fail(endpoint + " is node " + theirs->node + ", not " + peer);
    return channel;
  };
}

// One connection that carries requests and their answers.
struct RequestStream {
  Channel channel;
  std::deque<std::pair<PageRequest, uint64_t>> outstanding;  // with the pages still to come

  Status send(PageRequest request) {
    MOSE_TRY(channel.send(wire::FrameType::request, encode_request(request)));
    uint64_t pages = count_pages(request.runs);
    outstanding.emplace_back(std::move(request), pages);
    return {};
  }
  // The answer to the oldest request has brought `pages` pages of `space`.
  Status arrived(SpaceId space, uint64_t pages) {
    if (outstanding.empty() || outstanding.front().first.space != space || pages > outstanding.front().second) {
      return fail("pages that nobody asked for");
    }
    outstanding.front().second -= pages;
    if (outstanding.front().second == 0) outstanding.pop_front();
    return {};
  }
};

struct PageReceiver::Impl {
  Impl(PageStore& s, PageReceiverOptions o) : store(s), options(std::move(o)) {}

  PageStore& store;
  PageReceiverOptions options;
  std::jthread bulk_thread, urgent_thread;

  // Counters.
  std::atomic<uint64_t> bytes{0}, pages{0}, duplicates{0}, rounds{0}, remote{0}, requests{0}, reconnects{0};

  // Channels that a stop() has to wake; each registered while its thread uses it.
  std::mutex wake_mutex;
  std::condition_variable wake;
  struct Live {
    const Channel* channel;
    bool needed_when_complete;  // BULK is read to its end, so that the source's push ends well
  };
  std::vector<Live> live;
  bool stopping = false;
  bool complete_told = false, failure_told = false;  // under wake_mutex

  // The urgent side. `stream` is set while connected; requests go out from the asking thread.
  std::mutex urgent_mutex;
  RequestStream* stream = nullptr;
  Fd asked_bell{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::deque<PageRequest> queue;
  std::map<SpaceId, PageTable<uint8_t>> asked;

  std::mutex listener_mutex;
  Listener listener;

  mutable std::mutex trouble_mutex;
  SourceTrouble trouble;

  std::mutex heat_mutex;
  std::map<SpaceId, std::vector<PageSet>> heat;  // as the source said last

  class Registered {
   public:
    Registered(Impl& impl, const Channel& channel, bool needed_when_complete = false)
        : impl_(impl), channel_(&channel) {
      std::lock_guard lock(impl_.wake_mutex);
      impl_.live.push_back({channel_, needed_when_complete});
      if (impl_.stopping) channel_->shut_down();
    }
    ~Registered() {
      std::lock_guard lock(impl_.wake_mutex);
      std::erase_if(impl_.live, [&](const Live& live) { return live.channel == channel_; });
    }
    Registered(const Registered&) = delete;
    Registered& operator=(const Registered&) = delete;

   private:
    Impl& impl_;
    const Channel* channel_;
  };

  bool stopped() {
    std::lock_guard lock(wake_mutex);
    return stopping;
  }
  bool complete() const { return store.sealed() && store.missing_pages() == 0; }

  // Sleeps; true when it is time to end.
  bool pause(Nanoseconds duration) {
    std::unique_lock lock(wake_mutex);
    wake.wait_for(lock, duration, [&] { return stopping || complete(); });
    return stopping;
  }

  void tell_local(SpaceId space, const std::vector<PageRun>& runs) {
    if (!store.sealed() || runs.empty()) return;
    Listener call;
    {
      std::lock_guard lock(listener_mutex);
      call = listener;
    }
    if (call) {
      for (const PageRun& run : runs) call(space, run);
    }
    tell_complete();
  }

  void tell_complete() {
    if (!complete()) return;
    {
      std::lock_guard lock(wake_mutex);
      if (std::exchange(complete_told, true)) return;
      wake.notify_all();
      for (const Live& one : live) {
        if (!one.needed_when_complete) one.channel->shut_down();
      }
    }
    if (options.on_complete) options.on_complete();
  }

  void tell_failure(Error error) {
    {
      std::lock_guard lock(wake_mutex);
      if (stopping || std::exchange(failure_told, true)) return;
    }
    if (options.on_failure) options.on_failure(std::move(error));
  }

  void tell_trouble(const Error& error) {
    if (stopped() || complete()) return;
    {
      std::lock_guard lock(trouble_mutex);
      if (trouble.reason.empty()) trouble.since_us = to_us(now());
      trouble.reason = error.what;
    }
    if (options.on_trouble) options.on_trouble(error);
  }

  void trouble_is_over() {
    std::lock_guard lock(trouble_mutex);
    trouble = {};
  }

  Result<uint64_t> receive_pages(Channel& channel, const wire::FrameHeader& frame, SpaceId& space, Inflater* inflater);
  Status bulk_frames(Channel& channel);
  Status take_map(Channel& channel, const wire::FrameHeader& frame);
  Status take_heat(Channel& channel, const wire::FrameHeader& frame);
  void run_bulk();
  void run_refill();
  Status refill(RequestStream& refill_stream);
  void run_urgent();
  Status urgent_answers(RequestStream& urgent);
  bool rest(RequestStream& urgent);
  void send_queued_locked();
  std::vector<PageRequest> missing_requests() const;
};

// A PAGES frame whose header has been read. Its contents count once their checksum is right. Gives the number of pages
// it spoke of. Without an inflater nothing compressed is taken.
Result<uint64_t> PageReceiver::Impl::receive_pages(Channel& channel, const wire::FrameHeader& frame, SpaceId& space,
                                                   Inflater* inflater) {
  wire::PagesHeader header{};
  if (frame.length < sizeof(header)) return fail("PAGES is too short");
  MOSE_TRY(channel.receive_into(&header, sizeof(header)));
  MOSE_TRY(check_pages_header(header, frame.length));
  std::vector<wire::Run> wire_runs(header.runs);
  MOSE_TRY(channel.receive_into(wire_runs.data(), wire_runs.size() * sizeof(wire::Run)));
  MOSE_ASSIGN(std::vector<PageRun> runs, decode_runs(wire_runs, header.pages));
  space = header.space;

  const auto codec = static_cast<wire::Codec>(header.codec);
  if (codec == wire::Codec::zero) {
    if (!store.sealed()) return fail("zero pages before the page map");
    const std::span<const std::byte> parts[] = {std::as_bytes(std::span(&header, 1)),
                                                std::as_bytes(std::span(wire_runs))};
    if (checksum(parts) != frame.checksum) return fail("PAGES frame with a wrong checksum");
    tell_local(space, store.publish_zero(space, runs));
    return header.pages;
  }
  const bool compressed = codec != wire::Codec::raw;
  if (compressed && inflater == nullptr) return fail("compressed pages in an answer");
  if (compressed) MOSE_TRY(inflater->receive(channel, frame, header, wire_runs));
  MOSE_ASSIGN(PageStore::Pending pending, store.prepare(space, std::move(runs)));
  if (compressed) inflater->copy_to(pending.parts());
  Status received = compressed ? Status{} : receive_raw(channel, frame, header, wire_runs, pending.parts());
  if (!received) {
    store.drop(std::move(pending));
    return std::unexpected(std::move(received.error()));
  }
  const bool was_sealed = store.sealed();
  if (was_sealed) trouble_is_over();
  std::vector<PageRun> local = store.publish(std::move(pending));
  bytes += sizeof(frame) + frame.length;
  pages += header.pages;
  if (was_sealed) duplicates += header.pages - count_pages(local);
  tell_local(space, local);
  return header.pages;
}

Status PageReceiver::Impl::take_map(Channel& channel, const wire::FrameHeader& frame) {
  MOSE_ASSIGN(std::vector<std::byte> payload, channel.receive_payload(frame));
  MOSE_ASSIGN(std::vector<SpacePages> spaces, decode_page_map(payload));
  MOSE_TRY(store.seal(payload, std::move(spaces)));
  remote = store.missing_pages();
  if (options.on_sealed) options.on_sealed();
  {
    std::lock_guard lock(urgent_mutex);
    send_queued_locked();
  }
  tell_complete();
  return {};
}

Status PageReceiver::Impl::take_heat(Channel& channel, const wire::FrameHeader& frame) {
  // Whose order is planned already; and the source has better things to send.
  if (store.sealed()) return fail("HEAT after the page map");
  MOSE_ASSIGN(std::vector<std::byte> payload, channel.receive_payload(frame));
  MOSE_ASSIGN(std::vector<SpaceHeat> spaces, decode_heat(payload));
  std::lock_guard lock(heat_mutex);
  heat.clear();
  for (SpaceHeat& space : spaces) heat[space.space] = std::move(space.levels);
  return {};
}

// Frames of BULK until BULK_END (success) or an error.
Status PageReceiver::Impl::bulk_frames(Channel& channel) {
  Inflater inflater;
  for (;;) {
    auto header = channel.receive_header(kHeaderWait);
    if (!header && header.error().code == ETIMEDOUT && !stopped()) continue;
    if (!header) return std::unexpected(std::move(header.error()));
    const auto type = static_cast<wire::FrameType>(header->type);
    if (type == wire::FrameType::pages) {
      SpaceId space = 0;
      auto done = receive_pages(channel, *header, space, &inflater);
      if (!done) return std::unexpected(std::move(done.error()));
    } else if (type == wire::FrameType::page_map) {
      MOSE_TRY(take_map(channel, *header));
    } else if (type == wire::FrameType::heat) {
      MOSE_TRY(take_heat(channel, *header));
    } else if (type == wire::FrameType::bulk_end) {
      if (!store.sealed()) return fail("end of pages before the page map");
      return {};
    } else {
      MOSE_ASSIGN(std::vector<std::byte> payload, channel.receive_payload(*header));
      if (type == wire::FrameType::error) return fail("source: " + std::string(as_text(payload)));
      if (type != wire::FrameType::round_end) return fail(std::string("unexpected ") + to_string(type) + " on BULK");
      MOSE_ASSIGN(wire::RoundEnd end, decode_round_end(payload));
      ++rounds;
      if (options.on_round) options.on_round(end.round);
    }
  }
}

void PageReceiver::Impl::run_bulk() {
  if (!store.sealed()) {
    auto channel = options.connect(Purpose::bulk);
    Status status;
    if (channel) {
      Registered registered(*this, *channel, true);
      status = bulk_frames(*channel);
    } else {
      status = std::unexpected(std::move(channel.error()));
    }
    if (!store.sealed()) {
      tell_failure(status ? Error{0, "source ended the stream of pages"} : std::move(status.error()));
      return;
    }
    if (!status) tell_trouble(status.error());
  }
  run_refill();
}

// What is missing now, in requests of up to 2 MiB.
std::vector<PageRequest> PageReceiver::Impl::missing_requests() const {
  std::vector<PageRequest> requests_out;
  for (SpaceId space : store.spaces()) {
    uint64_t room = 0;
    const PageSet missing = store.missing(space);
    for (PageRun run : missing.runs()) {
      while (run.count != 0) {
        if (room == 0) {
          requests_out.push_back({space, {}});
          room = wire::kPagesPerFrameMax;
        }
        uint64_t take = std::min(run.count, room);
        requests_out.back().runs.push_back({run.first, take});
        room -= take;
        run = {run.first + take, run.count - take};
      }
    }
  }
  return requests_out;
}

// Asks for everything that is missing, a few requests at a time.
Status PageReceiver::Impl::refill(RequestStream& refill_stream) {
  std::vector<PageRequest> todo = missing_requests();
  auto next = todo.begin();
  while (next != todo.end() || !refill_stream.outstanding.empty()) {
    while (next != todo.end() && refill_stream.outstanding.size() < kRefillWindow) {
      ++requests;
      MOSE_TRY(refill_stream.send(std::move(*next++)));
    }
    MOSE_TRY(urgent_answers(refill_stream));
  }
  return {};
}

// Until everything is here: connects, asks, and begins anew with a growing pause whenever the connection is lost.
void PageReceiver::Impl::run_refill() {
  Nanoseconds backoff = options.backoff_min;
  while (!stopped() && !complete()) {
    auto channel = options.connect(Purpose::urgent);
    if (channel) {
      ++reconnects;
      RequestStream refill_stream{std::move(*channel), {}};
      Registered registered(*this, refill_stream.channel);
      const uint64_t missing_before = store.missing_pages();
      Status status = refill(refill_stream);
      if (!status) tell_trouble(status.error());
      if (store.missing_pages() < missing_before) backoff = options.backoff_min;
      if (status) continue;
    } else {
      tell_trouble(channel.error());
    }
    if (pause(backoff)) return;
    backoff = std::min(backoff * 2, options.backoff_max);
  }
}

// One frame of answers. The lock is held for the bookkeeping only.
Status PageReceiver::Impl::urgent_answers(RequestStream& urgent) {
  auto header = urgent.channel.receive_header(kHeaderWait);
  if (!header && header.error().code == ETIMEDOUT && !stopped()) return {};
  if (!header) return std::unexpected(std::move(header.error()));
  const auto type = static_cast<wire::FrameType>(header->type);
  if (type == wire::FrameType::error) {
    MOSE_ASSIGN(std::vector<std::byte> payload, urgent.channel.receive_payload(*header));
    return fail("source: " + std::string(as_text(payload)));
  }
  if (type != wire::FrameType::pages) return fail(std::string("unexpected ") + to_string(type) + " on URGENT");
  if (!store.sealed()) return fail("pages on URGENT before the page map");
  SpaceId space = 0;
  MOSE_ASSIGN(uint64_t count, receive_pages(urgent.channel, *header, space, nullptr));
  std::lock_guard lock(urgent_mutex);
  MOSE_TRY(urgent.arrived(space, count));
  if (&urgent == stream) send_queued_locked();
  return {};
}

// Until an answer is on its way, so that its receiver is awake when it comes. False: look again.
bool PageReceiver::Impl::rest(RequestStream& urgent) {
  {
    std::lock_guard lock(urgent_mutex);
    if (!urgent.outstanding.empty()) return true;
  }
  if (urgent.channel.has_pending()) return true;
  std::array<pollfd, 2> fds{{{urgent.channel.fd(), POLLIN, 0}, {asked_bell.get(), POLLIN, 0}}};
  if (::poll(fds.data(), fds.size(), kHeaderWait.count()) <= 0) return false;
  uint64_t rung;
  if (fds[1].revents != 0) [[maybe_unused]] ssize_t got = ::read(asked_bell.get(), &rung, sizeof rung);
  return fds[0].revents != 0;
}

// Sends what waits, as far as the window allows. Under urgent_mutex. An error shows up in the receiving thread too.
void PageReceiver::Impl::send_queued_locked() {
  if (!store.sealed()) return;
  if (stream == nullptr || queue.empty()) return;
  const bool rested = stream->outstanding.empty();
  while (!queue.empty() && stream->outstanding.size() < kUrgentWindow) {
    PageRequest request = std::move(queue.front());
    queue.pop_front();
    ++requests;
    if (PageRequest copy = request; !stream->send(std::move(request))) {
      queue.push_front(std::move(copy));
      stream->channel.shut_down();
      return;
    }
  }
  const uint64_t one = 1;
  if (rested) [[maybe_unused]] ssize_t n = ::write(asked_bell.get(), &one, sizeof one);
}

void PageReceiver::Impl::run_urgent() {
  const Urgently urgently;  // while the fill and the bulk stream have the processors
  Nanoseconds backoff = options.backoff_min;
  bool connected_before = false;
  while (!stopped() && !complete()) {
    auto channel = options.connect(Purpose::urgent);
    if (channel) {
      if (std::exchange(connected_before, true)) ++reconnects;
      const uint64_t pages_before = pages;
      RequestStream urgent{std::move(*channel), {}};
      Registered registered(*this, urgent.channel);
      {
        std::lock_guard lock(urgent_mutex);
        stream = &urgent;
        send_queued_locked();
      }
      Status status;
      urgent.channel.be_eager(Channel::kEager);
      while (status && !stopped() && !complete()) {
        if (rest(urgent)) status = urgent_answers(urgent);
      }
      if (pages != pages_before) backoff = options.backoff_min;
      std::lock_guard lock(urgent_mutex);
      stream = nullptr;
      // What was asked and has not come is asked again first.
      for (auto it = urgent.outstanding.rbegin(); it != urgent.outstanding.rend(); ++it) {
        queue.push_front(std::move(it->first));
      }
      if (!status && store.sealed()) tell_trouble(status.error());
    } else if (store.sealed()) {
      tell_trouble(channel.error());
    }
    if (pause(backoff)) return;
    backoff = std::min(backoff * 2, options.backoff_max);
  }
}

PageReceiver::PageReceiver(PageStore& store, PageReceiverOptions options)
    : store_(store), impl_(std::make_unique<Impl>(store, std::move(options))) {}

PageReceiver::~PageReceiver() { stop(); }

void PageReceiver::start() {
  if (store_.sealed()) impl_->remote = store_.missing_pages();
  impl_->bulk_thread = std::jthread([impl = impl_.get()] { impl->run_bulk(); });
  impl_->urgent_thread = std::jthread([impl = impl_.get()] { impl->run_urgent(); });
}

void PageReceiver::stop() {
  {
    std::lock_guard lock(impl_->wake_mutex);
    impl_->stopping = true;
    for (const Impl::Live& one : impl_->live) one.channel->shut_down();
    impl_->wake.notify_all();
  }
  if (impl_->bulk_thread.joinable()) impl_->bulk_thread.join();
  if (impl_->urgent_thread.joinable()) impl_->urgent_thread.join();
}

ReceiverStats PageReceiver::stats() const {
  ReceiverStats stats;
  stats.bytes = impl_->bytes;
  stats.pages = impl_->pages;
  stats.pages_duplicate = impl_->duplicates;
  stats.rounds = impl_->rounds;
  stats.remote_pages = impl_->remote;
  stats.missing_pages = store_.missing_pages();
  stats.requests = impl_->requests;
  stats.reconnects = impl_->reconnects;
  {
    std::lock_guard lock(impl_->trouble_mutex);
    stats.trouble = impl_->trouble;
  }
  return stats;
}

PageProvider::Extent PageReceiver::place(SpaceId space, uint64_t page, uint64_t max) const {
  return store_.place(space, page, max);
}

std::span<const std::byte> PageReceiver::contents(SpaceId space, uint64_t page, uint64_t max) const {
  return store_.contents(space, page, max);
}

void PageReceiver::request(SpaceId space, PageRun run) { request_all(space, {&run, 1}); }

void PageReceiver::request_all(SpaceId space, std::span<const PageRun> runs) {
  std::lock_guard lock(impl_->urgent_mutex);
  PageTable<uint8_t>& asked = impl_->asked[space];
  PageRequest request{space, {}};
  uint64_t pages = 0;
  auto flush = [&] {
    if (!request.runs.empty()) impl_->queue.push_back(std::exchange(request, PageRequest{space, {}}));
    pages = 0;
  };
  for (const PageRun& run : runs) {
    for (uint64_t page = run.first; page < run.end(); ++page) {
      bool wanted = asked.get(page) == 0 && (!store_.sealed() || store_.place(space, page, 1).place == PagePlace::remote);
      if (!wanted) continue;
      asked.set(page, 1);
      if (!request.runs.empty() && request.runs.back().end() == page) {
        ++request.runs.back().count;
      } else {
        request.runs.push_back({page, 1});
      }
      if (++pages == wire::kPagesPerFrameMax) flush();
    }
  }
  flush();
  impl_->send_queued_locked();
}

void PageReceiver::on_local(Listener listener) {
  std::lock_guard lock(impl_->listener_mutex);
  impl_->listener = std::move(listener);
}

std::vector<SpaceId> PageReceiver::spaces() const { return store_.spaces(); }
const PageSet& PageReceiver::present(SpaceId space) const { return store_.present(space); }

std::vector<PageSet> PageReceiver::hot(SpaceId space) const {
  std::lock_guard lock(impl_->heat_mutex);
  auto it = impl_->heat.find(space);
  return it == impl_->heat.end() ? std::vector<PageSet>{} : it->second;
}

}  // namespace mose::move
