// SPDX-License-Identifier: MIT
// What CRIU reads as smaps when the agent has told the flags of the mappings.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>

#include "restore/images.h"
#include "restore/told_mappings.h"
#include "steps.h"
#include "support/support.h"

namespace mose::test {
namespace {

using restore::ImageVma;

using restore::Swrk;

class CriuMappings : public ::testing::Test {
 protected:
  void SetUp() override {
    if (bed_.criu().mapping_flags() == nullptr) skip_process("this kernel has no iterator over mappings");
    ASSERT_TRUE(ok(bed_.start(bed_.a, kWorkloadCommand)));
    ASSERT_TRUE(ok(bed_.wait_ticks(bed_.a, 5)));
  }

  struct Dumped {
    std::vector<ImageVma> vmas;
    std::string image;  // of the address space, what is advised of its mappings among it
  };
  // Of the first process by a dump that was told `table`; the workload runs on.
  Result<Dumped> dumped(const std::string& table) {
    MOSE_ASSIGN(Fd images, restore::make_images_dir(bed_.a.images));
    MOSE_ASSIGN(Swrk dumper, Swrk::start_for_dump(bed_.criu(), bed_.source_place(bed_.a)));
    MOSE_TRY(bed_.a.cgroup.freeze(kBound));
    if (!table.empty()) MOSE_TRY(dumper.tell_mappings(table));
    MOSE_TRY(dump(bed_.a, dumper, images.get()));
    MOSE_ASSIGN(auto processes, restore::read_processes(images.get()));
    MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(bed_.a.first));
    for (const ProcessHandle& task : tree) (void)task.signal(SIGCONT);
    MOSE_TRY(bed_.a.cgroup.thaw());
    MOSE_ASSIGN(std::vector<restore::ImageFile> files, restore::load_images(images.get()));
    const std::string name = "mm-" + std::to_string(processes.front().space) + ".img";
    auto mm = std::ranges::find(files, name, &restore::ImageFile::name);
    if (mm == files.end()) return fail("the dump has no " + name);
    return Dumped{processes.front().vmas, mm->bytes};
  }

  // Of the first process, with what `change` does to its first writable mapping that has `flag`.
  template <typename Change>
  std::string table_with(Change change, const char* flag = "wr") {
    auto mappings = bed_.criu().mapping_flags()->of(bed_.a.first.pid()).value();
    auto mapping = std::ranges::find_if(mappings, [&](const auto& m) {
      return m.words.contains(flag) && m.words.contains("wr") && !m.words.contains("gd");
    });
    if (mapping == mappings.end()) {
      ADD_FAILURE() << "the workload has no mapping with " << flag;
      return {};
    }
    changed_ = mapping->start;
    change(*mapping);
    return restore::mapping_table({restore::MappedProcess{bed_.a.first.pid(), mappings}});
  }

  static bool locked(const std::vector<ImageVma>& vmas, uint64_t start) {
    auto vma = std::ranges::find(vmas, start, &ImageVma::start);
    return vma != vmas.end() && (vma->flags & MAP_LOCKED) != 0;
  }

  CriuBed bed_{{true, false}};
  uint64_t changed_ = 0;
};

// A flag that the kernel does not know of shows whom CRIU has listened to.
TEST_F(CriuMappings, AreWhatTheAgentHasTold) {
  auto told = dumped(table_with([](MappingWords& mapping) { mapping.words += "lo "; }));
  ASSERT_TRUE(ok(told));
  EXPECT_TRUE(locked(told->vmas, changed_));
  auto real = dumped("");
  ASSERT_TRUE(ok(real));
  EXPECT_FALSE(locked(real->vmas, changed_));
}

TEST_F(CriuMappings, AreTheSameAsOfSmaps) {
  auto told = dumped(table_with([](MappingWords&) {}));
  auto real = dumped("");
  ASSERT_TRUE(ok(told));
  ASSERT_TRUE(ok(real));
  EXPECT_TRUE(told->image == real->image) << "byte for byte";
  // Which would show what has been advised of them:
  for (const char* advice : {"dc", "dd", "wf", "nh"}) {
    auto other = dumped(table_with([&](MappingWords& mapping) { mapping.words.replace(mapping.words.find(advice), 2, "??"); }, advice));
    ASSERT_TRUE(ok(other)) << advice;
    EXPECT_FALSE(other->image == real->image) << advice;
  }
}

// Nothing of a table counts that is not of these very mappings.
TEST_F(CriuMappings, AreReadFromSmapsWhereTheTableDiffers) {
  for (int which = 0; which < 3; ++which) {
    std::string table = table_with([&](MappingWords& mapping) {
      mapping.words += "lo ";
      if (which == 0) mapping.end += 4096;
      if (which == 1) mapping.start -= 4096;
    });
    if (which == 2) table.resize(table.size() - 1);  // the last row is not whole
    auto vmas = dumped(table);
    ASSERT_TRUE(ok(vmas)) << which;
    EXPECT_FALSE(locked(vmas->vmas, changed_)) << which;
  }
}

}  // namespace
}  // namespace mose::test
