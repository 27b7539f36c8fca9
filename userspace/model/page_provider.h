// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "model/page_set.h"

namespace mose {

// Pages of a standby that are still at the source when its tree is frozen: the switchover has other things to wait for while the source
// sends them, about so long. Of what takes longer the destination does without the rest, and the source sends it in the background.
inline constexpr Nanoseconds kFreshTime = std::chrono::milliseconds(200);

// Where the contents of a page of the moved workload are, as the destination knows it.
enum class PagePlace : uint8_t {
  unknown,  // the final page map has not arrived: nobody may decide yet
  zero,     // not present at the source when it was frozen, or all zero there: a zero page
  local,    // its final contents lie in the page store here
  remote,   // only the frozen source has the final contents
};

// What the pager (which owns the userfaultfds) sees of the page store and the stream from the source. Thread-safe.
// Life: filled from pre-copy on; `sealed` once the final page map is in; after that a page only goes remote -> local.
class PageProvider {
 public:
  virtual ~PageProvider() = default;

  // True once the final page map is known, so that no place is `unknown` any more.
  [[nodiscard]] virtual bool sealed() const = 0;
  // The place of `page` and how many of the following pages share it (count >= 1, at most `max`).
  struct Extent {
    PagePlace place = PagePlace::unknown;
    uint64_t count = 1;
  };
  [[nodiscard]] virtual Extent place(SpaceId space, uint64_t page, uint64_t max) const = 0;
  // Contents of `page` and as many following local pages as lie behind it in memory, at most `max` pages. Empty when
  // the page is not local. The bytes stay valid and unchanged as long as the provider lives.
  [[nodiscard]] virtual std::span<const std::byte> contents(SpaceId space, uint64_t page, uint64_t max) const = 0;
  // Asks the source for a remote page now, ahead of all bulk data; asking twice is harmless. When it has become local
  // the listener is called (from any thread).
  virtual void request(SpaceId space, PageRun run) = 0;
  using Listener = std::function<void(SpaceId, PageRun)>;
  virtual void on_local(Listener listener) = 0;
  // Every page that was present at the frozen source and not all zero, per space: what "complete" means; a process
  // without such a page is missing in the list. Valid when sealed, unchanged then; an unknown space has an empty set.
  [[nodiscard]] virtual std::vector<SpaceId> spaces() const = 0;
  [[nodiscard]] virtual const PageSet& present(SpaceId space) const = 0;

  // The pages of a space that were written most often at the source, hottest first. A hint: may be empty, overlap, and
  // name pages that are not present. Any thread.
  [[nodiscard]] virtual std::vector<PageSet> hot(SpaceId) const { return {}; }

  // Several runs in as few requests as possible.
  virtual void request_all(SpaceId space, std::span<const PageRun> runs) {
    for (const PageRun& run : runs) request(space, run);
  }

  // A standby has pages installed before the provider is sealed ("staged"): what the store holds at that moment, which
  // later rounds may make stale. The provider keeps the account of them. Those who have no pages before the seal
  // need none of this.
  // From now on the account is kept; a second time it begins anew, with nothing staged.
  virtual void begin_staging() {}
  // Changes whenever unstaged() may have changed.
  [[nodiscard]] virtual uint64_t staging_news() const { return 0; }
  // What is there and has not been staged, or has come again since. Nothing once sealed.
  [[nodiscard]] virtual PageSet unstaged(SpaceId) const { return {}; }
  // The present contents of `page` and as many following pages as lie behind it, at most `max`; from this call on they
  // count as staged. Empty when the page is not there, is being received, or everything is sealed. The bytes may change
  // at any moment: the pages are unstaged again before the first one does.
  [[nodiscard]] virtual std::span<const std::byte> stage(SpaceId, uint64_t /*page*/, uint64_t /*max*/) { return {}; }
  // These are not as they were staged, whatever the reason.
  virtual void unstage(SpaceId, PageRun) {}
  // Once sealed: the pages whose final contents are those that were staged.
  [[nodiscard]] virtual PageSet staged(SpaceId) const { return {}; }
};

}  // namespace mose
