// SPDX-License-Identifier: MIT
// CRIU's images, made by hand here: what is read, what is refused, what is written.
#include "restore/images.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "restore/image_capabilities.h"
#include "restore/image_difference.h"

namespace mose::restore {
namespace {

using namespace std::string_literals;

std::string u32(uint32_t value) { return std::string(reinterpret_cast<const char*>(&value), 4); }
std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}
std::string field(unsigned number, uint64_t value) { return varint(number << 3) + varint(value); }
std::string field(unsigned number, const std::string& bytes) { return varint(number << 3 | 2) + varint(bytes.size()) + bytes; }
std::string image(uint32_t magic, const std::vector<std::string>& messages) {
  std::string out = u32(0x54564319) + u32(magic);
  for (const std::string& message : messages) out += u32(static_cast<uint32_t>(message.size())) + message;
  return out;
}

constexpr uint32_t kTree = 0x50273030, kMm = 0x57492820, kPageMap = 0x56084025, kFiles = 0x56303138;
constexpr uint64_t kRegular = 1, kFilePrivate = 1 << 6, kAnonPrivate = 1 << 9, kVdso = 1 << 3, kVvar = 1 << 12, kAnonShared = 1 << 8;

std::string vma(uint64_t start, uint64_t end, uint64_t status, uint64_t flags = 0x22) {
  return field(14, field(1, start) + field(2, end) + field(3, uint64_t{0}) + field(4, uint64_t{0}) + field(5, uint64_t{3}) +
                       field(6, flags) + field(7, status) + field(8, ~uint64_t{0}));
}
std::string task(uint64_t pid, uint64_t parent) {
  return field(1, pid) + field(2, parent) + field(3, pid) + field(4, pid) + field(5, pid) + field(5, pid + 100);
}

class CriuImages : public ::testing::Test {
 protected:
  void SetUp() override {
    path = ::testing::TempDir() + "mose-images-" + std::to_string(::getpid());
    dir = std::move(*make_images_dir(path));
  }
  void TearDown() override { std::filesystem::remove_all(path); }
  void put(const std::string& name, const std::string& bytes) {
    auto fd = open_at(dir.get(), name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ASSERT_TRUE(fd && write_all(fd->get(), bytes));
  }
  std::string get(const std::string& name) {
    auto text = read_file(path + "/" + name);
    return text ? *text : "";
  }
  std::string path;
  Fd dir;
};

TEST_F(CriuImages, ProcessesAndTheirMappingsAreRead) {
  put("pstree.img", image(kTree, {task(1, 0), task(2, 1)}));
  put("mm-1.img", image(kMm, {field(1, uint64_t{5}) + vma(0x1000, 0x3000, kRegular | kAnonPrivate) +
                              vma(0x3000, 0x4000, kRegular | kAnonPrivate, 0x2022) + vma(0x5000, 0x6000, kRegular | kFilePrivate) +
                              vma(0x7000, 0x8000, kRegular | kVvar | kAnonPrivate) + vma(0x8000, 0xa000, kRegular | kVdso | kAnonPrivate) +
                              vma(0xb000, 0xd000, kRegular | kAnonShared)}));
  auto processes = read_processes(dir.get());
  ASSERT_TRUE(processes) << processes.error().what;
  ASSERT_EQ(processes->size(), 2u);
  const ImageProcess& first = (*processes)[0];
  EXPECT_EQ(first.space, 1u);
  EXPECT_EQ(first.threads, (std::vector<uint32_t>{1, 101}));
  EXPECT_EQ(first.vmas.size(), 6u);
  EXPECT_EQ(lazy_area(first).runs(), (std::vector<PageRun>{{1, 2}}));
  EXPECT_EQ(eager_area(first).runs(), (std::vector<PageRun>{{3, 1}, {5, 1}, {8, 2}}));
  EXPECT_TRUE(first.vmas.back().anonymous_shared());
  EXPECT_TRUE((*processes)[1].zombie) << "a process without an mm image is a zombie";
}

std::string core(const std::vector<uint64_t>& permitted) {
  std::string credentials = field(1, uint64_t{0});
  for (uint64_t word : permitted) credentials += field(10, word) + field(12, ~uint64_t{0} >> 32);
  return field(1, uint64_t{1}) + field(5, field(2, uint64_t{24}) + field(10, credentials));
}

TEST(ImageCapabilities, AreThoseOfAllThreads) {
  const std::vector<ImageFile> images = {{"core-1.img", image(0x55053847, {core({0x21, 0})})},
                                         {"core-7.img", image(0x55053847, {core({0, 0x1})})},
                                         {"mm-1.img", image(kMm, {""})}};
  auto held = permitted_capabilities(images);
  ASSERT_TRUE(held) << held.error().what;
  EXPECT_EQ(*held, 0x100000021u);
}

TEST(ImageCapabilities, WhatSaysThemInAnotherWayIsAnError) {
  const std::string good = image(0x55053847, {core({0, 0})});
  EXPECT_TRUE(permitted_capabilities({{"core-1.img", good}}));
  EXPECT_FALSE(permitted_capabilities({{"core-1.img", good}, {"creds-1.img", image(0x54023547, {core({0, 0})})}}));
  EXPECT_FALSE(permitted_capabilities({{"core-1.img", image(0x55053847, {core({0, 0}) + core({1, 0})})}})) << "given twice";
  EXPECT_FALSE(permitted_capabilities({{"core-1.img", good.substr(0, good.size() - 1)}}));
  EXPECT_FALSE(permitted_capabilities({{"core-1.img", image(kMm, {core({0, 0})})}}));
  EXPECT_FALSE(permitted_capabilities({{"core-1.img", image(0x55053847, {"\xff\xff"s})}}));
}

struct Damage {
  const char* name;
  std::string tree, mm;
};
class DamagedImages : public CriuImages, public ::testing::WithParamInterface<Damage> {};
TEST_P(DamagedImages, AreAnError) {
  if (!GetParam().tree.empty()) put("pstree.img", GetParam().tree);
  if (!GetParam().mm.empty()) put("mm-1.img", GetParam().mm);
  EXPECT_FALSE(read_processes(dir.get()));
}
INSTANTIATE_TEST_SUITE_P(
    , DamagedImages,
    ::testing::Values(Damage{"NoTree", "", ""}, Damage{"Empty", "\0"s, ""}, Damage{"WrongKind", image(kMm, {task(1, 0)}), ""},
                      Damage{"CutInLength", image(kTree, {task(1, 0)}) + "\x05\x00"s, ""},
                      Damage{"CutInMessage", image(kTree, {}) + u32(100) + "short", ""},
                      Damage{"HugeLength", image(kTree, {}) + u32(0xffffffff), ""},
                      Damage{"NoMessage", image(kTree, {"\xff\xff"s}), ""},
                      Damage{"MissingFields", image(kTree, {field(1, uint64_t{1})}), ""},
                      Damage{"TwoMm", image(kTree, {task(1, 0)}), image(kMm, {"", ""})},
                      Damage{"Backwards", image(kTree, {task(1, 0)}), image(kMm, {vma(0x2000, 0x1000, 0x201)})},
                      Damage{"Overlap", image(kTree, {task(1, 0)}), image(kMm, {vma(0x1000, 0x3000, 0x201) + vma(0x2000, 0x4000, 0x201)})},
                      Damage{"Unaligned", image(kTree, {task(1, 0)}), image(kMm, {vma(0x1001, 0x3000, 0x201)})}),
    [](const auto& damage) { return damage.param.name; });

TEST_F(CriuImages, PresentPagesAreReadWithTheirContents) {
  // Our own memory stands for the frozen process: three pages, the middle one not wanted, and a fourth never touched.
  auto* memory = static_cast<char*>(::mmap(nullptr, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 'a', kPageSize);
  std::memset(memory + kPageSize, 'b', kPageSize);
  std::memset(memory + 2 * kPageSize, 'c', kPageSize);
  uint64_t start = reinterpret_cast<uint64_t>(memory), first = start >> kPageShift;
  put("pstree.img", image(kTree, {task(1, 0)}));
  put("mm-1.img", image(kMm, {vma(start, start + 4 * kPageSize, kRegular | kAnonPrivate)}));
  // The dump itself had put the last page there, as it does with the vdso.
  put("pagemap-1.img", image(kPageMap, {field(1, uint64_t{7}), field(1, start + 2 * kPageSize) + field(2, uint64_t{1}) + field(4, uint64_t{4})}));
  put("pages-7.img", std::string(kPageSize, 'x'));
  auto processes = read_processes(dir.get());
  ASSERT_TRUE(processes) << processes.error().what;
  auto self = ProcessHandle::open(::getpid());
  ASSERT_TRUE(self);
  PageSet present = PageSet::from_runs({{first, 1}, {first + 3, 1}, {first + 1000, 5}});  // the last run lies in no mapping
  auto images = read_present_pages(dir.get(), (*processes)[0], *self, present);
  ASSERT_TRUE(images) << images.error().what;
  EXPECT_EQ((*images)[1].name, "pages-7.img");
  EXPECT_EQ((*images)[1].bytes, std::string(kPageSize, 'a') + std::string(kPageSize, 'c'));
  auto entry = [](uint64_t address, uint64_t pages) {
    return field(1, address) + field(2, pages) + field(4, uint64_t{4}) + field(5, pages);
  };
  EXPECT_EQ((*images)[0].name, "pagemap-1.img");
  EXPECT_EQ((*images)[0].bytes, image(kPageMap, {field(1, uint64_t{7}), entry(start, 1), entry(start + 2 * kPageSize, 1)}));
  ::munmap(memory, 4 * kPageSize);
}

TEST_F(CriuImages, SizesOfFilesBelowTheNamedDirectoriesAreForgotten) {
  auto file = [](uint64_t id, const std::string& name, bool size) {
    return field(1, uint64_t{1}) + field(2, id) +
           field(3, field(1, id) + field(2, uint64_t{02001}) + field(6, name) + field(7, uint64_t{99}) + (size ? field(8, uint64_t{123}) : ""));
  };
  put("files.img", image(kFiles, {file(1, "/bin/sh", true), file(2, "/log/a", true), file(3, "/logs/b", true), file(4, "/log/c", false)}));
  auto changed = forget_file_sizes(dir.get(), {"/log/"});
  ASSERT_TRUE(changed) << changed.error().what;
  EXPECT_EQ(*changed, 1u);
  auto files = read_regular_files(dir.get());
  ASSERT_TRUE(files);
  ASSERT_EQ(files->size(), 4u);
  EXPECT_TRUE((*files)[0].has_size);
  EXPECT_EQ((*files)[0].size, 123u);
  EXPECT_FALSE((*files)[1].has_size);
  EXPECT_TRUE((*files)[2].has_size) << "/logs is not below /log";
  EXPECT_NE(get("files.img").find(field(7, uint64_t{99})), std::string::npos) << "fields that we do not know stay";
}

TEST_F(CriuImages, PagesThatCannotBeReadLeaveNoGap) {
  auto* memory = static_cast<char*>(::mmap(nullptr, 3 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 'a', kPageSize);
  std::memset(memory + 2 * kPageSize, 'c', kPageSize);
  ASSERT_EQ(::munmap(memory + kPageSize, kPageSize), 0);
  const uint64_t start = reinterpret_cast<uint64_t>(memory);
  put("pstree.img", image(kTree, {task(1, 0)}));
  put("mm-1.img", image(kMm, {vma(start, start + 3 * kPageSize, kRegular | kAnonPrivate)}));
  // The dump says that the page in the middle is there; by now it is not.
  put("pagemap-1.img", image(kPageMap, {field(1, uint64_t{7}), field(1, start) + field(2, uint64_t{3}) + field(4, uint64_t{4})}));
  auto processes = read_processes(dir.get());
  ASSERT_TRUE(processes) << processes.error().what;
  auto self = ProcessHandle::open(::getpid());
  ASSERT_TRUE(self);
  auto images = read_present_pages(dir.get(), (*processes)[0], *self, {});
  ASSERT_TRUE(images) << images.error().what;
  EXPECT_EQ((*images)[1].bytes, std::string(kPageSize, 'a') + std::string(kPageSize, 'c'));
  auto entry = [](uint64_t address) { return field(1, address) + field(2, uint64_t{1}) + field(4, uint64_t{4}) + field(5, uint64_t{1}); };
  EXPECT_EQ((*images)[0].bytes, image(kPageMap, {field(1, uint64_t{7}), entry(start), entry(start + 2 * kPageSize)}));
  ::munmap(memory, kPageSize);
  ::munmap(memory + 2 * kPageSize, kPageSize);
}

TEST(ImageDifference, CarriesTheBlocksThatDiffer) {
  std::string early(10 * kPageSize, 'a');
  for (size_t at = 0; at < early.size(); ++at) early[at] = static_cast<char>('a' + at / kPageSize);
  std::string later = early;
  later[3 * kPageSize + 5] = 'X';
  later[4 * kPageSize] = 'Y';
  later[8 * kPageSize - 1] = 'Z';
  auto difference = image_difference(early, later);
  ASSERT_TRUE(difference);
  ASSERT_EQ(difference->pieces.size(), 2u) << "neighbours are one piece";
  EXPECT_EQ(difference->pieces[0].offset, 3 * kPageSize);
  EXPECT_EQ(difference->pieces[0].bytes.size(), 2 * kPageSize);
  EXPECT_EQ(difference->pieces[1].bytes.size(), kPageSize);
  EXPECT_EQ(apply_difference(early, *difference).value(), later);
  std::string other = early;
  other[0] = '!';
  EXPECT_FALSE(apply_difference(other, *difference)) << "made from another one";
}

TEST(ImageDifference, FollowsAnImageThatGrowsOrShrinks) {
  const std::string early(10 * kPageSize + 7, 'a');
  for (size_t size : {8 * kPageSize, 10 * kPageSize + 6, 10 * kPageSize + 8, 12 * kPageSize + 1}) {
    std::string later(size, 'a');
    later.back() = 'b';
    auto difference = image_difference(early, later);
    ASSERT_TRUE(difference) << size;
    EXPECT_EQ(apply_difference(early, *difference).value(), later) << size;
  }
  auto same = image_difference(early, early);
  ASSERT_TRUE(same);
  EXPECT_TRUE(same->pieces.empty());
  EXPECT_EQ(apply_difference(early, *same).value(), early);
}

TEST(ImageDifference, IsOnlyMadeWhereItIsLess) {
  EXPECT_FALSE(image_difference(std::string(100, 'a'), std::string(100, 'a')));
  EXPECT_FALSE(image_difference(std::string(8 * kPageSize, 'a'), std::string(8 * kPageSize, 'b')));
  EXPECT_FALSE(image_difference("", std::string(8 * kPageSize, 'b')));
}

TEST(ImageDifference, OfAPeerIsChecked) {
  const std::string early(4 * kPageSize, 'a'), block(kPageSize, 'b');
  auto refused = [&](ImageDifference difference) { return !apply_difference(early, difference); };
  EXPECT_TRUE(refused({.size = kImageBytesMax + 1}));
  EXPECT_TRUE(refused({.size = kPageSize, .pieces = {{kPageSize, block}}})) << "beyond its end";
  EXPECT_TRUE(refused({.size = 4 * kPageSize, .pieces = {{UINT64_MAX - 1, block}}}));
  EXPECT_TRUE(refused({.size = 4 * kPageSize, .pieces = {{kPageSize, block}, {0, block}}}));
  EXPECT_TRUE(refused({.size = 4 * kPageSize, .pieces = {{kPageSize, block}, {kPageSize + 1, block}}}));
  EXPECT_TRUE(refused({.size = 4 * kPageSize, .pieces = {{0, ""}}}));
  EXPECT_TRUE(refused({.size = 4 * kPageSize, .checksum = 1}));
}

TEST_F(CriuImages, TravelByName) {
  put("core-1.img", "abc");
  put("dump.log", "not an image");
  put("lazy-pages.socket", "not an image");
  auto images = load_images(dir.get());
  ASSERT_TRUE(images);
  ASSERT_EQ(images->size(), 1u);
  EXPECT_EQ((*images)[0].name, "core-1.img");
  Fd other = std::move(*make_images_dir(path + "/other"));
  ASSERT_TRUE(store_image(other.get(), (*images)[0]));
  EXPECT_EQ(*read_file(path + "/other/core-1.img"), "abc");
  EXPECT_FALSE(store_image(other.get(), (*images)[0])) << "never over an existing file";
}

TEST_F(CriuImages, NamesFromAPeerAreNotTrusted) {
  for (const std::string& name : {"../x.img"s, "a/b.img"s, "/x.img"s, ".img"s, ".hidden.img"s, "x"s, ""s, "dump.log"s, "a\0b.img"s,
                                  "a b.img"s, std::string(200, 'a') + ".img"})
    EXPECT_FALSE(store_image(dir.get(), {name, "x"})) << name;
  ASSERT_EQ(::symlink("/etc/passwd", (path + "/link.img").c_str()), 0);
  EXPECT_FALSE(store_image(dir.get(), {"link.img", "x"}));
}

TEST_F(CriuImages, ClocksAreAdvancedOnce) {
  constexpr uint32_t kClocks = 0x43114433;
  auto clocks = [](uint64_t mono_s, uint64_t mono_ns, uint64_t boot_s, uint64_t boot_ns) {
    return field(1, field(1, mono_s) + field(2, mono_ns)) + field(2, field(1, boot_s) + field(2, boot_ns)) + field(9, uint64_t{7});
  };
  for (int i = 0; i < 50; ++i) put("timens-" + std::to_string(i) + ".img", image(kClocks, {clocks(5, 999'999'999, 7, 0)}));
  put("core-1.img", "untouched");
  auto advanced = advance_clocks(dir.get(), std::chrono::nanoseconds(2'000'000'002));
  ASSERT_TRUE(advanced) << advanced.error().what;
  for (int i = 0; i < 50; ++i) EXPECT_EQ(get("timens-" + std::to_string(i) + ".img"), image(kClocks, {clocks(8, 1, 9, 2)})) << i;
  EXPECT_EQ(get("core-1.img"), "untouched");
  EXPECT_FALSE(advance_clocks(dir.get(), std::chrono::nanoseconds(-1)));
  put("timens-0.img", image(kClocks, {clocks(5, 1'000'000'000, 7, 0)}));
  EXPECT_FALSE(advance_clocks(dir.get(), std::chrono::nanoseconds(1)));
}

TEST(CriuImagesTcp, TimestampsGoOnPastWhatTheKernelMayStillHaveSent) {
  constexpr uint32_t kStream = 0x51465506;
  const std::string queues = "in and out";
  auto stream = [&](uint64_t timestamp) { return image(kStream, {field(1, uint64_t{2}) + field(9, timestamp) + field(12, uint64_t{3})}) + queues; };
  std::vector<ImageFile> images = {{"tcp-stream-1f.img", stream(1000)},
                                   {"tcp-stream-2f.img", stream(UINT32_MAX - 2)},
                                   {"tcp-stream-3f.img", image(kStream, {field(1, uint64_t{2})}) + queues},
                                   {"core-1.img", "untouched"}};
  auto advanced = advance_tcp_timestamps(images, std::chrono::microseconds(20'001));
  ASSERT_TRUE(advanced) << advanced.error().what;
  // 21 milliseconds, one that may have been rounded off, and the unit bit as it was. Fields that are not ours come last.
  auto written = [&](uint64_t timestamp) {
    return image(kStream, {field(9, timestamp) + field(1, uint64_t{2}) + field(12, uint64_t{3})}) + queues;
  };
  EXPECT_EQ(images[0].bytes, written(1022));
  EXPECT_EQ(images[1].bytes, written(19)) << "it wraps";
  EXPECT_EQ(images[2].bytes, image(kStream, {field(1, uint64_t{2})}) + queues);
  EXPECT_EQ(images[3].bytes, "untouched");
  EXPECT_FALSE(advance_tcp_timestamps(images, std::chrono::nanoseconds(-1)));
  for (const std::string& damaged : {std::string("short"), stream(1).substr(0, 14), image(kTree, {"x"})}) {
    std::vector<ImageFile> bad = {{"tcp-stream-1f.img", damaged}};
    EXPECT_FALSE(advance_tcp_timestamps(bad, std::chrono::nanoseconds(1)));
  }
}

// Nothing is written meanwhile: a switchover may wait for it.
TEST_F(CriuImages, AreSetAsideWithoutWhatElseLiesThere) {
  put("core-1.img", "x");
  put("pages-1.img", "y");
  put("criu.log", "z");
  ASSERT_TRUE(set_images_aside(dir.get()));
  EXPECT_TRUE(load_images(dir.get())->empty());
  EXPECT_TRUE(store_image(dir.get(), {"core-1.img", "another"})) << "the name is free";
  EXPECT_EQ(get("core-1.img.aside") + get("pages-1.img.aside"), "xy");
  EXPECT_EQ(get("criu.log"), "z");
}

TEST_F(CriuImages, WhatIsReplacedOrClearedAwayIsNotLeftInTheMemory) {
  auto opened = [&](const std::string& name) { return std::move(*open_file(path + "/" + name, O_RDONLY)); };
  auto zeros = [](const Fd& file) { return *read_all(file.get()) == std::string(6, '\0'); };
  put("files.img", "first!");
  Fd first = opened("files.img");
  ASSERT_TRUE(replace_image(dir.get(), {"files.img", "second"}));
  EXPECT_EQ(get("files.img"), "second");
  Fd second = opened("files.img");
  ASSERT_TRUE(replace_image(dir.get(), {"files.img", "third!"}));
  EXPECT_EQ(get("files.img"), "third!");
  EXPECT_EQ(load_images(dir.get())->size(), 1u) << "what was replaced is no image";
  ASSERT_TRUE(make_images_dir(path));
  EXPECT_TRUE(zeros(first));  // the third was written in its place
  EXPECT_TRUE(zeros(second));
}

TEST_F(CriuImages, TheDirectoryIsPrivateAndEmptiedForTheNextUse) {
  put("core-1.img", "abc");
  auto again = make_images_dir(path);
  ASSERT_TRUE(again);
  EXPECT_TRUE(load_images(again->get())->empty());
  struct stat st{};
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777u, 0700u);
  EXPECT_FALSE(make_images_dir("/proc/no/such"));
}

}  // namespace
}  // namespace mose::restore
