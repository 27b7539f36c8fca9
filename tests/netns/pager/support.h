// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/fd.h"
#include "model/page_provider.h"
#include "move/page_store.h"

// What the pager's tests share: a provider of made-up pages, and a process that behaves like one that CRIU restores.
namespace mose::test {

// Pages whose contents follow from their number and a salt, so that every process can check every word.
uint64_t word_of(uint64_t salt, uint64_t page, size_t word);
void write_page(uint64_t salt, uint64_t page, std::byte* to);
// True when all of the page at `address` is as written.
bool page_is(uint64_t salt, uint64_t page, const void* address);
bool page_is_zero(const void* address);

// Local pages lie in memory from the start; remote ones become local `delay` after they were asked for, or when push() says so.
class FakeProvider final : public PageProvider {
 public:
  FakeProvider(uint64_t salt, Nanoseconds delay) : salt_(salt), delay_(delay) {}
  ~FakeProvider() override;
  void add(SpaceId space, PageRun run, bool remote);
  void seal();
  // Of every space; before the pager asks.
  void set_hot(std::vector<PageSet> hot) { hot_ = std::move(hot); }
  // Makes a remote run local now, as if the source had pushed it.
  void push(SpaceId space, PageRun run);
  [[nodiscard]] uint64_t requests() const { return requests_; }

  [[nodiscard]] bool sealed() const override { return sealed_; }
  [[nodiscard]] Extent place(SpaceId space, uint64_t page, uint64_t max) const override;
  [[nodiscard]] std::span<const std::byte> contents(SpaceId space, uint64_t page, uint64_t max) const override;
  void request(SpaceId space, PageRun run) override;
  void on_local(Listener listener) override;
  [[nodiscard]] std::vector<SpaceId> spaces() const override;
  [[nodiscard]] const PageSet& present(SpaceId space) const override;
  [[nodiscard]] std::vector<PageSet> hot(SpaceId) const override { return hot_; }

 private:
  struct Space {
    PageSet present;
    PageSet local;
    std::vector<std::pair<PageRun, std::byte*>> memory;
  };
  void answer_requests();

  uint64_t salt_;
  Nanoseconds delay_;
  std::atomic<bool> sealed_{false};
  std::atomic<uint64_t> requests_{0};
  mutable std::mutex mutex_;
  std::mutex listener_mutex_;
  Listener listener_;
  std::map<SpaceId, Space> spaces_;
  std::vector<PageSet> hot_;
  std::condition_variable wake_;
  std::deque<std::pair<Timestamp, std::pair<SpaceId, PageRun>>> asked_;
  bool stop_ = false;
  std::thread thread_;
};

// Pages in a real page store, as pre-copy rounds and the final map bring them. Each page's contents follow from its number
// and the version that put it there; remote ones come `delay` after they were asked for.
class StoreProvider final : public PageProvider {
 public:
  using Contents = std::function<void(uint64_t version, SpaceId space, uint64_t page, std::byte* to)>;
  StoreProvider(uint64_t bytes_max, Nanoseconds delay, Contents contents = {});
  ~StoreProvider() override;
  // One frame of a round: the bytes come in slowly when `slow`.
  void put(SpaceId space, std::vector<PageRun> runs, uint64_t version, bool slow = false);
  // `remote_version` is what the remote pages hold.
  void seal(SpaceId space, PageSet present, PageSet remote, uint64_t remote_version);
  void seal(std::vector<SpacePages> map, uint64_t remote_version);
  // All remote pages that are not here, or the first so many of them, now.
  void push(uint64_t pages_max = UINT64_MAX);
  [[nodiscard]] uint64_t requested() const { return requested_; }

  [[nodiscard]] bool sealed() const override { return store_->sealed(); }
  [[nodiscard]] Extent place(SpaceId space, uint64_t page, uint64_t max) const override {
    return store_->place(space, page, max);
  }
  [[nodiscard]] std::span<const std::byte> contents(SpaceId space, uint64_t page, uint64_t max) const override {
    return store_->contents(space, page, max);
  }
  void request(SpaceId space, PageRun run) override;
  void on_local(Listener listener) override;
  [[nodiscard]] std::vector<SpaceId> spaces() const override { return store_->spaces(); }
  [[nodiscard]] const PageSet& present(SpaceId space) const override { return store_->present(space); }
  void begin_staging() override { store_->begin_staging(); }
  [[nodiscard]] uint64_t staging_news() const override { return store_->staging_news(); }
  [[nodiscard]] PageSet unstaged(SpaceId space) const override { return store_->unstaged(space); }
  [[nodiscard]] std::span<const std::byte> stage(SpaceId space, uint64_t page, uint64_t max) override {
    return store_->stage(space, page, max);
  }
  void unstage(SpaceId space, PageRun run) override { store_->unstage(space, run); }
  [[nodiscard]] PageSet staged(SpaceId space) const override { return store_->staged(space); }

 private:
  void answer_requests();
  void arrive(SpaceId space, PageRun run);

  std::unique_ptr<move::PageStore> store_;
  Contents contents_;
  Nanoseconds delay_;
  uint64_t remote_version_ = 0;
  std::atomic<uint64_t> requested_{0};
  std::mutex mutex_;
  std::mutex listener_mutex_;
  Listener listener_;
  std::condition_variable wake_;
  std::deque<std::pair<Timestamp, std::pair<SpaceId, PageRun>>> asked_;
  bool stop_ = false;
  std::thread thread_;
};

// A child process that maps `pages` pages at kToyAddress, opens a userfaultfd as a task under restore does, hands it over
// on `lazy_socket` (connected, the CRIU protocol) as process `vpid`, registers its memory, and, when told go(), runs
// `scenario`. It ends with the scenario's value: 0 is success.
// Where neither sanitizer has its shadow or its heap.
#ifdef __SANITIZE_THREAD__
inline constexpr uint64_t kToyAddress = 0x4000000000;
#else
inline constexpr uint64_t kToyAddress = 0x200000000000;
#endif
inline constexpr uint64_t kToyPage = kToyAddress / 4096;
class Toy {
 public:
  using Scenario = std::function<int()>;
  Toy(int lazy_socket, int32_t vpid, uint64_t pages, Scenario scenario, const std::string& cgroup = "",
      bool own_pid_namespace = false);
  ~Toy();
  Toy(const Toy&) = delete;
  Toy& operator=(const Toy&) = delete;
  // Returns when the memory is registered.
  void wait_registered();
  void go();
  [[nodiscard]] pid_t pid() const { return pid_; }
  // Exit status, -signal, or -1000 when it has not ended within `bound` (it is killed then).
  int wait(Nanoseconds bound = std::chrono::seconds(30));
  // True when it has ended within `bound`; it is left alone otherwise.
  bool ended_within(Nanoseconds bound);

 private:
  pid_t pid_ = -1;
  Fd control_;
  int status_ = -1000;
};

std::byte* toy_page(uint64_t index);  // address of page `index` of the toy's memory

// Connects to a lazy-pages.socket.
Fd connect_lazy(const std::string& directory);
void send_word(int socket, int32_t word);
inline constexpr int32_t kRstf = 0x52535446;
// What mpager-host with STANDBY holds of a page in the end: nothing, or kHostSalt's contents, local or remote; and whether
// the first round brought it with other contents.
enum class HostFate : uint8_t { as_sent, came_again, remote_again, zero };
inline HostFate host_fate(uint64_t index) {
  return index % 7 == 0 ? HostFate::zero : index % 6 == 0 ? HostFate::came_again : index % 3 == 0 ? HostFate::remote_again
                                                                                                : HostFate::as_sent;
}
inline constexpr uint64_t kHostSalt = 0x4057;  // of the pages that mpager-host provides

// Ends the test process with 77 where userfaultfd or its events are missing.
void require_userfaultfd();
// Waits until `condition` holds.
bool eventually(const std::function<bool()>& condition, Nanoseconds bound = std::chrono::seconds(20));

}  // namespace mose::test
