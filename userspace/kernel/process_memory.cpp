// SPDX-License-Identifier: MIT
#include "kernel/process_memory.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/check.h"
#include "kernel/shared_objects.h"

namespace mose {
namespace {

constexpr size_t kVectorsMax = 512;

// Remote vectors for what is left of `runs` after `skip` pages; returns the pages they cover.
uint64_t fill_vectors(std::span<const PageRun> runs, uint64_t skip, std::vector<iovec>& vectors) {
  vectors.clear();
  uint64_t pages = 0;
  for (const PageRun& run : runs) {
    if (skip >= run.count) {
      skip -= run.count;
      continue;
    }
    uint64_t first = run.first + skip;
    uint64_t count = run.count - skip;
    skip = 0;
    vectors.push_back({reinterpret_cast<void*>(first * kPageSize), count * kPageSize});
    pages += count;
    if (vectors.size() == kVectorsMax) break;
  }
  return pages;
}

}  // namespace

Result<ProcessMemory> ProcessMemory::open(pid_t pid) {
  auto mem = open_file("/proc/" + std::to_string(pid) + "/mem", O_RDONLY);
  if (!mem) {
    Error error = std::move(mem.error());
    if (error.code == ENOENT) error.code = ESRCH;
    return std::unexpected(std::move(error));
  }
  return ProcessMemory(pid, std::move(*mem));
}

Result<ProcessMemory> ProcessMemory::open(const SpaceProcess& process) {
  if (process.object.empty()) return open(process.pid);
  MOSE_ASSIGN(Fd object, open_shared_object(process.object, O_RDONLY));
  return ProcessMemory(0, std::move(object));
}

// What lies behind the object's end is zero, as it is for whoever maps it.
Status ProcessMemory::read_object(std::span<const PageRun> runs, std::span<std::byte> out) const {
  for (const PageRun& run : runs) {
    std::span<std::byte> to = out.first(run.count * kPageSize);
    out = out.subspan(to.size());
    auto at = static_cast<off_t>(run.first * kPageSize);
    while (!to.empty()) {
      ssize_t got = pread(mem_.get(), to.data(), to.size(), at);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return fail_errno("read shared memory");
      if (got == 0) {
        memset(to.data(), 0, to.size());
        break;
      }
      to = to.subspan(static_cast<size_t>(got));
      at += got;
    }
  }
  return {};
}

Status ProcessMemory::read(std::span<const PageRun> runs, std::span<std::byte> out,
                           std::vector<uint64_t>& unreadable) const {
  uint64_t total = 0;
  for (const PageRun& run : runs) total += run.count;
  MOSE_CHECK(out.size() >= total * kPageSize, "room for every page");
  if (pid_ == 0) return read_object(runs, out);
  std::vector<iovec> vectors;
  uint64_t done = 0;
  while (done < total) {
    uint64_t asked = fill_vectors(runs, done, vectors);
    iovec local{out.data() + done * kPageSize, asked * kPageSize};
    ssize_t got = process_vm_readv(pid_, &local, 1, vectors.data(), vectors.size(), 0);
    if (got < 0 && errno != EFAULT) return fail_errno("process_vm_readv of " + std::to_string(pid_));
    done += got > 0 ? static_cast<uint64_t>(got) / kPageSize : 0;
    if (got == static_cast<ssize_t>(asked * kPageSize)) continue;
    // The next page is refused. A region without read permission can still be read through mem.
    fill_vectors(runs, done, vectors);
    uint64_t page = reinterpret_cast<uint64_t>(vectors[0].iov_base) / kPageSize;
    std::byte* to = out.data() + done * kPageSize;
    ssize_t piece = pread(mem_.get(), to, kPageSize, static_cast<off_t>(page * kPageSize));
    if (piece != static_cast<ssize_t>(kPageSize)) {
      memset(to, 0, kPageSize);
      unreadable.push_back(page);
    }
    ++done;
  }
  return {};
}

}  // namespace mose
