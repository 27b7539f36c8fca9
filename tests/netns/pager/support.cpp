// SPDX-License-Identifier: MIT
#include "netns/pager/support.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "base/result.h"
#include "kernel/userfaultfd.h"
#include "move/codec.h"
#include "support/support.h"

namespace mose::test {

uint64_t word_of(uint64_t salt, uint64_t page, size_t word) {
  uint64_t x = salt ^ (page * 0x9e3779b97f4a7c15) ^ (word * 0xbf58476d1ce4e5b9);
  x ^= x >> 31;
  x *= 0x94d049bb133111eb;
  return (x ^ (x >> 29)) | 1;  // never zero, so that a zero page cannot pass
}

void write_page(uint64_t salt, uint64_t page, std::byte* to) {
  for (size_t i = 0; i < kPageSize / 8; ++i) {
    uint64_t word = word_of(salt, page, i);
    std::memcpy(to + i * 8, &word, 8);
  }
}

bool page_is(uint64_t salt, uint64_t page, const void* address) {
  const auto* words = static_cast<const volatile uint64_t*>(address);
  for (size_t i = 0; i < kPageSize / 8; ++i)
    if (words[i] != word_of(salt, page, i)) return false;
  return true;
}

bool page_is_zero(const void* address) {
  const auto* words = static_cast<const volatile uint64_t*>(address);
  for (size_t i = 0; i < kPageSize / 8; ++i)
    if (words[i] != 0) return false;
  return true;
}

FakeProvider::~FakeProvider() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
  for (auto& [id, space] : spaces_)
    for (auto& [run, memory] : space.memory) ::munmap(memory, run.count * kPageSize);
}

void FakeProvider::add(SpaceId space, PageRun run, bool remote) {
  auto* memory = static_cast<std::byte*>(
      ::mmap(nullptr, run.count * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (uint64_t i = 0; i < run.count; ++i) write_page(salt_, run.first + i, memory + i * kPageSize);
  Space& s = spaces_[space];
  s.present.add(run);
  if (!remote) s.local.add(run);
  s.memory.emplace_back(run, memory);
}

void FakeProvider::seal() {
  thread_ = std::thread([this] { answer_requests(); });
  sealed_ = true;
}

void FakeProvider::push(SpaceId space, PageRun run) {
  {
    std::lock_guard lock(mutex_);
    spaces_[space].local.add(run);
  }
  std::lock_guard lock(listener_mutex_);
  if (listener_) listener_(space, run);
}

void FakeProvider::answer_requests() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (asked_.empty()) {
      wake_.wait(lock);
      continue;
    }
    auto [when, what] = asked_.front();
    if (wake_.wait_until(lock, when, [&] { return stop_; })) return;
    asked_.pop_front();
    lock.unlock();
    push(what.first, what.second);
    lock.lock();
  }
}

PageProvider::Extent FakeProvider::place(SpaceId space, uint64_t page, uint64_t max) const {
  if (!sealed_) return {PagePlace::unknown, 1};
  std::lock_guard lock(mutex_);
  auto it = spaces_.find(space);
  if (it == spaces_.end()) return {PagePlace::zero, max};
  PageRun here = it->second.present.run_from(page);
  if (here.count == 0) return {PagePlace::zero, 1};
  PageRun local = it->second.local.run_from(page);
  if (local.count != 0) return {PagePlace::local, std::min(local.count, max)};
  uint64_t count = 1;
  while (count < std::min(here.count, max) && !it->second.local.contains(page + count)) ++count;
  return {PagePlace::remote, count};
}

std::span<const std::byte> FakeProvider::contents(SpaceId space, uint64_t page, uint64_t max) const {
  std::lock_guard lock(mutex_);
  auto it = spaces_.find(space);
  if (it == spaces_.end()) return {};
  PageRun local = it->second.local.run_from(page);
  if (local.count == 0) return {};
  for (const auto& [run, memory] : it->second.memory)
    if (page >= run.first && page < run.end())
      return {memory + (page - run.first) * kPageSize, std::min({local.count, max, run.end() - page}) * kPageSize};
  return {};
}

void FakeProvider::request(SpaceId space, PageRun run) {
  ++requests_;
  {
    std::lock_guard lock(mutex_);
    asked_.emplace_back(now() + delay_, std::pair(space, run));
  }
  wake_.notify_all();
}

void FakeProvider::on_local(Listener listener) {
  std::lock_guard lock(listener_mutex_);
  listener_ = std::move(listener);
}

std::vector<SpaceId> FakeProvider::spaces() const {
  std::vector<SpaceId> out;
  for (const auto& [id, space] : spaces_) out.push_back(id);
  return out;
}

const PageSet& FakeProvider::present(SpaceId space) const {
  static const PageSet none;
  auto it = spaces_.find(space);
  return it == spaces_.end() ? none : it->second.present;
}

StoreProvider::StoreProvider(uint64_t bytes_max, Nanoseconds delay, Contents contents)
    : store_(move::PageStore::create(MigrationId::random(), 1, bytes_max).value()),
      contents_(std::move(contents)),
      delay_(delay) {
  if (!contents_)
    contents_ = [](uint64_t version, SpaceId, uint64_t page, std::byte* to) { write_page(version, page, to); };
}

StoreProvider::~StoreProvider() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void StoreProvider::put(SpaceId space, std::vector<PageRun> runs, uint64_t version, bool slow) {
  std::vector<uint64_t> pages;
  for (const PageRun& run : runs)
    for (uint64_t page = run.first; page < run.end(); ++page) pages.push_back(page);
  auto pending = store_->prepare(space, std::move(runs)).value();
  auto next = pages.begin();
  for (const iovec& part : pending.parts())
    for (size_t at = 0; at < part.iov_len; at += kPageSize) {
      auto* to = static_cast<std::byte*>(part.iov_base) + at;
      if (slow) {
        // Half of a page is what nobody may count on.
        std::memset(to, 0xee, kPageSize / 2);
        ::usleep(20);
      }
      contents_(version, space, *next++, to);
    }
  (void)store_->publish(std::move(pending));
}

void StoreProvider::seal(SpaceId space, PageSet present, PageSet remote, uint64_t remote_version) {
  std::vector<SpacePages> map = {{space, std::move(present), std::move(remote), {}}};
  seal(std::move(map), remote_version);
}

void StoreProvider::seal(std::vector<SpacePages> map, uint64_t remote_version) {
  remote_version_ = remote_version;
  auto payload = move::encode_page_map(map).value();
  auto done = store_->seal(payload, std::move(map));
  ASSERT_TRUE(done) << done.error().what;
  thread_ = std::thread([this] { answer_requests(); });
}

void StoreProvider::push(uint64_t pages_max) {
  for (SpaceId space : store_->spaces()) {
    PageSet missing = store_->missing(space);
    for (PageRun run : missing.runs()) {
      run.count = std::min(run.count, pages_max);
      if (run.count == 0) return;
      pages_max -= run.count;
      arrive(space, run);
    }
  }
}

void StoreProvider::arrive(SpaceId space, PageRun run) {
  auto pending = store_->prepare(space, {run}).value();
  uint64_t page = run.first;
  for (const iovec& part : pending.parts())
    for (size_t at = 0; at < part.iov_len; at += kPageSize)
      contents_(remote_version_, space, page++, static_cast<std::byte*>(part.iov_base) + at);
  auto local = store_->publish(std::move(pending));
  std::lock_guard lock(listener_mutex_);
  for (const PageRun& one : local)
    if (listener_) listener_(space, one);
}

void StoreProvider::answer_requests() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (asked_.empty()) {
      wake_.wait(lock);
      continue;
    }
    auto [when, what] = asked_.front();
    if (wake_.wait_until(lock, when, [&] { return stop_; })) return;
    asked_.pop_front();
    lock.unlock();
    arrive(what.first, what.second);
    lock.lock();
  }
}

void StoreProvider::request(SpaceId space, PageRun run) {
  requested_ += run.count;
  {
    std::lock_guard lock(mutex_);
    asked_.emplace_back(now() + delay_, std::pair(space, run));
  }
  wake_.notify_all();
}

void StoreProvider::on_local(Listener listener) {
  std::lock_guard lock(listener_mutex_);
  listener_ = std::move(listener);
}

std::byte* toy_page(uint64_t index) { return reinterpret_cast<std::byte*>(kToyAddress + index * kPageSize); }

void send_word(int socket, int32_t word) { ASSERT_EQ(::send(socket, &word, sizeof word, MSG_NOSIGNAL), 4); }

namespace {

[[noreturn]] void toy_main(int lazy, int32_t vpid, uint64_t pages, int control, const Toy::Scenario& scenario) {
  void* at = ::mmap(reinterpret_cast<void*>(kToyAddress), pages * kPageSize, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (at == MAP_FAILED) _exit(121);
  auto uffd = uffd_open();
  if (!uffd) _exit(122);
  if (::send(lazy, &vpid, sizeof vpid, MSG_NOSIGNAL) != 4) _exit(123);
  if (!send_descriptor(lazy, uffd->get())) _exit(120);
  ::usleep(2000);  // handed over before anything is registered, as CRIU does
  if (!uffd_register(uffd->get(), {kToyPage, pages})) _exit(124);
  uffd->reset();
  ::close(lazy);
  char byte = 'r';
  if (::write(control, &byte, 1) != 1 || ::read(control, &byte, 1) != 1) _exit(125);
  _exit(scenario());
}

}  // namespace

Toy::Toy(int lazy_socket, int32_t vpid, uint64_t pages, Scenario scenario, const std::string& cgroup,
         bool own_pid_namespace) {
  int pair[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  control_ = Fd(pair[0]);
  // In a namespace of its own it is process 1.
  pid_ = own_pid_namespace
             ? static_cast<pid_t>(::syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, nullptr, nullptr, nullptr, nullptr))
             : ::fork();
  if (pid_ == 0) {
    ::close(pair[0]);
    if (!cgroup.empty() && !write_control(cgroup + "/cgroup.procs", "0")) _exit(119);
    toy_main(lazy_socket, vpid, pages, pair[1], scenario);
  }
  ::close(pair[1]);
}

Toy::~Toy() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
}

void Toy::wait_registered() {
  char byte;
  ASSERT_EQ(::read(control_.get(), &byte, 1), 1) << "the process ended early with " << wait();
}

void Toy::go() {
  char byte = 'g';
  ASSERT_EQ(::send(control_.get(), &byte, 1, MSG_NOSIGNAL), 1);
}

bool Toy::ended_within(Nanoseconds bound) {
  if (pid_ <= 0) return true;
  auto end = now() + bound;
  for (;;) {
    int raw;
    if (::waitpid(pid_, &raw, WNOHANG) == pid_) {
      status_ = WIFEXITED(raw) ? WEXITSTATUS(raw) : -WTERMSIG(raw);
      pid_ = -1;
      return true;
    }
    if (now() >= end) return false;
    ::usleep(500);
  }
}

int Toy::wait(Nanoseconds bound) {
  if (!ended_within(bound)) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  return status_;
}

Fd connect_lazy(const std::string& directory) {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::string path = directory + "/lazy-pages.socket";
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    ADD_FAILURE() << "connect " << path << ": " << strerror(errno);
    return {};
  }
  return fd;
}

void require_userfaultfd() {
  if (auto fd = uffd_open(); !fd) skip_process("no userfaultfd with events here: " + fd.error().what);
}

bool eventually(const std::function<bool()>& condition, Nanoseconds bound) {
  auto end = now() + bound;
  while (!condition()) {
    if (now() >= end) return false;
    ::usleep(300);
  }
  return true;
}

}  // namespace mose::test
