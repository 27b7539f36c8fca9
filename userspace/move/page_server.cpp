// SPDX-License-Identifier: MIT
#include "move/page_server.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <string>

#include "kernel/pagemap.h"
#include "kernel/process_memory.h"
#include "kernel/procfs.h"
#include "kernel/urgently.h"
#include "model/zero_page.h"
#include "move/hello.h"

namespace mose::move {
namespace {

constexpr Nanoseconds kFrameWait = std::chrono::milliseconds(200);
// Somebody waits for a few pages. Larger requests are those of a destination that has lost its bulk stream.
constexpr uint64_t kUrgentPagesMax = 64;

struct OpenProcess {
  ProcessMemory memory;
  std::optional<Pagemap> pagemap;  // of a process; all of a shared object can be read
};

Result<OpenProcess> open_process(const SpaceProcess& process) {
  MOSE_TRY(check_same_process(process));
  MOSE_ASSIGN(ProcessMemory memory, ProcessMemory::open(process));
  if (!process.object.empty()) return OpenProcess{std::move(memory), std::nullopt};
  MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(process.pid));
  return OpenProcess{std::move(memory), std::move(pagemap)};
}

// The state of one connection: what is open, and a buffer.
class Answerer {
 public:
  Answerer(std::span<const SpaceProcess> processes, ServeStats& stats) : processes_(processes), stats_(stats) {}

  Status answer(Channel& channel, SpaceId space, const PageSet& asked) {
    MOSE_ASSIGN(OpenProcess * process, find(space));
    ++stats_.requests;
    stats_.pages += asked.pages();
    if (asked.pages() <= kUrgentPagesMax && read_all(*process, asked)) return send_by_contents(channel, space, asked);
    PageSet populated;
    if (!process->pagemap)
      populated = asked;
    else
      for (const PageRun& run : asked.runs()) {
        MOSE_ASSIGN(PageSet part, process->pagemap->populated(run));
        for (const PageRun& piece : part.runs()) populated.add(piece);
      }
    PageSet absent = asked.minus(populated);
    if (!populated.empty()) MOSE_TRY(send_contents(channel, space, *process, populated));
    if (!absent.empty()) {
      MOSE_TRY(check_whole(space));
      MOSE_TRY(send(channel, space, wire::Codec::zero, absent, {}));
    }
    return {};
  }

 private:
  // Into the buffer.
  bool read_all(OpenProcess& process, const PageSet& pages) {
    buffer_.resize(std::max<size_t>(buffer_.size(), pages.pages() * kPageSize));
    std::vector<uint64_t> unreadable;
    return process.memory.read(pages.runs(), std::span(buffer_).first(pages.pages() * kPageSize), unreadable) && unreadable.empty();
  }

  // What read_all() has read. The page tables are not asked: reading fills what is not there, and not every kernel says afterwards that
  // it is the page of zeros.
  Status send_by_contents(Channel& channel, SpaceId space, const PageSet& pages) {
    PageSet full, zero;
    size_t from = 0, to = 0;
    for (const PageRun& run : pages.runs()) {
      for (uint64_t page = run.first; page < run.end(); ++page, from += kPageSize) {
        if (is_zero_page(buffer_.data() + from)) {
          zero.add({page, 1});
          continue;
        }
        full.add({page, 1});
        if (to != from) memcpy(buffer_.data() + to, buffer_.data() + from, kPageSize);
        to += kPageSize;
      }
    }
    if (!full.empty()) MOSE_TRY(send(channel, space, wire::Codec::raw, full, std::span(buffer_).first(to)));
    if (zero.empty()) return {};
    MOSE_TRY(check_whole(space));
    return send(channel, space, wire::Codec::zero, zero, {});
  }

  Result<OpenProcess*> find(SpaceId space) {
    auto it = open_.find(space);
    if (it != open_.end()) return &it->second;
    auto process =
        std::find_if(processes_.begin(), processes_.end(), [&](const SpaceProcess& p) { return p.space == space; });
    if (process == processes_.end()) return fail("no process of space " + std::to_string(space));
    auto opened = open_process(*process);
    if (!opened && opened.error().code == ESRCH) return lost(space, opened.error());
    if (!opened) return std::unexpected(opened.error());
    return &open_.emplace(space, std::move(*opened)).first->second;
  }

  // Of a process that is dying every page is absent.
  Status check_whole(SpaceId space) const {
    auto process = std::ranges::find(processes_, space, &SpaceProcess::space);
    if (auto whole = check_not_ending(*process); !whole) return lost(space, whole.error());
    return {};
  }

  static std::unexpected<Error> lost(SpaceId space, const Error& error) {
    return fail("the stopped process " + std::to_string(space) + " has ended here, and with it the pages that were not sent yet (" +
                error.what + ")");
  }

  Status send_contents(Channel& channel, SpaceId space, OpenProcess& process, const PageSet& pages) {
    buffer_.resize(std::max<size_t>(buffer_.size(), pages.pages() * kPageSize));
    std::vector<uint64_t> unreadable;
    Status read = process.memory.read(pages.runs(), buffer_, unreadable);
    if (!read && read.error().code == ESRCH) return lost(space, read.error());
    MOSE_TRY(std::move(read));
    // Never answered as zero: the page has contents that would be lost.
    if (!unreadable.empty()) return fail("page " + std::to_string(unreadable.front()) + " cannot be read");
    return send(channel, space, wire::Codec::raw, pages, std::span(buffer_).first(pages.pages() * kPageSize));
  }

  Status send(Channel& channel, SpaceId space, wire::Codec codec, const PageSet& pages,
              std::span<const std::byte> contents) {
    wire::PagesHeader header{};
    header.space = space;
    header.page_shift = kPageShift;
    header.codec = static_cast<uint8_t>(codec);
    header.runs = static_cast<uint32_t>(pages.runs().size());
    header.pages = static_cast<uint32_t>(pages.pages());
    std::vector<wire::Run> runs = to_wire(pages.runs());
    std::span<const std::byte> parts[] = {std::as_bytes(std::span(&header, 1)), std::as_bytes(std::span(runs)),
                                          contents};
    const uint64_t before = channel.bytes_sent();
    MOSE_TRY(channel.send(wire::FrameType::pages, parts));
    stats_.bytes += channel.bytes_sent() - before;
    return {};
  }

  std::span<const SpaceProcess> processes_;
  ServeStats& stats_;
  std::map<SpaceId, OpenProcess> open_;
  std::vector<std::byte> buffer_;
};

}  // namespace

PageServer::PageServer(std::vector<SpaceProcess> processes, UrgentGate* gate, Bandwidth* bandwidth)
    : processes_(std::move(processes)), gate_(gate), bandwidth_(bandwidth) {}

Status PageServer::serve(Channel& channel, const std::stop_token& stop) {
  Answerer answerer(processes_, stats_);
  // While the push of the rest has the processors.
  std::optional<Urgently> urgently(std::in_place);
  channel.be_eager(Channel::kEager);
  for (;;) {
    if (stop.stop_requested()) return fail_errno("page server", ECANCELED);
    auto frame = channel.receive(kFrameWait);
    if (!frame) {
      if (frame.error().code == ETIMEDOUT) continue;
      if (frame.error().code == ECONNRESET) return {};
      return std::unexpected(std::move(frame.error()));
    }
    if (frame->type != wire::FrameType::request) return fail(std::string("unexpected ") + to_string(frame->type));
    MOSE_ASSIGN(PageRequest request, decode_request(frame->payload));
    const PageSet asked = PageSet::from_runs(request.runs);
    if (asked.pages() > kUrgentPagesMax) {
      urgently.reset();
      channel.be_eager({});
    }
    std::optional<UrgentGate::Pass> pass;
    if (gate_) pass.emplace(*gate_);
    const uint64_t before = channel.bytes_sent();
    if (Status status = answerer.answer(channel, request.space, asked); !status) {
      // The peer should know why; when even that fails the connection is gone anyway.
      static_cast<void>(turn_away(channel, status.error().what));
      return status;
    }
    if (bandwidth_) bandwidth_->book(channel.bytes_sent() - before);
    if (gate_) gate_->mark_answered(request.space, asked);
  }
}

}  // namespace mose::move
