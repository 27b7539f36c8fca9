// SPDX-License-Identifier: MIT
// What the standby tests move: one process, several threads, every kind of state that a refresh knows. Each part checks
// itself and writes "BAD what" to its log; a timer writes "tick N".
//
// Main thread: an epoll server on port 7000 (IPv4) and 7001 (both). A request is 8 bytes, a number; the answer 8 bytes
// with the same number, then 8 bytes with how many requests this connection has had. Numbers from kCommand on are
// commands, most of them for a change that a standby cannot follow.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "standby_workload.h"

namespace {

[[noreturn]] void bad(const char* what) {
  std::printf("BAD %s\n", what);
  std::fflush(stdout);
  ::pause();
  std::_Exit(1);
}

void pause_us(long us) {
  ::usleep(static_cast<useconds_t>(us));
}

// Values that live in vector and general registers for long, checked against what must come out.
void spin(uint64_t seed) {
  for (;;) {
    double a[4] = {1.0, 2.0, 3.0, 4.0};
    uint64_t x = seed;
    for (int i = 0; i < 200000; ++i) {
      for (double& v : a) v = v * 1.0000001 + 0.5;
      x = x * 6364136223846793005ull + 1442695040888963407ull;
    }
    static thread_local double expected[4] = {};
    static thread_local uint64_t expected_x = 0;
    if (expected_x == 0) {
      std::memcpy(expected, a, sizeof a);
      expected_x = x;
    }
    if (std::memcmp(expected, a, sizeof a) != 0) bad("vector registers");
    if (expected_x != x) bad("general registers");
    pause_us(2000);
  }
}

// All 16 ymm and 6 general registers hold a pattern over a long stretch in which nothing else is done.
void hold_registers() {
#if defined(__x86_64__)
  for (uint64_t round = 1;; ++round) {
    alignas(32) uint64_t pattern[4], got[4 * 3] = {};
    for (uint64_t i = 0; i < 4; ++i) pattern[i] = round * 0x9e3779b97f4a7c15ull + i;
    uint64_t r12 = round ^ 0xabcdef, r13 = round * 3;
    if (__builtin_cpu_supports("avx")) {
      asm volatile(
          "vmovdqa (%[in]), %%ymm3\n vmovdqa (%[in]), %%ymm9\n vmovdqa (%[in]), %%ymm15\n"
          "mov $3000000, %%rcx\n 1: dec %%rcx\n jnz 1b\n"
          "vmovdqa %%ymm3, (%[out])\n vmovdqa %%ymm9, 32(%[out])\n vmovdqa %%ymm15, 64(%[out])\n vzeroupper\n"
          : "+r"(r12), "+r"(r13)
          : [in] "r"(pattern), [out] "r"(got)
          : "rcx", "ymm3", "ymm9", "ymm15", "memory", "cc");
      for (size_t i = 0; i < 12; ++i) {
        if (got[i] != pattern[i % 4]) bad("wide registers");
      }
    }
    if (r12 != (round ^ 0xabcdef) || r13 != round * 3) bad("held registers");
    pause_us(1000);
  }
#endif
}

// Never connected before kConnect.
int unconnected = -1;

int int_option(int fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  ::getsockopt(fd, level, name, &value, &length);
  return value;
}

// A pipe, an event counter, a file's position and flags, the signal mask: set, left for a while, checked.
void keep_state() {
  int ends[2];
  if (::pipe2(ends, O_NONBLOCK) < 0) bad("pipe");
  int events = ::eventfd(0, EFD_NONBLOCK);
  int file = ::open("/data/state", O_RDWR | O_CREAT, 0644);
  if (events < 0 || file < 0) bad("files");
  off_t position = 0;
  for (uint64_t round = 1;; ++round) {
    char out[1000], in[1000];
    const size_t length = round * 37 % sizeof out;
    for (size_t i = 0; i < length; ++i) out[i] = static_cast<char>(round + i);
    const uint64_t count = round % 5;
    if (length > 0 && ::write(ends[1], out, length) != static_cast<ssize_t>(length)) bad("pipe write");
    if (count > 0 && ::write(events, &count, 8) != 8) bad("eventfd write");
    if (::write(file, &round, 8) != 8) bad("file write");
    position += 8;
    if (position > 4096) position = ::lseek(file, 0, SEEK_SET);
    const int flags = round % 2 ? O_NONBLOCK : 0;
    if (::fcntl(file, F_SETFL, flags) < 0) bad("fcntl");
    sigset_t set;
    sigemptyset(&set);
    if (round % 3 == 0) sigaddset(&set, SIGUSR2);
    if (round % 4 == 0) sigaddset(&set, SIGWINCH);
    ::pthread_sigmask(SIG_SETMASK, &set, nullptr);

    pause_us(700);

    sigset_t got;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &got);
    if (sigismember(&got, SIGUSR2) != (round % 3 == 0) || sigismember(&got, SIGWINCH) != (round % 4 == 0))
      bad("signal mask");
    if ((::fcntl(file, F_GETFL) & O_NONBLOCK) != flags) bad("file flags");
    if (::lseek(file, 0, SEEK_CUR) != position) bad("file position");
    if (unconnected >= 0 && int_option(unconnected, IPPROTO_TCP, TCP_REPAIR) != 0) bad("socket in repair mode");
    uint64_t value = 0;
    if (count > 0 && (::read(events, &value, 8) != 8 || value != count)) bad("event counter");
    if (::read(events, &value, 8) > 0) bad("counter too high");
    if (length > 0 &&
        (::read(ends[0], in, sizeof in) != static_cast<ssize_t>(length) || std::memcmp(in, out, length) != 0))
      bad("pipe contents");
    if (::read(ends[0], in, sizeof in) > 0) bad("pipe holds too much");
  }
}

void tick() {
  int timer = ::timerfd_create(CLOCK_MONOTONIC, 0);
  itimerspec spec{{0, 10'000'000}, {0, 10'000'000}};
  ::timerfd_settime(timer, 0, &spec, nullptr);
  timespec last{};
  for (uint64_t n = 1;; ++n) {
    uint64_t ticks = 0;
    ssize_t got = ::read(timer, &ticks, sizeof ticks);
    if (got < 0 && errno == EINTR) continue;
    if (got != sizeof ticks || ticks == 0) bad("timer");
    timespec present{};
    ::clock_gettime(CLOCK_MONOTONIC, &present);
    if (present.tv_sec < last.tv_sec || (present.tv_sec == last.tv_sec && present.tv_nsec < last.tv_nsec))
      bad("clock went back");
    last = present;
    std::printf("tick %llu\n", static_cast<unsigned long long>(n));
    std::fflush(stdout);
  }
}

// Timers that go off once: unread for a while, and then read and still for a while. What has been read does not come
// again.
void count_down() {
  int timer = ::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  for (;;) {
    const itimerspec spec{{0, 0}, {0, 1'000'000}};
    ::timerfd_settime(timer, 0, &spec, nullptr);
    pause_us(30'000);
    pollfd wait{timer, POLLIN, 0};
    while (::poll(&wait, 1, 1000) != 1) {
    }
    uint64_t ticks = 0;
    if (::read(timer, &ticks, sizeof ticks) != sizeof ticks || ticks != 1) bad("timer that goes off once");
    pause_us(30'000);
    if (::read(timer, &ticks, sizeof ticks) > 0) bad("timer that went off twice");
  }
}

// Memory that changes all the time, some of it given back and touched anew.
void churn() {
  constexpr size_t kPages = 256, kWords = 512;
  void* m = ::mmap(nullptr, kPages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (m == MAP_FAILED) bad("mmap");
  auto* words = static_cast<uint64_t*>(m);
  static uint64_t versions[kPages];
  for (uint64_t round = 1;; ++round) {
    for (size_t page = 0; page < kPages; ++page) {
      if (words[page * kWords + round % kWords] != versions[page]) bad("memory");
    }
    for (size_t i = 0; i < 16; ++i) {
      const size_t page = (round * 16 + i * 7) % kPages;
      versions[page] = (round / 16 + i) % 4 == 0 ? 0 : round;  // each page is met once in 16 rounds
      if (versions[page] == 0) {
        ::madvise(words + page * kWords, 4096, MADV_DONTNEED);
      } else {
        for (size_t w = 0; w < kWords; ++w) words[page * kWords + w] = versions[page];
      }
    }
    pause_us(1500);
  }
}

// A file of the copied mount, mapped privately: pages that were written are the process's own, whatever becomes of the
// file, and the others are the file's.
void keep_private_pages() {
  constexpr size_t kPage = 4096, kOnce = 1, kOften = 2, kShared = 3, kPages = 4;
  int file = ::open("/data/mapped", O_RDWR | O_CREAT | O_TRUNC, 0644);
  std::vector<char> all(kPages * kPage, 'F');
  if (file < 0 || ::write(file, all.data(), all.size()) != static_cast<ssize_t>(all.size())) bad("mapped file");
  void* m = ::mmap(nullptr, all.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  if (m == MAP_FAILED) bad("mmap of a file");
  auto* bytes = static_cast<char*>(m);
  const std::vector<char> once(kPage, 'P');
  std::memcpy(bytes + kOnce * kPage, once.data(), kPage);
  for (uint64_t round = 1;; ++round) {
    std::memcpy(bytes + kOften * kPage, &round, sizeof round);
    if (::pwrite(file, &round, sizeof round, kShared * kPage) != sizeof round) bad("write to the mapped file");
    pause_us(900);
    if (std::memcmp(bytes + kOnce * kPage, once.data(), kPage) != 0) bad("private page");
    if (std::memcmp(bytes + kOften * kPage, &round, sizeof round) != 0) bad("private page that changes");
    if (std::memcmp(bytes + kShared * kPage, &round, sizeof round) != 0) bad("page of the mapped file");
    if (bytes[0] != 'F' || bytes[kPage - 1] != 'F') bad("untouched page of the mapped file");
  }
}

int listen_on(int family, uint16_t port) {
  int fd = ::socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
  int one = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_storage address{};
  address.ss_family = static_cast<sa_family_t>(family);
  if (family == AF_INET)
    reinterpret_cast<sockaddr_in*>(&address)->sin_port = htons(port);
  else
    reinterpret_cast<sockaddr_in6*>(&address)->sin6_port = htons(port);
  const socklen_t length = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), length) < 0 || ::listen(fd, 64) < 0) bad("listen");
  return fd;
}

void send_back(int fd) {
  const std::vector<char> bytes(mose::test::kTailBack, 'b');
  if (::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size())) bad("send back");
  ::close(fd);
}

void connect_back() {
  sockaddr_in client{};
  client.sin_family = AF_INET;
  client.sin_port = htons(mose::test::kPortBack);
  ::inet_pton(AF_INET, "192.0.2.1", &client.sin_addr);
  const int fd = std::exchange(unconnected, -1);
  if (int_option(fd, SOL_SOCKET, SO_REUSEADDR) != 1) bad("an option of the unconnected socket");
  if (::connect(fd, reinterpret_cast<sockaddr*>(&client), sizeof client) < 0) bad("connect back");
  send_back(fd);
}

int kept = -1;  // at its end it stays open

void obey(uint64_t command) {
  using namespace mose::test;
  if (command == kOpenFile) (void)::open("/dev/null", O_RDONLY);
  if (command == kMap) (void)::mmap(nullptr, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (command == kThread) std::thread([] { ::pause(); }).detach();
  if (command == kHandler) ::signal(SIGUSR1, [](int) {});
  if (command == kCloseFile) ::close(0);
  if (command == kTimer) ::alarm(1000);
  if (command == kUmask) ::umask(0);
  if (command == kWatch) ::inotify_add_watch(::inotify_init1(IN_NONBLOCK), "/data", IN_ALL_EVENTS);
  if (command == kConnect) connect_back();
  if (command == kEndKept) send_back(std::exchange(kept, -1));
}

struct Connection {
  uint64_t requests = 0;
};

// Connections of which the epoll is to say nothing.
class Unheard {
 public:
  static constexpr uint64_t kGone = uint64_t{1} << 40;  // said of a muted one all the same, when its peer has gone
  static uint32_t events(int fd) { return fd % 2 ? EPOLLIN | EPOLLET : EPOLLIN; }  // every other one edge-triggered
  explicit Unheard(int poll) : poll_(poll) {}
  void add(int fd, bool watched) {
    change(watched ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, fd, {0, {.u64 = kGone}});
    unheard_[fd] = watched;
  }
  void hear_all() {
    for (const auto& [fd, watched] : std::exchange(unheard_, {})) change(watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, {events(fd), {.fd = fd}});
  }
  void make_exclusive(int fd) {
    change(EPOLL_CTL_DEL, fd, {});
    change(EPOLL_CTL_ADD, fd, {events(fd) | EPOLLEXCLUSIVE, {.fd = fd}});
  }
  [[nodiscard]] bool contains(int fd) const { return unheard_.contains(fd); }

 private:
  void change(int operation, int fd, epoll_event event) const {
    if (::epoll_ctl(poll_, operation, fd, &event) < 0) bad("epoll_ctl");
  }
  int poll_;
  std::map<int, bool> unheard_;  // whether they are in the epoll
};

void serve() {
  int poll = ::epoll_create1(0);
  int listeners[] = {listen_on(AF_INET, mose::test::kPort4), listen_on(AF_INET6, mose::test::kPort6)};
  for (int listener : listeners) {
    epoll_event event{EPOLLIN, {.fd = listener}};
    ::epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  }
  std::map<int, Connection> connections;
  Unheard unheard(poll);
  for (;;) {
    epoll_event events[16];
    int n = ::epoll_wait(poll, events, 16, 1000);
    if (n < 0 && errno != EINTR) bad("epoll_wait");
    for (int i = 0; i < n; ++i) {
      if (events[i].data.u64 == Unheard::kGone) bad("an event of a muted connection");
      int fd = events[i].data.fd;
      if (unheard.contains(fd)) bad("an event that nobody waits for");
      if (fd == listeners[0] || fd == listeners[1]) {
        int accepted = ::accept4(fd, nullptr, nullptr, SOCK_NONBLOCK);
        if (accepted < 0) continue;
        int one = 1;
        ::setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_event event{Unheard::events(accepted), {.fd = accepted}};
        ::epoll_ctl(poll, EPOLL_CTL_ADD, accepted, &event);
        connections[accepted];
        continue;
      }
      for (;;) {
        uint64_t request = 0;
        ssize_t got = ::recv(fd, &request, sizeof request, MSG_PEEK);
        if (got < 0) break;
        if (got == 0) {
          if (fd == kept)
            ::epoll_ctl(poll, EPOLL_CTL_DEL, fd, nullptr);
          else
            ::close(fd);
          connections.erase(fd);
          break;
        }
        if (got < 8) break;
        (void)::recv(fd, &request, sizeof request, 0);
        if (request >= mose::test::kCommand) obey(request);
        if (request == mose::test::kKeep) kept = fd;
        if (request == mose::test::kMute || request == mose::test::kUnwatch) unheard.add(fd, request == mose::test::kMute);
        if (request == mose::test::kHearAll) unheard.hear_all();
        if (request == mose::test::kExclusive) unheard.make_exclusive(fd);
        uint64_t answer[2] = {request, ++connections[fd].requests};
        // Answers of different lengths: the number, then a tail that says its length.
        std::vector<char> bytes(sizeof answer + (request % 8 == 0 ? mose::test::kTail : 0), 'x');
        std::memcpy(bytes.data(), answer, sizeof answer);
        size_t sent = 0;
        while (sent < bytes.size()) {
          ssize_t m = ::send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
          if (m > 0)
            sent += static_cast<size_t>(m);
          else if (errno == EAGAIN)
            pause_us(200);
          else
            bad(std::strerror(errno));
        }
        if (unheard.contains(fd)) break;
      }
    }
  }
}

}  // namespace

int main() {
  unconnected = ::socket(AF_INET, SOCK_STREAM, 0);
  const int one = 1;
  ::setsockopt(unconnected, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  std::thread(spin, 1).detach();
  std::thread(hold_registers).detach();
  std::thread(keep_state).detach();
  std::thread(tick).detach();
  std::thread(count_down).detach();
  std::thread(churn).detach();
  std::thread(keep_private_pages).detach();
  serve();
}
