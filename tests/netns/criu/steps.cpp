// SPDX-License-Identifier: MIT
#include "steps.h"

#include <signal.h>

#include "kernel/tcp_repair.h"
#include "restore/images.h"

namespace mose::test {

using restore::Swrk;

Result<Swrk::Done> drive(Swrk& swrk, const AtHook& at_hook) {
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

Status dump(CriuBed::Node& from, Swrk& swrk, int images, const AtHook& at_hook) {
  MOSE_TRY(swrk.request_dump(CriuBed::dump_request(from, images)));
  std::string hooks;
  MOSE_ASSIGN(Swrk::Done done, drive(swrk, [&](const Swrk::Hook& hook) -> Result<bool> {
    hooks += hook.name + " ";
    // CRIU has thawed the group to stop its tasks by ptrace.
    if (hook.name == "post-dump") MOSE_TRY(from.cgroup.request_freeze());
    return at_hook ? at_hook(hook) : true;
  }));
  if (!done.success) return fail("dump: " + done.message);
  if (hooks != "pre-dump query-ext-files post-dump ") return fail("hooks were " + hooks);
  return from.cgroup.wait_frozen(kBound);
}

Status add_pages(const CriuBed::Node& from, int images) {
  MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(from.first));
  MOSE_ASSIGN(std::vector<restore::ImageProcess> processes, restore::read_processes(images));
  if (tree.size() != processes.size()) return fail("the images name another number of processes than the tree has");
  for (const restore::ImageProcess& process : processes) {
    for (const ProcessHandle& task : tree) {
      MOSE_ASSIGN(pid_t number, virtual_pid(task));
      if (static_cast<SpaceId>(number) != process.space) continue;
      PageSet everything = restore::lazy_area(process).unite(restore::eager_area(process));
      auto pages = restore::read_present_pages(images, process, task, everything);
      if (!pages) return context("read pages", std::move(pages).error());
      for (const restore::ImageFile& image : *pages) MOSE_TRY(restore::replace_image(images, image));
    }
  }
  auto sizes = restore::forget_file_sizes(images, {"/var/log/mose-workload"});
  if (!sizes) return std::unexpected(sizes.error());
  return {};
}

Result<pid_t> restore_tree(CriuBed::Node& to, Swrk& swrk, int images, const AtHook& at_hook, bool lazy) {
  MOSE_TRY(swrk.request_restore({images, lazy}));
  MOSE_ASSIGN(Swrk::Done done, drive(swrk, [&](const Swrk::Hook& hook) -> Result<bool> {
    if (hook.name == "post-restore") MOSE_TRY(to.aside.add(swrk.process().pid()));
    if (hook.name == "pre-resume") MOSE_TRY(to.cgroup.freeze(kBound));
    return at_hook ? at_hook(hook) : true;
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

Status resume(CriuBed::Node& node) {
  MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(node.first));
  MOSE_ASSIGN(RepairCount count, set_tcp_repair(tree, false));
  if (count.changed != 0 || count.failed != 0)
    return fail(std::to_string(count.changed) + " sockets were still in repair mode, " + std::to_string(count.failed) + " could not leave it");
  // A dump that ended well has sent SIGSTOP.
  for (const ProcessHandle& task : tree) MOSE_TRY(task.signal(SIGCONT));
  return node.cgroup.thaw();
}

Status clear(CriuBed::Node& node) {
  MOSE_ASSIGN(std::vector<pid_t> pids, node.cgroup.procs());
  std::vector<ProcessHandle> tree;
  for (pid_t pid : pids) {
    if (auto task = ProcessHandle::open(pid)) tree.push_back(std::move(*task));
  }
  MOSE_TRY(set_tcp_repair(tree, true));
  MOSE_TRY(node.cgroup.kill());
  MOSE_TRY(node.cgroup.wait_empty(kBound));
  node.first = ProcessHandle();
  return node.cgroup.thaw();
}

Result<HopTimes> hop(CriuBed& bed, CriuBed::Node& from, CriuBed::Node& to) {
  MOSE_ASSIGN(Fd source_images, restore::make_images_dir(from.images));
  MOSE_ASSIGN(Fd destination_images, restore::make_images_dir(to.images));
  MOSE_ASSIGN(Swrk dumper, Swrk::start_for_dump(bed.criu(), bed.source_place(from)));
  MOSE_ASSIGN(Swrk restorer, Swrk::start_for_restore(bed.criu(), bed.destination_place(to)));
  HopTimes times;
  Timestamp last = now();
  auto lap = [&](double& ms) {
    Timestamp present = now();
    ms = to_ms(present - last);
    last = present;
  };
  MOSE_TRY(from.cgroup.freeze(kBound));
  lap(times.freeze_ms);
  MOSE_TRY(dump(from, dumper, source_images.get()));
  lap(times.dump_ms);
  MOSE_TRY(add_pages(from, source_images.get()));
  lap(times.pages_ms);
  MOSE_TRY(carry_images(source_images.get(), destination_images.get()));
  MOSE_TRY(copy_tree(from.data, to.data));
  MOSE_TRY(copy_tree(from.log, to.log));
  lap(times.carry_ms);
  MOSE_ASSIGN(pid_t pid, restore_tree(to, restorer, destination_images.get()));
  lap(times.restore_ms);
  MOSE_ASSIGN(to.first, ProcessHandle::open(pid));
  MOSE_TRY(to.cgroup.thaw());
  MOSE_TRY(clear(from));
  return times;
}

}  // namespace mose::test
