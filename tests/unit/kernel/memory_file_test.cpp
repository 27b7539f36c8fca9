// SPDX-License-Identifier: MIT
#include "kernel/memory_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mose {
namespace {

constexpr uint64_t kPage = 4096, kWhole = 2u << 20, kTakenBytes = 5 * kWhole;

class MemoryTaking : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto file = GetParam() ? huge_memory_file("test") : Result<Fd>(Fd(memfd_create("test", MFD_CLOEXEC)));
    if (!file) GTEST_SKIP() << file.error().what;
    file_ = std::move(*file);
    ASSERT_EQ(ftruncate(file_.get(), kTakenBytes), 0);
    void* at = mmap(nullptr, kTakenBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
    ASSERT_NE(at, MAP_FAILED);
    data_ = static_cast<std::byte*>(at);
  }
  void TearDown() override {
    if (data_ != nullptr) munmap(data_, kTakenBytes);
  }
  [[nodiscard]] uint64_t taken() const {
    struct stat info{};
    return fstat(file_.get(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * 512 : 0;
  }
  Fd file_;
  std::byte* data_ = nullptr;
};
INSTANTIATE_TEST_SUITE_P(Of, MemoryTaking, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& huge) { return huge.param ? "HugePages" : "SmallPages"; });

TEST_P(MemoryTaking, TakesWhatIsAskedForAndKeepsWhatIsThere) {
  data_[3 * kPage] = std::byte{7};
  MemoryTaker taker;
  for (const auto& [at, bytes] : {std::pair<uint64_t, uint64_t>{0, kPage}, {kPage, 2 * kWhole}, {2 * kWhole + kPage, kTakenBytes - 2 * kWhole - kPage}}) {
    ASSERT_TRUE(taker.take(file_.get(), data_, at, bytes));
    EXPECT_GE(taken(), at + bytes);
  }
  EXPECT_EQ(taken(), kTakenBytes);
  EXPECT_EQ(data_[3 * kPage], std::byte{7});
  data_[3 * kPage] = {};
  EXPECT_TRUE(std::all_of(data_, data_ + kTakenBytes, [](std::byte byte) { return byte == std::byte{}; }));
}

TEST(MemoryTaker, SaysWhyThereIsNone) {
  const Fd file(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(fcntl(file.get(), F_ADD_SEALS, F_SEAL_GROW), 0);
  MemoryTaker taker;
  auto taken = taker.take(file.get(), nullptr, 0, kWhole);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, EPERM);
}

}  // namespace
}  // namespace mose
