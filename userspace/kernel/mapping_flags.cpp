// SPDX-License-Identifier: MIT
#include "kernel/mapping_flags.h"

#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <map>
#include <sstream>

#include "base/fd.h"
#include "kernel/bpf_skeleton.h"
#include "kernel/procfs.h"
#include "mose/bpf/mappings.h"

#include "mappings.skel.h"  // uses the contract

static_assert(sizeof(mose_mapping) == 24);

namespace mose {
namespace {

constexpr size_t kBytesMax = 64u << 20;

// Mappings of every kind that programs ask for, for as long as the names of their flags are learned. What the kernel or the
// limits of this process do not grant is not there.
class Samples {
 public:
  Samples() {
    constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
    for (int protection : {PROT_NONE, PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC}) add(protection, kPrivate);
    for (int more : {MAP_NORESERVE, MAP_GROWSDOWN, MAP_LOCKED}) add(PROT_READ | PROT_WRITE, kPrivate | more);
    add(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    for (int advice : {MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_MERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_SEQUENTIAL,
                       MADV_RANDOM}) {
      if (void* at = add(PROT_READ | PROT_WRITE, kPrivate)) (void)::madvise(at, kPageSize, advice);
    }
    // What is tracked has this while it is dumped, and what a lazy restore fills in.
    for (uint64_t mode : {UFFDIO_REGISTER_MODE_WP, UFFDIO_REGISTER_MODE_MISSING}) register_one(mode);
  }
  ~Samples() {
    for (void* at : all_) ::munmap(at, kPageSize);
  }
  Samples(const Samples&) = delete;
  Samples& operator=(const Samples&) = delete;

 private:
  void* add(int protection, int flags) {
    void* at = ::mmap(nullptr, kPageSize, protection, flags, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    all_.push_back(at);
    return at;
  }
  void register_one(uint64_t mode) {
    Fd uffd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
    uffdio_api api{};
    api.api = UFFD_API;
    void* at = uffd && ::ioctl(uffd.get(), UFFDIO_API, &api) == 0 ? add(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS) : nullptr;
    if (!at) return;
    uffdio_register range{};
    range.range = {reinterpret_cast<uint64_t>(at), kPageSize};
    range.mode = mode;
    (void)::ioctl(uffd.get(), UFFDIO_REGISTER, &range);
    descriptors_.push_back(std::move(uffd));  // its end would be that of the registration
  }

  std::vector<void*> all_;
  std::vector<Fd> descriptors_;
};

}  // namespace

bool FlagNames::learn(uint64_t bits, std::string_view words) {
  std::vector<std::string> names;
  std::istringstream in{std::string(words)};
  for (std::string word; in >> word;) names.push_back(word);
  if (static_cast<size_t>(std::popcount(bits)) != names.size()) return true;
  size_t next = 0;
  for (size_t bit = 0; bit < names_.size(); ++bit) {
    if (!(bits >> bit & 1)) continue;
    const std::string& name = names[next++];
    if (names_[bit].empty()) names_[bit] = name;
    if (names_[bit] != name) return false;
  }
  return true;
}

std::optional<std::string> FlagNames::words(uint64_t bits) const {
  std::string out;
  for (size_t bit = 0; bit < names_.size(); ++bit) {
    if (!(bits >> bit & 1)) continue;
    if (names_[bit].empty()) return std::nullopt;
    out += names_[bit] + " ";
  }
  return out;
}

namespace {

// Also what smaps has and the iterator has not.
Status learn_names(const bpf::Iterator& iterator, FlagNames& names, std::vector<MappingWords>& everywhere) {
  Samples samples;
  MOSE_ASSIGN(std::string smaps, read_file("/proc/self/smaps", kBytesMax));
  MOSE_ASSIGN(auto bits, iterator.of_process<mose_mapping>(::getpid()));
  std::map<uint64_t, MappingWords> told;
  for_each_flags(smaps, [&](PageRun pages, std::string_view words) {
    const uint64_t start = pages.first * kPageSize;
    told[start] = {start, pages.end() * kPageSize, std::string(words)};
  });
  std::vector<std::pair<uint64_t, std::string>> both;
  for (const mose_mapping& mapping : bits) {
    auto known = told.find(mapping.start);
    // Another thread of ours has changed it between the two looks.
    if (known == told.end() || known->second.end != mapping.end) continue;
    if (!names.learn(mapping.flags, known->second.words)) {
      return fail("the order of the kernel's flags is not that of smaps: " + known->second.words);
    }
    both.emplace_back(mapping.flags, known->second.words);
  }
  size_t named = 0;
  for (const auto& [flags, text] : both) {
    auto said = names.words(flags);
    if (!said) continue;
    ++named;
    if (*said != text) return fail("smaps says \"" + text + "\" of a mapping that is known as \"" + *said + "\"");
  }
  if (named * 2 < both.size() || named == 0) return fail("the names of the kernel's flags could not be learned");
  // The highest half is the kernel's: what is shown there is the same for every process.
  constexpr uint64_t kKernelHalf = 1ull << 63;
  for (const auto& [start, mapping] : told) {
    if (start >= kKernelHalf) everywhere.push_back(mapping);
  }
  return {};
}

}  // namespace

Result<MappingFlags> MappingFlags::prepare() {
  MOSE_ASSIGN(auto skeleton, bpf::load_skeleton<mappings>("the iterator of mappings"));
  const int program = bpf_program__fd(skeleton->progs.mose_mappings);
  MappingFlags flags(bpf::Iterator(std::move(skeleton), program));
  // Another thread of ours may change a mapping between two looks at it.
  constexpr int kTries = 3;
  Status learned;
  for (int i = 0; i < kTries; ++i) {
    flags.names_ = {};
    flags.everywhere_.clear();
    learned = learn_names(flags.iterator_, flags.names_, flags.everywhere_);
    if (learned) return flags;
  }
  return std::unexpected(learned.error());
}

Result<std::vector<MappingWords>> MappingFlags::of(pid_t pid) const {
  MOSE_ASSIGN(auto bits, iterator_.of_process<mose_mapping>(pid));
  std::vector<MappingWords> out;
  out.reserve(bits.size() + everywhere_.size());
  for (const mose_mapping& mapping : bits) {
    auto words = names_.words(mapping.flags);
    if (!words) return fail("a mapping of process " + std::to_string(pid) + " has a flag whose name is not known");
    out.push_back({mapping.start, mapping.end, std::move(*words)});
  }
  out.insert(out.end(), everywhere_.begin(), everywhere_.end());
  return out;
}

}  // namespace mose
