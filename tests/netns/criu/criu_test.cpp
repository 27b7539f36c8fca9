// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "bed.h"
#include "kernel/pagemap.h"
#include "kernel/tcp_repair.h"
#include "restore/images.h"

namespace mose::test {
namespace {

using restore::Swrk;
constexpr Nanoseconds kBound{10'000'000'000};
const std::vector<std::string> kCommand = {"/bin/workload", "2000", "/data/state"};

::testing::AssertionResult ok(const Status& status) {
  if (status) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << status.error().what;
}
template <typename T>
::testing::AssertionResult ok(const Result<T>& result) {
  if (result) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << result.error().what;
}

// Drives CRIU to its answer; `at_hook` is called at each hook and says whether to go on.
template <typename AtHook>
Result<Swrk::Done> drive(Swrk& swrk, AtHook at_hook) {
  for (;;) {
    MOSE_ASSIGN(Swrk::Event event, swrk.next(kBound));
    if (auto* hook = std::get_if<Swrk::Hook>(&event)) {
      MOSE_ASSIGN(bool go_on, at_hook(*hook));
      MOSE_TRY(swrk.answer(go_on));
    } else if (auto* done = std::get_if<Swrk::Done>(&event)) {
      MOSE_TRY(swrk.wait_exit(kBound));
      return *done;
    } else if (auto* died = std::get_if<Swrk::Died>(&event)) {
      return fail("CRIU died: " + died->how);
    } else {
      return fail("CRIU gave no answer in time");
    }
  }
}

// Freezes the workload, dumps it without memory and adds the pages: the tree stays stopped and frozen.
Status dump(CriuBed::Node& from, Swrk& swrk, int images) {
  MOSE_TRY(from.cgroup.freeze(kBound));
  MOSE_TRY(swrk.request_dump(CriuBed::dump_request(from, images)));
  std::string hooks;
  MOSE_ASSIGN(Swrk::Done done, drive(swrk, [&](const Swrk::Hook& hook) -> Result<bool> {
    hooks += hook.name + " ";
    // CRIU has thawed the group to stop its tasks by ptrace.
    if (hook.name == "post-dump") MOSE_TRY(from.cgroup.request_freeze());
    return true;
  }));
  if (!done.success) return fail("dump: " + done.message);
  if (hooks != "pre-dump query-ext-files post-dump ") return fail("hooks were " + hooks);
  MOSE_TRY(from.cgroup.wait_frozen(kBound));

  MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(from.first));
  MOSE_ASSIGN(std::vector<restore::ImageProcess> processes, restore::read_processes(images));
  for (const restore::ImageProcess& process : processes) {
    for (const ProcessHandle& task : tree) {
      MOSE_ASSIGN(pid_t number, virtual_pid(task));
      if (static_cast<SpaceId>(number) != process.space) continue;
      MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(task.pid()));
      MOSE_ASSIGN(PageSet populated, pagemap.populated({0, (uint64_t{1} << 35) - 1}));
      auto pages = restore::write_present_pages(images, process, task, populated);
      if (!pages) return context("write pages", std::move(pages).error());
    }
  }
  auto sizes = restore::forget_file_sizes(images, {"/var/log/mose-workload"});
  if (!sizes) return std::unexpected(sizes.error());
  return {};
}

Result<pid_t> restore_tree(CriuBed::Node& to, Swrk& swrk, int images) {
  MOSE_TRY(swrk.request_restore({images, false}));
  MOSE_ASSIGN(Swrk::Done done, drive(swrk, [&](const Swrk::Hook& hook) -> Result<bool> {
    if (hook.name == "post-restore") MOSE_TRY(to.aside.add(swrk.process().pid()));
    if (hook.name == "pre-resume") MOSE_TRY(to.cgroup.freeze(kBound));
    return true;
  }));
  if (!done.success) return fail("restore: " + done.message);
  MOSE_ASSIGN(bool frozen, to.cgroup.frozen());
  if (!frozen) return fail("the restored tree is not behind the fence");
  return done.restored_pid;
}

Status carry_images(int from, int to) {
  MOSE_ASSIGN(std::vector<restore::ImageFile> images, restore::load_images(from));
  for (const restore::ImageFile& image : images) MOSE_TRY(restore::store_image(to, image));
  return {};
}

// One move with everything checked on the way; afterwards `to` runs and `from` is empty.
Status hop(CriuBed& bed, CriuBed::Node& from, CriuBed::Node& to) {
  MOSE_ASSIGN(Fd source_images, restore::make_images_dir(from.images));
  MOSE_ASSIGN(Fd destination_images, restore::make_images_dir(to.images));
  MOSE_ASSIGN(Swrk dumper, Swrk::start_for_dump(bed.criu(), bed.source_place(from)));
  MOSE_ASSIGN(Swrk restorer, Swrk::start_for_restore(bed.criu(), bed.destination_place(to)));
  MOSE_TRY(dump(from, dumper, source_images.get()));
  MOSE_TRY(carry_images(source_images.get(), destination_images.get()));
  MOSE_TRY(copy_tree(from.data, to.data));
  MOSE_TRY(copy_tree(from.log, to.log));
  MOSE_ASSIGN(pid_t pid, restore_tree(to, restorer, destination_images.get()));
  MOSE_ASSIGN(to.first, ProcessHandle::open(pid));
  MOSE_TRY(to.cgroup.thaw());
  MOSE_TRY(from.cgroup.kill());
  MOSE_TRY(from.cgroup.wait_empty(kBound));
  MOSE_TRY(from.cgroup.thaw());
  from.first = ProcessHandle();
  return {};
}

struct Variant {
  const char* name;
  PlaceOptions options;
};
class CriuHop : public ::testing::TestWithParam<Variant> {};

TEST_P(CriuHop, MovesAWorkloadThereAndBack) {
  CriuBed bed(GetParam().options);
  ASSERT_TRUE(ok(bed.start(bed.a, kCommand)));
  ASSERT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
  ASSERT_TRUE(ok(hop(bed, bed.a, bed.b)));
  ASSERT_TRUE(ok(bed.wait_ticks(bed.b, 20)));
  ASSERT_TRUE(ok(hop(bed, bed.b, bed.a)));
  ASSERT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
}

INSTANTIATE_TEST_SUITE_P(Roots, CriuHop,
                         ::testing::Values(Variant{"WritableDirectory", {false, false}},
                                           Variant{"WritableFilesystem", {false, true}},
                                           Variant{"ReadOnlyDirectory", {true, false}},
                                           Variant{"ReadOnlyFilesystem", {true, true}}),
                         [](const auto& variant) { return variant.param.name; });

}  // namespace
}  // namespace mose::test
