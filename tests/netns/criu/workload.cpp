// SPDX-License-Identifier: MIT
// What the checkpoint tests move: pid 1 with a child that checks itself. Each tick the child verifies its memory, its
// clock, its loopback connection and its data file, changes them, and writes "tick N" or "BAD what" to its log.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr size_t kWords = 512;  // of a page
constexpr int64_t kJumpMax = 20'000'000'000;

int64_t clock_ns(clockid_t clock) {
  timespec t{};
  ::clock_gettime(clock, &t);
  return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

[[noreturn]] void bad(const char* what) {
  std::printf("BAD %s\n", what);
  std::fflush(stdout);
  ::pause();
  std::_Exit(1);
}

// Page p holds its number mixed with a version that is kept apart from it.
struct Memory {
  uint64_t* pages;
  std::vector<uint64_t> versions;
  explicit Memory(size_t count) : pages(nullptr), versions(count, 0) {
    void* m = ::mmap(nullptr, count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) bad("mmap");
    pages = static_cast<uint64_t*>(m);
    for (size_t p = 0; p < count; ++p) fill(p);
  }
  void fill(size_t p) {
    for (size_t w = 0; w < kWords; ++w) pages[p * kWords + w] = (p << 32) ^ versions[p] ^ (w * 0x9e3779b97f4a7c15ull);
  }
  void check(size_t p) {
    for (size_t w = 0; w < kWords; ++w) {
      if (pages[p * kWords + w] != ((p << 32) ^ versions[p] ^ (w * 0x9e3779b97f4a7c15ull))) bad("memory");
    }
  }
};

struct Loopback {
  int client = -1, server = -1;
  Loopback() {
    int listener = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(7777);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 || ::listen(listener, 4) < 0) bad("listen");
    client = ::socket(AF_INET, SOCK_STREAM, 0);
    if (::connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) bad("connect");
    server = ::accept(listener, nullptr, nullptr);
    if (server < 0) bad("accept");
  }
  void exchange(uint64_t value) const {
    uint64_t got = 0;
    if (::send(client, &value, sizeof value, 0) != sizeof value) bad("send");
    if (::recv(server, &got, sizeof got, MSG_WAITALL) != sizeof got || got != value) bad("receive");
  }
};

void child(size_t page_count, const char* data_path) {
  ::setsid();
  Memory memory(page_count);
  Loopback loopback;
  std::atomic<uint64_t> spins{0};
  std::thread([&] {
    for (;;) {
      spins.fetch_add(1);
      ::usleep(1000);
    }
  }).detach();
  int data = ::open(data_path, O_RDWR | O_CREAT, 0644);
  if (data < 0) bad("data file");
  int64_t last = clock_ns(CLOCK_MONOTONIC);
  for (uint64_t tick = 1;; ++tick) {
    for (size_t p = 0; p < page_count; ++p) memory.check(p);
    for (size_t i = 0; i < 16; ++i) {
      size_t p = (tick * 7919 + i * 104729) % page_count;
      ++memory.versions[p];
      memory.fill(p);
    }
    uint64_t before = tick - 1, got = 0;
    if (tick > 1 && (::pread(data, &got, sizeof got, 0) != sizeof got || got != before)) bad("data file contents");
    if (::pwrite(data, &tick, sizeof tick, 0) != sizeof tick) bad("data file write");
    loopback.exchange(tick);
    int64_t present = clock_ns(CLOCK_MONOTONIC);
    if (present < last) bad("monotonic clock went back");
    if (present - last > kJumpMax) bad("monotonic clock jumped");
    last = present;
    std::printf("tick %llu\n", static_cast<unsigned long long>(tick));
    std::fflush(stdout);
    ::usleep(10000);
  }
}

}  // namespace

// workload PAGES DATA_FILE
// What is advised of mappings has to come with them.
void map_with_advice() {
  for (int advice : {MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_NOHUGEPAGE}) {
    void* at = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || ::madvise(at, 4096, advice) != 0) bad("advice");
  }
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  map_with_advice();
  pid_t pid = ::fork();
  if (pid == 0) child(std::strtoul(argv[1], nullptr, 10), argv[2]);
  for (;;) {
    int status = 0;
    if (::wait(&status) == pid) return 1;
  }
}
