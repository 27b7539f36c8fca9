// SPDX-License-Identifier: MIT
#include "writers.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "io_ring.h"

namespace mose::test {
namespace {

constexpr size_t kHugeBytes = 2u << 20;
constexpr uint64_t kLaps = 4;  // periods in the data file: a page that is stale by less is seen
constexpr Kind kReaders[] = {Kind::direct, Kind::ring, Kind::ring_fixed};

char* map_pages(uint64_t pages, int flags = MAP_PRIVATE | MAP_ANONYMOUS, int protection = PROT_READ | PROT_WRITE) {
  void* at = mmap(nullptr, pages * kPageBytes, protection, flags, -1, 0);
  if (at == MAP_FAILED) die("mmap");
  return static_cast<char*>(at);
}

char* segment_pages(uint64_t pages, bool removed) {
  const int id = shmget(IPC_PRIVATE, pages * kPageBytes, IPC_CREAT | 0600);
  if (id < 0) die("shmget");
  void* at = shmat(id, nullptr, 0);
  if (at == reinterpret_cast<void*>(-1)) die("shmat");
  if (removed && shmctl(id, IPC_RMID, nullptr) != 0) die("shmctl");
  return static_cast<char*>(at);
}

// Stores into memory from wherever.
class Stored : public Region {
 public:
  Stored(Kind what, unsigned number, char* at) : Region(what, number, pages_of(what)) {
    base = at;
    fill();
  }
};

class Atomic final : public Stored {
 public:
  Atomic(unsigned number) : Stored(Kind::atomic, number, map_pages(pages_of(Kind::atomic))) {}

 private:
  void put(uint64_t page, const Stamp& stamp) override {
    make_image(stamp, image_);
    for (size_t word = 0; word < kPageWords; ++word) {
      std::atomic_ref(page_at(page)[word]).exchange(image_[word], std::memory_order_relaxed);
    }
  }
};

class ReadFromPipe final : public Stored {
 public:
  ReadFromPipe(unsigned number) : Stored(Kind::read, number, map_pages(pages_of(Kind::read))) {
    if (pipe2(pipe_, O_CLOEXEC) != 0) die("pipe");
  }

 private:
  void put(uint64_t page, const Stamp& stamp) override {
    make_image(stamp, image_);
    if (write(pipe_[1], image_.data(), kPageBytes) != static_cast<ssize_t>(kPageBytes)) die("write to a pipe");
    for (size_t done = 0; done < kPageBytes;) {
      ssize_t got = ::read(pipe_[0], reinterpret_cast<char*>(page_at(page)) + done, kPageBytes - done);
      if (got <= 0 && errno != EINTR) die("read from a pipe");
      if (got > 0) done += static_cast<size_t>(got);
    }
  }
  int pipe_[2] = {-1, -1};
};

// Every fourth step gives its page back instead.
class Advised final : public Stored {
 public:
  Advised(unsigned number) : Stored(Kind::advise, number, map_pages(pages_of(Kind::advise))) {}

 private:
  static constexpr uint64_t kGiveBackEach = 4, kAdviseEach = 64;
  Stamp stamp_of(uint64_t page, uint64_t step) const override {
    Stamp stamp = Stored::stamp_of(page, step);
    stamp.empty = step % kGiveBackEach == 3;
    return stamp;
  }
  void put(uint64_t page, const Stamp& stamp) override {
    if (stamp.sequence % kAdviseEach == 0) {
      bool huge = stamp.sequence / kAdviseEach % 2 == 0;
      if (madvise(base, pages() * kPageBytes, MADV_WILLNEED) != 0) die("madvise");
      if (madvise(base, pages() * kPageBytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) != 0 && errno != EINVAL)
        die("madvise");
    }
    if (!stamp.empty) return Stored::put(page, stamp);
    if (madvise(page_at(page), kPageBytes, MADV_DONTNEED) != 0) die("madvise");
  }
};

// Between two places, one of which is reserved.
class Remapped final : public Region {
 public:
  Remapped(unsigned number) : Region(Kind::remap, number, pages_of(Kind::remap)) {
    char* both = map_pages(2 * pages_, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, PROT_NONE);
    other_ = both + pages_ * kPageBytes;
    base = both;
    if (mprotect(base, pages_ * kPageBytes, PROT_READ | PROT_WRITE) != 0) die("mprotect");
    fill();
  }

 private:
  static constexpr uint64_t kMoveEach = 64;
  void put(uint64_t page, const Stamp& stamp) override {
    Region::put(page, stamp);
    if (stamp.sequence % kMoveEach != 0) return;
    const size_t bytes = pages_ * kPageBytes;
    if (mremap(base, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, other_) != other_) die("mremap");
    std::swap(base, other_);
    if (mmap(other_, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != other_)
      die("mmap");
  }
  char* other_ = nullptr;
};

class WrittenByThread final : public Stored {
 public:
  WrittenByThread(unsigned number) : Stored(Kind::vm_thread, number, map_pages(pages_of(Kind::vm_thread))) {}

 private:
  void put(uint64_t page, const Stamp& stamp) override {
    make_image(stamp, image_);
    iovec from{image_.data(), kPageBytes}, to{page_at(page), kPageBytes};
    if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != static_cast<ssize_t>(kPageBytes)) die("process_vm_writev");
  }
};

bool read_all(int fd, void* to, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t got = ::read(fd, static_cast<char*>(to) + done, bytes - done);
    if (got == 0 || (got < 0 && errno != EINTR)) return false;
    if (got > 0) done += static_cast<size_t>(got);
  }
  return true;
}

// A child that does what it is told, and goes with the pipe.
class WrittenByProcess final : public Stored {
 public:
  WrittenByProcess(Kind what, unsigned number, char* at) : Stored(what, number, at) {
    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) die("pipe");
    pid_t child = ::fork();
    if (child < 0) die("fork");
    if (child == 0) {
      close(down[1]);
      close(up[0]);
      serve(down[0], up[1]);
    }
    close(down[0]);
    close(up[1]);
    ask_ = down[1];
    answer_ = up[0];
  }

 private:
  struct Order {
    char* to;
    Stamp stamp;
  };
  [[noreturn]] void serve(int orders, int answers) {
    Order order;
    while (read_all(orders, &order, sizeof order)) {
      make_image(order.stamp, image_);
      iovec from{image_.data(), kPageBytes}, to{order.to, kPageBytes};
      if (kind != Kind::vm_process) {
        memcpy(order.to, image_.data(), kPageBytes);  // mapped here as well, at the same place
      } else if (process_vm_writev(getppid(), &from, 1, &to, 1, 0) != static_cast<ssize_t>(kPageBytes))
        die("process_vm_writev");
      if (write(answers, "d", 1) != 1) break;
    }
    _exit(0);
  }
  void put(uint64_t page, const Stamp& stamp) override {
    Order order{reinterpret_cast<char*>(page_at(page)), stamp};
    char done;
    if (write(ask_, &order, sizeof order) != sizeof order || !read_all(answer_, &done, 1)) die("the writing process");
  }
  int ask_ = -1, answer_ = -1;
};

// Every other page by write(2), which no page table sees.
class Memfd final : public Stored {
 public:
  Memfd(unsigned number) : Memfd(number, make()) {}

 private:
  Memfd(unsigned number, int file) : Stored(Kind::memfd, number, map(file)), file_(file) {}
  static int make() {
    int file = memfd_create("checker", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, static_cast<off_t>(pages_of(Kind::memfd) * kPageBytes)) != 0) die("memfd");
    return file;
  }
  static char* map(int file) {
    void* at = mmap(nullptr, pages_of(Kind::memfd) * kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) die("mmap of a memfd");
    return static_cast<char*>(at);
  }
  void put(uint64_t page, const Stamp& stamp) override {
    if (page % 2 == 0) return Stored::put(page, stamp);
    make_image(stamp, image_);
    if (pwrite(file_, image_.data(), kPageBytes, static_cast<off_t>(page * kPageBytes)) !=
        static_cast<ssize_t>(kPageBytes))
      die("write to a memfd");
  }
  int file_;
};

// The blocks of the data file: for each reader all pages of all steps, in the order of the steps.
uint64_t steps_in_file(Kind kind) {
  return Order(pages_of(kind)).period() * kLaps;
}
uint64_t first_block(Kind kind) {
  uint64_t blocks = 0;
  for (Kind reader : kReaders) {
    if (reader == kind) break;
    blocks += steps_in_file(reader);
  }
  return blocks;
}

// Pages that are read from the data file.
class FromFile : public Stored {
 public:
  FromFile(Kind what, unsigned number, const std::string& path, int flags)
      : Stored(what, number, map_pages(pages_of(what))), path_(path), flags_(flags) {
    open_file();
  }

 protected:
  // A step of the file's: it begins again when it is through.
  Stamp stamp_of(uint64_t page, uint64_t step) const override {
    return Stored::stamp_of(page, step == 0 ? 0 : (step - 1) % steps_in_file(kind) + 1);
  }
  void put(uint64_t page, const Stamp& stamp) override {
    const uint64_t offset = (first_block(kind) + stamp.sequence - 1) * kPageBytes;
    const long got = read_block(page_at(page), offset);
    if (got == static_cast<long>(kPageBytes)) return;
    errno = got < 0 ? static_cast<int>(-got) : ENODATA;
    die("read the data file");
  }
  virtual long read_block(void* to, uint64_t offset) {
    long got = pread(file_, to, kPageBytes, static_cast<off_t>(offset));
    return got < 0 ? -errno : got;
  }
  void open_file() {
    file_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | flags_);
    if (file_ < 0) die(path_.c_str());
  }
  int file_ = -1;

 private:
  std::string path_;
  int flags_;
};

// An open ring cannot be moved: it is closed to rest.
class ByRing final : public FromFile {
 public:
  ByRing(Kind what, unsigned number, const std::string& path) : FromFile(what, number, path, 0) { work(); }
  void rest() override { ring_.close(); }
  void work() override {
    if (!ring_.open(kind == Kind::ring_fixed ? base : nullptr, pages() * kPageBytes)) die("io_uring");
  }

 private:
  long read_block(void* to, uint64_t offset) override { return ring_.read(file_, to, kPageBytes, offset); }
  IoRing ring_;
};

char* huge_pages(uint64_t pages) {
  char* at = map_pages(pages + kHugeBytes / kPageBytes);
  at = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(at) + kHugeBytes - 1) & ~(kHugeBytes - 1));
  madvise(at, pages * kPageBytes, MADV_HUGEPAGE);
  return at;
}

char* locked_pages(uint64_t pages) {
  char* at = map_pages(pages);
  if (mlock(at, pages * kPageBytes) != 0) die("mlock");
  return at;
}

char* heap_pages(uint64_t pages) {
  uintptr_t at = reinterpret_cast<uintptr_t>(sbrk(static_cast<intptr_t>((pages + 1) * kPageBytes)));
  if (at == UINTPTR_MAX) die("sbrk");
  return reinterpret_cast<char*>((at + kPageBytes - 1) & ~(kPageBytes - 1));
}

char* file_pages(uint64_t pages, const std::string& path) {
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) die(path.c_str());
  void* at = mmap(nullptr, pages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  if (at == MAP_FAILED) die("mmap of the data file");
  close(file);
  return static_cast<char*>(at);
}

}  // namespace

namespace {
uint64_t pages_asked = 0;
}

void set_pages(uint64_t pages) {
  pages_asked = pages;
}

uint64_t pages_of(Kind kind) {
  if (pages_asked != 0) return pages_asked;
  switch (kind) {
    case Kind::cold:
      return 2048;
    case Kind::huge:
    case Kind::store:
      return 1024;
    case Kind::stack:
    case Kind::direct:
    case Kind::ring:
    case Kind::ring_fixed:
      return 64;
    default:
      return 256;
  }
}

bool needs_data(Kind kind) {
  return kind == Kind::file || kind == Kind::direct || kind == Kind::ring || kind == Kind::ring_fixed;
}

std::unique_ptr<Region> make_region(Kind kind, unsigned number, const WriterOptions& options, char* stack) {
  switch (kind) {
    case Kind::atomic:
      return std::make_unique<Atomic>(number);
    case Kind::read:
      return std::make_unique<ReadFromPipe>(number);
    case Kind::heap:
      return std::make_unique<Stored>(kind, number, heap_pages(pages_of(kind)));
    case Kind::stack:
      return std::make_unique<Stored>(kind, number, stack);
    case Kind::huge:
      return std::make_unique<Stored>(kind, number, huge_pages(pages_of(kind)));
    case Kind::file:
      return std::make_unique<Stored>(kind, number, file_pages(pages_of(kind), options.data));
    case Kind::advise:
      return std::make_unique<Advised>(number);
    case Kind::remap:
      return std::make_unique<Remapped>(number);
    case Kind::vm_thread:
      return std::make_unique<WrittenByThread>(number);
    case Kind::vm_process:
      return std::make_unique<WrittenByProcess>(kind, number, map_pages(pages_of(kind)));
    case Kind::shared_process:
      return std::make_unique<WrittenByProcess>(kind, number, map_pages(pages_of(kind), MAP_SHARED | MAP_ANONYMOUS));
    case Kind::segment:
      return std::make_unique<Stored>(kind, number, segment_pages(pages_of(kind), false));
    case Kind::removed_segment:
      return std::make_unique<WrittenByProcess>(kind, number, segment_pages(pages_of(kind), true));
    case Kind::memfd:
      return std::make_unique<Memfd>(number);
    case Kind::direct:
      return std::make_unique<FromFile>(kind, number, options.data, O_DIRECT);
    case Kind::ring:
    case Kind::ring_fixed:
      return std::make_unique<ByRing>(kind, number, options.data);
    case Kind::locked:
      return std::make_unique<Stored>(kind, number, locked_pages(pages_of(kind)));
    case Kind::shared:
      return std::make_unique<Stored>(kind, number, map_pages(pages_of(kind), MAP_SHARED | MAP_ANONYMOUS));
    default:
      return std::make_unique<Stored>(kind, number, map_pages(pages_of(kind)));
  }
}

bool write_data(const std::string& path) {
  int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return false;
  bool good = true;
  for (Kind kind : kReaders) {
    const Order order(pages_of(kind));
    std::vector<PageImage> images(order.period());
    for (uint64_t lap = 0; good && lap < kLaps; ++lap) {
      for (uint64_t i = 0; i < images.size(); ++i) {
        const uint64_t step = lap * images.size() + i + 1;
        make_image({Region::home_of(kind, 0) + order.page_of(step) * kPageBytes, step, 0, false}, images[i]);
      }
      const size_t bytes = images.size() * kPageBytes;
      good = write(file, images.data(), bytes) == static_cast<ssize_t>(bytes);
    }
  }
  good = fsync(file) == 0 && good;
  close(file);
  return good;
}

}  // namespace mose::test
