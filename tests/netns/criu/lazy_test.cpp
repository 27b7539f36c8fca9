// SPDX-License-Identifier: MIT
// Real services moved with real page tables: Redis with all its pages in the images, and a lazy restore in which the pager
// supplies every page that may come later.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <thread>

#include "kernel/pagemap.h"
#include "kernel/process_memory.h"
#include "netns/pager/support.h"
#include "restore/images.h"
#include "restore/lazy_socket.h"
#include "restore/pager.h"
#include "steps.h"
#include "support/support.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
using restore::Swrk;
constexpr PageRun kUserSpace{0, (uint64_t{1} << 35) - 1};

// The lazy pages of a frozen tree, all of them here.
class FrozenPages : public PageProvider {
 public:
  // Reads them, and leaves only what cannot be lazy to the images.
  Status take(const CriuBed::Node& from, int images) {
    MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(from.first));
    MOSE_ASSIGN(std::vector<restore::ImageProcess> processes, restore::read_processes(images));
    for (const restore::ImageProcess& process : processes) {
      for (const ProcessHandle& task : tree) {
        MOSE_ASSIGN(pid_t number, virtual_pid(task));
        if (static_cast<SpaceId>(number) != process.space) continue;
        MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(task.pid()));
        MOSE_ASSIGN(PageSet populated, pagemap.populated(kUserSpace));
        MOSE_ASSIGN(auto eager, restore::read_present_pages(images, process, task, restore::eager_area(process)));
        for (const restore::ImageFile& image : eager) MOSE_TRY(restore::replace_image(images, image));
        eager_pages += eager[1].bytes.size() / kPageSize;
        Space& space = spaces_[process.space];
        space.present = populated.intersect(restore::lazy_area(process));
        space.bytes.resize(space.present.pages() * kPageSize);
        MOSE_ASSIGN(ProcessMemory memory, ProcessMemory::open(task.pid()));
        std::vector<uint64_t> unreadable;
        MOSE_TRY(memory.read(space.present.runs(), space.bytes, unreadable));
        if (!unreadable.empty()) return fail("unreadable pages");
      }
    }
    auto sizes = restore::forget_file_sizes(images, {"/var/log/mose-workload"});
    if (!sizes) return std::unexpected(sizes.error());
    return {};
  }

  bool sealed() const override { return true; }
  Extent place(SpaceId id, uint64_t page, uint64_t max) const override {
    auto space = spaces_.find(id);
    if (space == spaces_.end()) return {PagePlace::zero, 1};
    PageRun run = space->second.present.run_from(page);
    if (run.count == 0) return {PagePlace::zero, 1};
    return {PagePlace::local, std::min(run.count, max)};
  }
  std::span<const std::byte> contents(SpaceId id, uint64_t page, uint64_t max) const override {
    const Space& space = spaces_.at(id);
    uint64_t offset = 0;
    for (const PageRun& run : space.present.runs()) {
      if (page >= run.first && page < run.end()) {
        uint64_t count = std::min(max, run.end() - page);
        return std::span(space.bytes).subspan((offset + page - run.first) * kPageSize, count * kPageSize);
      }
      offset += run.count;
    }
    return {};
  }
  void request(SpaceId, PageRun) override {}
  void on_local(Listener) override {}
  std::vector<SpaceId> spaces() const override {
    std::vector<SpaceId> out;
    for (const auto& [id, space] : spaces_) out.push_back(id);
    return out;
  }
  const PageSet& present(SpaceId id) const override { return spaces_.at(id).present; }

  uint64_t eager_pages = 0;

 private:
  struct Space {
    PageSet present;
    std::vector<std::byte> bytes;
  };
  std::map<SpaceId, Space> spaces_;
};

TEST(LazyHop, EveryPageComesFromThePager) {
  CriuBed bed({});
  ASSERT_TRUE(ok(bed.start(bed.a, kWorkloadCommand)));
  ASSERT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
  CriuBed::Node *from = &bed.a, *to = &bed.b;
  for (int move = 0; move < 2; ++move, std::swap(from, to)) {
    auto source_images = restore::make_images_dir(from->images);
    auto destination_images = restore::make_images_dir(to->images);
    ASSERT_TRUE(source_images && destination_images);
    auto dumper = Swrk::start_for_dump(bed.criu(), bed.source_place(*from));
    auto restorer = Swrk::start_for_restore(bed.criu(), bed.destination_place(*to));
    ASSERT_TRUE(ok(dumper));
    ASSERT_TRUE(ok(restorer));
    ASSERT_TRUE(ok(from->cgroup.freeze(kBound)));
    ASSERT_TRUE(ok(dump(*from, *dumper, source_images->get())));
    FrozenPages pages;
    ASSERT_TRUE(ok(pages.take(*from, source_images->get())));
    ASSERT_TRUE(ok(carry_images(source_images->get(), destination_images->get())));
    ASSERT_TRUE(ok(copy_tree(from->data, to->data)));
    ASSERT_TRUE(ok(copy_tree(from->log, to->log)));

    auto state = restore::PagerState::create(MigrationId::random());
    ASSERT_TRUE(ok(state));
    std::atomic<bool> complete{false};
    std::atomic<bool> failed{false};
    auto pager = restore::Pager::start(**state, pages, {},
                                       {[&] { complete = true; },
                                        [&](const Error& error) {
                                          failed = true;
                                          std::fprintf(stderr, "pager: %s\n", error.what.c_str());
                                        }});
    ASSERT_TRUE(ok(pager));
    auto socket = restore::LazySocket::listen(to->images);
    ASSERT_TRUE(ok(socket));
    unsigned tasks = 0;
    std::thread receiver([&] {
      while (socket->fd() >= 0) {
        pollfd p{socket->fd(), POLLIN, 0};
        if (::poll(&p, 1, 10'000) <= 0) return;
        for (auto& message : socket->receive()) {
          if (auto* task = std::get_if<restore::LazySocket::Task>(&message)) {
            ++tasks;
            if (!(*pager)->add_task(task->space, std::move(task->uffd))) failed = true;
          } else if (std::holds_alternative<restore::LazySocket::Finished>(message)) {
            (*pager)->restore_ended();
          } else if (std::holds_alternative<restore::LazySocket::Ended>(message)) {
            return;
          }
        }
      }
    });
    auto pid = restore_tree(*to, *restorer, destination_images->get(), {}, true);
    receiver.join();
    ASSERT_TRUE(ok(pid));
    EXPECT_EQ(tasks, 2u);
    to->first = std::move(*ProcessHandle::open(*pid));
    ASSERT_TRUE(ok(to->cgroup.thaw()));
    (*pager)->running();
    ASSERT_TRUE(ok(bed.wait_ticks(*to, 20)));
    for (Timestamp deadline = now() + kBound; !complete && now() < deadline;) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_TRUE(complete);
    EXPECT_FALSE(failed);
    restore::PagerStats stats = (*pager)->stats();
    std::printf("  move %d: %llu pages eager, %llu lazy, %llu faults\n", move, static_cast<unsigned long long>(pages.eager_pages),
                static_cast<unsigned long long>(stats.installed_pages), static_cast<unsigned long long>(stats.faults));
    EXPECT_GE(stats.installed_pages, 2000u);
    EXPECT_LT(pages.eager_pages, 100u) << "a static program has little that cannot be lazy";
    ASSERT_TRUE(ok(clear(*from)));
    ASSERT_TRUE(ok(bed.wait_ticks(*to, 20)));
  }
}

// A standby: CRIU restores while the store holds something else than the truth in every third page, and nothing in some;
// what is stale is made good while the tree is frozen. Its threads' own areas (rseq, TLS) are among the stale ones.
TEST(LazyHop, AStandbyIsMadeGoodBeforeItRuns) {
  CriuBed bed({});
  ASSERT_TRUE(ok(bed.start(bed.a, kWorkloadCommand)));
  ASSERT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
  CriuBed::Node *from = &bed.a, *to = &bed.b;
  auto source_images = restore::make_images_dir(from->images);
  auto destination_images = restore::make_images_dir(to->images);
  ASSERT_TRUE(source_images && destination_images);
  auto dumper = Swrk::start_for_dump(bed.criu(), bed.source_place(*from));
  auto restorer = Swrk::start_for_restore(bed.criu(), bed.destination_place(*to));
  ASSERT_TRUE(ok(dumper));
  ASSERT_TRUE(ok(restorer));
  ASSERT_TRUE(ok(from->cgroup.freeze(kBound)));
  ASSERT_TRUE(ok(dump(*from, *dumper, source_images->get())));
  FrozenPages truth;
  ASSERT_TRUE(ok(truth.take(*from, source_images->get())));
  ASSERT_TRUE(ok(carry_images(source_images->get(), destination_images->get())));
  ASSERT_TRUE(ok(copy_tree(from->data, to->data)));
  ASSERT_TRUE(ok(copy_tree(from->log, to->log)));

  constexpr uint64_t kEarly = 1, kFinal = 2;
  StoreProvider pages(256u << 20, std::chrono::milliseconds(1),
                      [&](uint64_t version, SpaceId space, uint64_t page, std::byte* out) {
                        if (version == kEarly && page % 3 == 0) std::memset(out, 0, kPageSize);
                        else
                          std::memcpy(out, truth.contents(space, page, 1).data(), kPageSize);
                      });
  // Of nine pages three have other contents first: two of them come again before the map, one stays with the source, and so
  // does one that was never sent.
  std::vector<SpacePages> map;
  auto each_page = [&](auto visit) {
    for (SpaceId space : truth.spaces())
      for (const PageRun& run : truth.present(space).runs())
        for (uint64_t page = run.first; page < run.end(); ++page) visit(space, page);
  };
  for (SpaceId space : truth.spaces()) map.push_back({space, truth.present(space), {}, {}});
  each_page([&](SpaceId space, uint64_t page) {
    if (page % 9 != 4) pages.put(space, {{page, 1}}, kEarly);
    if (page % 9 == 3 || page % 9 == 4)
      std::ranges::find(map, space, &SpacePages::space)->remote.add({page, 1});
  });

  auto state = restore::PagerState::create(MigrationId::random());
  ASSERT_TRUE(ok(state));
  std::atomic<bool> complete{false}, failed{false}, staged{false}, refreshed{false};
  restore::Pager::Callbacks callbacks;
  callbacks.on_complete = [&] { complete = true; };
  callbacks.on_failure = [&](const Error& error) {
    failed = true;
    std::fprintf(stderr, "pager: %s\n", error.what.c_str());
  };
  callbacks.on_staged = [&] { staged = true; };
  callbacks.on_refreshed = [&] { refreshed = true; };
  callbacks.open_memory = [&](SpaceId space) -> Result<restore::SpaceMemory> {
    MOSE_ASSIGN(std::vector<pid_t> pids, to->cgroup.procs());
    for (pid_t pid : pids) {
      MOSE_ASSIGN(ProcessHandle process, ProcessHandle::open(pid));
      MOSE_ASSIGN(pid_t number, virtual_pid(process));
      if (static_cast<SpaceId>(number) != space) continue;
      restore::SpaceMemory out;
      MOSE_ASSIGN(out.memory, open_file("/proc/" + std::to_string(pid) + "/mem", O_RDWR));
      out.process = std::move(process);
      return out;
    }
    return fail("no such process");
  };
  auto pager = restore::Pager::start(**state, pages, {}, std::move(callbacks));
  ASSERT_TRUE(ok(pager));
  ASSERT_TRUE(ok((*pager)->standby()));
  auto socket = restore::LazySocket::listen(to->images);
  ASSERT_TRUE(ok(socket));
  std::thread receiver([&] {
    while (socket->fd() >= 0) {
      pollfd p{socket->fd(), POLLIN, 0};
      if (::poll(&p, 1, 10'000) <= 0) return;
      for (auto& message : socket->receive()) {
        if (auto* task = std::get_if<restore::LazySocket::Task>(&message)) {
          if (!(*pager)->add_task(task->space, std::move(task->uffd))) failed = true;
        } else if (std::holds_alternative<restore::LazySocket::Ended>(message)) {
          return;
        }
      }
    }
  });
  auto pid = restore_tree(*to, *restorer, destination_images->get(), {}, true);
  receiver.join();
  ASSERT_TRUE(ok(pid));
  to->first = std::move(*ProcessHandle::open(*pid));
  (*pager)->restore_ended();
  auto wait_for = [](const std::atomic<bool>& fact) {
    for (Timestamp deadline = now() + kBound; !fact && now() < deadline;)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return fact.load();
  };
  EXPECT_TRUE(wait_for(staged));
  each_page([&](SpaceId space, uint64_t page) {
    if (page % 9 == 0 || page % 9 == 6) pages.put(space, {{page, 1}}, kFinal);
  });
  EXPECT_FALSE(refreshed);
  pages.seal(map, kFinal);
  (*pager)->notice_sealed();
  ASSERT_TRUE(wait_for(refreshed));
  restore::PagerStats stats = (*pager)->stats();
  std::printf("  standby: %llu faults of the restore, %llu pages staged, %llu again, %llu stale, %llu of them remote, "
              "%llu zero\n",
              static_cast<unsigned long long>(stats.faults), static_cast<unsigned long long>(stats.standby.staged_pages),
              static_cast<unsigned long long>(stats.standby.restaged_pages),
              static_cast<unsigned long long>(stats.standby.stale_pages),
              static_cast<unsigned long long>(stats.standby.remote_pages),
              static_cast<unsigned long long>(stats.standby.zeroed_pages));
  EXPECT_EQ(stats.unregistered_pages, 0u);
  pages.push();
  // Every page of the frozen standby, as it will be when it runs; one that is missing cannot be read this way.
  EXPECT_TRUE(eventually([&] {
    auto now_in = (*pager)->stats();
    return now_in.installed_pages == now_in.present_pages;
  }));
  uint64_t wrong = 0, looked_at = 0;
  auto tree = process_tree(to->first);
  ASSERT_TRUE(ok(tree));
  for (const ProcessHandle& task : *tree) {
    auto space = static_cast<SpaceId>(*virtual_pid(task));
    auto mem = open_file("/proc/" + std::to_string(task.pid()) + "/mem", O_RDONLY);
    ASSERT_TRUE(ok(mem));
    std::vector<std::byte> bytes(kPageSize);
    for (const PageRun& run : truth.present(space).runs())
      for (uint64_t page = run.first; page < run.end(); ++page, ++looked_at) {
        bool read = ::pread(mem->get(), bytes.data(), kPageSize, static_cast<off_t>(page * kPageSize)) == kPageSize;
        if (!read || std::memcmp(bytes.data(), truth.contents(space, page, 1).data(), kPageSize) != 0) ++wrong;
      }
  }
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(looked_at, 2000u);
  ASSERT_TRUE(ok(to->cgroup.thaw()));
  (*pager)->running();
  ASSERT_TRUE(ok(bed.wait_ticks(*to, 20)));
  EXPECT_TRUE(wait_for(complete));
  EXPECT_FALSE(failed);
  ASSERT_TRUE(ok(clear(*from)));
}

// Redis with its libraries copied into the root of both places.
class RedisHop : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/usr/bin/redis-server", X_OK) != 0) skip_process("needs /usr/bin/redis-server");
    for (CriuBed::Node* node : {&bed.a, &bed.b}) {
      std::string copy = "for f in /usr/bin/redis-server $(ldd /usr/bin/redis-server | grep -o '/[^ ]*'); do "
                         "mkdir -p " + node->root + "$(dirname $f) && cp -L $f " + node->root + "$f; done";
      ASSERT_EQ(std::system(copy.c_str()), 0);
    }
  }
  // One request, inline protocol, on a fresh connection inside the node's network namespace.
  std::string ask(const CriuBed::Node& node, const std::string& request, size_t answer_bytes) {
    std::string answer;
    std::thread([&] {
      if (::setns(node.net.get(), CLONE_NEWNET) < 0) return;
      Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(6379);
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      timeval bound{5, 0};
      ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
      for (int tries = 0; ::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0; ++tries) {
        if (tries == 500) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      if (!write_all(socket.get(), request)) return;
      char buffer[4096];
      while (answer.size() < answer_bytes) {
        ssize_t n = ::recv(socket.get(), buffer, sizeof buffer, 0);
        if (n <= 0) return;
        answer.append(buffer, static_cast<size_t>(n));
      }
    }).join();
    return answer;
  }
  CriuBed bed{{}};
};

TEST_F(RedisHop, KeepsItsData) {
  ASSERT_TRUE(ok(bed.start(bed.a, {"/usr/bin/redis-server", "--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir", "/data"})));
  std::string fill, answers;
  for (int i = 0; i < 2000; ++i) {
    fill += "SET key" + std::to_string(i) + " value" + std::to_string(i) + "\r\n";
    answers += "+OK\r\n";
  }
  ASSERT_EQ(ask(bed.a, fill, answers.size()), answers);
  CriuBed::Node *from = &bed.a, *to = &bed.b;
  for (int move = 0; move < 2; ++move, std::swap(from, to)) {
    auto times = hop(bed, *from, *to);
    ASSERT_TRUE(ok(times));
    std::printf("  freeze %.1f dump %.1f pages %.1f carry %.1f restore %.1f ms\n", times->freeze_ms, times->dump_ms,
                times->pages_ms, times->carry_ms, times->restore_ms);
    std::string get, expected;
    for (int i = 0; i < 2000; ++i) {
      std::string value = "value" + std::to_string(i);
      get += "GET key" + std::to_string(i) + "\r\n";
      expected += "$" + std::to_string(value.size()) + "\r\n" + value + "\r\n";
    }
    ASSERT_EQ(ask(*to, get, expected.size()), expected) << "move " << move;
  }
}

}  // namespace
}  // namespace mose::test
