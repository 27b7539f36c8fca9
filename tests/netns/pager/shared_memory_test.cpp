// SPDX-License-Identifier: MIT
// Memory that processes share without a file: found once, whoever has it, and filled in from the page store. Objects of
// this process stand for the restored ones.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>

#include "kernel/process.h"
#include "kernel/procfs.h"
#include "kernel/shared_objects.h"
#include "kernel/system_v.h"
#include "netns/pager/support.h"
#include "restore/shared_memory.h"
#include "support/support.h"

namespace mose::test {
namespace {

using restore::SharedMemory;
using restore::SharedPlace;
using testing::ElementsAre;

constexpr uint64_t kPages = 64;
constexpr uint64_t kTail = 100;  // bytes of the last page that belong to the object

class SharedMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) skip_process("needs root");
    char pattern[] = "/tmp/mose-shared-XXXXXX";
    directory_ = mkdtemp(pattern);
    object_ = Fd(memfd_create("mose-test-object", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(object_.get(), static_cast<off_t>((kPages - 1) * kPageSize + kTail)), 0);
    own_ = space_of(getpid()).value();
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  // The object above, as the source finds it.
  SharedObject found(const SpaceProcess& process) {
    auto objects = shared_objects({&process, 1});
    EXPECT_TRUE(objects) << objects.error().what;
    for (SharedObject& object : *objects) {
      if (object.name == "/memfd:mose-test-object") return std::move(object);
    }
    ADD_FAILURE() << "the object was not found";
    return {};
  }
  SharedMemory open() {
    const SharedObject object = found(own_);
    space_ = object.space;
    Fd dir = std::move(open_file(directory_, O_RDONLY | O_DIRECTORY).value());
    EXPECT_TRUE(restore::write_shared_image(dir.get(), {&object, 1}));
    auto memory = SharedMemory::open(directory_, [](SpaceId) -> Result<int> { return getpid(); });
    EXPECT_TRUE(memory) << memory.error().what;
    return std::move(*memory);
  }
  // What page `page` of the object holds: 0 for zeros, the version, or -1.
  int version(uint64_t page) {
    std::vector<std::byte> bytes(kPageSize), expected(kPageSize);
    if (pread(object_.get(), bytes.data(), kPageSize, static_cast<off_t>(page * kPageSize)) < 0) return -1;
    if (page_is_zero(bytes.data())) return 0;
    const uint64_t length = page == kPages - 1 ? kTail : kPageSize;
    for (int salt = 1; salt <= 3; ++salt) {
      write_page(static_cast<uint64_t>(salt), page, expected.data());
      if (std::equal(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(length), expected.begin())) return salt;
    }
    return -1;
  }

  std::string directory_;
  Fd object_;
  SpaceProcess own_;
  SpaceId space_ = 0;
};

TEST_F(SharedMemoryTest, IsFoundOnceWhoeverHasIt) {
  auto* at =
      static_cast<char*>(mmap(nullptr, 3 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(at, MAP_FAILED);
  at[kPageSize] = 1;
  pid_t child = fork();
  if (child == 0)
    for (;;) pause();
  std::vector<SpaceProcess> both{own_, space_of(child).value()};
  auto objects = shared_objects(both);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  ASSERT_TRUE(objects) << objects.error().what;
  unsigned anonymous = 0;
  for (const SharedObject& object : *objects) {
    EXPECT_GE(object.space, kSharedSpaces);
    if (object.address != reinterpret_cast<uint64_t>(at)) continue;
    ++anonymous;
    EXPECT_EQ(object.size, 3 * kPageSize);
    auto file = open_shared_object(getpid(), object.fd, object.address, O_RDONLY);
    ASSERT_TRUE(file) << file.error().what;
    EXPECT_THAT(shared_object_pages(file->get()).value().runs(), ElementsAre(PageRun{1, 1}));
  }
  EXPECT_EQ(anonymous, 1u);
  munmap(at, 3 * kPageSize);
}

TEST_F(SharedMemoryTest, ASegmentIsFoundByItsIdAndRemovedAgain) {
  const int id = shmget(IPC_PRIVATE, 3 * kPageSize, IPC_CREAT | 0600);
  ASSERT_GE(id, 0);
  auto* at = static_cast<char*>(shmat(id, nullptr, 0));
  ASSERT_NE(at, reinterpret_cast<char*>(-1));
  at[2 * kPageSize] = 1;
  auto own_ipc = own_namespace(NamespaceKind::ipc);
  ASSERT_TRUE(own_ipc);
  auto segment = [&]() -> std::optional<SystemVSegment> {
    auto objects = system_v_objects(own_ipc->get());
    EXPECT_TRUE(objects) << objects.error().what;
    auto found = std::ranges::find(objects->segments, id, &SystemVSegment::id);
    if (found == objects->segments.end()) return std::nullopt;
    return *found;
  };
  ASSERT_TRUE(segment());
  EXPECT_EQ(segment()->attached, 1u);
  EXPECT_EQ(segment()->bytes, 3 * kPageSize);
  EXPECT_FALSE(segment()->removed);

  auto objects = shared_objects({&own_, 1});
  ASSERT_TRUE(objects) << objects.error().what;
  auto object = std::ranges::find(*objects, id, &SharedObject::system_v);
  ASSERT_NE(object, objects->end());
  EXPECT_EQ(object->size, 3 * kPageSize);
  auto file = open_shared_object(getpid(), object->fd, object->address, O_RDONLY);
  ASSERT_TRUE(file) << file.error().what;
  EXPECT_THAT(shared_object_pages(file->get()).value().runs(), ElementsAre(PageRun{2, 1}));

  // As CRIU restores it: there, and not removed.
  object->removed = true;
  Fd dir = std::move(open_file(directory_, O_RDONLY | O_DIRECTORY).value());
  ASSERT_TRUE(restore::write_shared_image(dir.get(), {&*object, 1}));
  auto self = [](SpaceId) -> Result<int> { return getpid(); };
  auto memory = SharedMemory::open(directory_, self);
  ASSERT_TRUE(memory) << memory.error().what;
  auto marked = restore::mark_removed_segments(dir.get(), self);
  ASSERT_TRUE(marked) << marked.error().what;
  ASSERT_TRUE(segment());
  EXPECT_TRUE(segment()->removed);
  shmdt(at);
  EXPECT_FALSE(segment()) << "it goes with its last mapping";
}

// The final scan looks while CRIU dumps: its parasite is there for a moment, and gone when it would be read.
TEST_F(SharedMemoryTest, WhatCriuPutsIntoAProcessIsNoneOfItsMemory) {
  Fd parasite(memfd_create("CRIUMFD", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(parasite.get(), kPageSize), 0);
  void* at = mmap(nullptr, kPageSize, PROT_READ | PROT_EXEC, MAP_SHARED, parasite.get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  auto objects = shared_objects({&own_, 1});
  munmap(at, kPageSize);
  ASSERT_TRUE(objects) << objects.error().what;
  EXPECT_FALSE(objects->empty());
  for (const SharedObject& object : *objects) EXPECT_EQ(object.name.find("CRIU"), std::string::npos) << object.name;
}

TEST_F(SharedMemoryTest, HoldsTheFinalPagesWhateverWasPutInBefore) {
  SharedMemory memory = open();
  StoreProvider provider(kPages * 4 * kPageSize, std::chrono::milliseconds(1));
  provider.begin_staging();
  provider.put(space_, {{0, 32}, {kPages - 1, 1}}, 1);
  ASSERT_TRUE(memory.stage(provider, [] { return true; }));
  EXPECT_EQ(version(0), 1);
  EXPECT_EQ(version(kPages - 1), 1);
  EXPECT_EQ(lseek(object_.get(), 0, SEEK_END), static_cast<off_t>((kPages - 1) * kPageSize + kTail))
      << "it must not become longer";
  provider.put(space_, {{4, 4}}, 2);  // comes again and is put in again
  ASSERT_TRUE(memory.stage(provider, [] { return true; }));
  provider.put(space_, {{12, 4}}, 2);                                         // comes again, and the seal is sooner
  PageSet present = PageSet::from_runs({{0, 24}, {40, 2}, {kPages - 1, 1}});  // 24 to 31 are zero by now
  provider.seal(space_, present, PageSet::from_runs({{16, 2}, {40, 2}}), 3);
  ASSERT_TRUE(eventually([&] {
    auto finished = memory.finish(provider);
    EXPECT_TRUE(finished) << finished.error().what;
    return !finished || *finished;
  }));
  for (uint64_t page = 0; page < kPages; ++page) {
    const int expected = (page >= 4 && page < 8) || (page >= 12 && page < 16)     ? 2
                         : (page >= 16 && page < 18) || (page >= 40 && page < 42) ? 3
                         : page < 24 || page == kPages - 1                        ? 1
                                                                                  : 0;
    EXPECT_EQ(version(page), expected) << page;
  }
  EXPECT_EQ(provider.requested(), 4u) << "only what is still at the source is asked for";
}

TEST_F(SharedMemoryTest, OfAnotherSizeIsRefused) {
  const SharedObject object = found(own_);
  Fd dir = std::move(open_file(directory_, O_RDONLY | O_DIRECTORY).value());
  ASSERT_TRUE(restore::write_shared_image(dir.get(), {&object, 1}));
  ASSERT_EQ(ftruncate(object_.get(), kPageSize), 0);
  EXPECT_FALSE(SharedMemory::open(directory_, [](SpaceId) -> Result<int> { return getpid(); }));
}

TEST_F(SharedMemoryTest, ADirectoryWithoutAListMeansNothingIsShared) {
  auto memory = SharedMemory::open(directory_, [](SpaceId) -> Result<int> { return getpid(); });
  ASSERT_TRUE(memory) << memory.error().what;
  StoreProvider provider(kPageSize * 4, std::chrono::milliseconds(1));
  provider.seal(std::vector<SpacePages>{}, 1);
  EXPECT_TRUE(memory->finish(provider).value());
}

TEST(SharedPlaces, ComeBackAsTheyWereWritten) {
  SharedObject mapped, opened;
  mapped.space = kSharedSpaces | 7;
  mapped.size = 12345;
  mapped.holder.space = 3;
  mapped.address = 0x7f0000001000;
  opened.space = kSharedSpaces | 9;
  opened.holder.space = 4;
  opened.fd = 0;
  SharedObject removed = mapped, kept = mapped;
  removed.space = kSharedSpaces | 11;
  removed.system_v = 0;
  removed.removed = true;
  kept.space = kSharedSpaces | 12;
  kept.system_v = 5;
  std::vector<SharedObject> objects{mapped, opened, removed, kept};
  auto places = restore::parse_shared_places(restore::format_shared_places(objects));
  ASSERT_TRUE(places) << places.error().what;
  EXPECT_THAT(*places, ElementsAre(SharedPlace{kSharedSpaces | 7, 12345, 3, -1, 0x7f0000001000},
                                   SharedPlace{kSharedSpaces | 9, 0, 4, 0, 0},
                                   SharedPlace{kSharedSpaces | 11, 12345, 3, -1, 0x7f0000001000, 0},
                                   SharedPlace{kSharedSpaces | 12, 12345, 3, -1, 0x7f0000001000}));
}

// Agents before the second version are sent what they know.
TEST(SharedPlaces, WithoutARemovedSegmentTheyAreOfTheFirstVersion) {
  SharedObject mapped;
  mapped.space = kSharedSpaces | 7;
  mapped.size = 4096;
  mapped.holder.space = 3;
  mapped.address = 4096;
  EXPECT_EQ(restore::format_shared_places({&mapped, 1}), "mose-shared 1\n2147483655 4096 3 0 4096\n");
  auto places = restore::parse_shared_places("mose-shared 1\n2147483655 4096 3 0 4096\n");
  ASSERT_TRUE(places);
  EXPECT_THAT(*places, ElementsAre(SharedPlace{kSharedSpaces | 7, 4096, 3, -1, 4096}));
  EXPECT_FALSE(restore::parse_shared_places("mose-shared 1\n2147483655 4096 3 0 4096 0\n"));
}

TEST(SharedPlaces, DamagedListsAreErrors) {
  const std::string head = "mose-shared 2\n";
  for (const char* line : {"", "2147483655 4096 3 0 4096", "2147483655 4096 3 0 4096 0", "7 4096 3 0 4096 0\n",
                           "2147483655 4096 0 0 4096 0\n", "2147483655 4096 3 0 5 0\n", "2147483655 4096 3 0 4096\n",
                           "2147483655 4096 3 0 4096 0 1\n", "2147483655 4096 3 9999999999 4096 0\n",
                           "2147483655 4096 3 0 4096 9999999999\n", "2147483655 99999999999999999 3 0 4096 0\n",
                           "2147483655 4096 3 0 4096 0\n2147483655 4096 3 0 4096 0\n", "x\n"}) {
    if (*line == '\0') {
      EXPECT_FALSE(restore::parse_shared_places("mose-shared 3\n"));
      continue;
    }
    EXPECT_FALSE(restore::parse_shared_places(head + line)) << line;
  }
}

}  // namespace
}  // namespace mose::test
