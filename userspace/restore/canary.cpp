// SPDX-License-Identifier: MIT
#include "restore/canary.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "base/rollback.h"
#include "kernel/cgroup.h"
#include "kernel/launch.h"
#include "kernel/spawn.h"
#include "restore/images.h"
#include "restore/swrk.h"

namespace mose::restore {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kImageBytesSmall = 1u << 20;  // the canary holds 8 MiB; its metadata are some 20 KiB
constexpr std::chrono::milliseconds kLogPause{2};

Status make_root(const std::string& root) {
  std::error_code error;
  fs::create_directories(root + "/proc", error);
  fs::create_directories(root + "/dev", error);
  MOSE_ASSIGN(std::string program, helper_path("mose-exec"));
  fs::copy_file(program, root + "/canary", fs::copy_options::overwrite_existing, error);
  if (error) return fail_errno("copy " + program, error.value());
  if (::mknod((root + "/dev/null").c_str(), S_IFCHR | 0666, makedev(1, 3)) < 0 && errno != EEXIST) return fail_errno("make /dev/null");
  return {};
}

Status wait_for_line(const std::string& path, std::string_view line, const ProcessHandle& canary, Timestamp deadline) {
  for (;;) {
    bool alive = canary.alive();
    auto text = read_file(path);
    if (text && text->find(line) != std::string::npos) return {};
    if (text && text->find("damaged") != std::string::npos) return fail("the canary's memory was damaged");
    if (!alive) return fail("the canary has died");
    if (now() >= deadline) return fail("the canary did not answer in time");
    std::this_thread::sleep_for(kLogPause);
  }
}

Status dump_canary(const CriuSetup& setup, const ProcessHandle& canary, const Cgroup& cgroup, int images, Timestamp deadline,
                   CanaryResult& result) {
  Swrk::Place place;
  MOSE_ASSIGN(Swrk swrk, Swrk::start_for_dump(setup, place));
  MOSE_TRY(cgroup.freeze(deadline - now()));
  Timestamp asked = now();
  Swrk::DumpRequest request;
  request.images_dir = images;
  request.pid = canary.pid();
  request.cgroup_path = cgroup.path();
  MOSE_TRY(swrk.request_dump(request));
  for (;;) {
    MOSE_ASSIGN(Swrk::Event event, swrk.next(deadline - now()));
    if (auto* hook = std::get_if<Swrk::Hook>(&event)) {
      if (hook->name == "post-dump") MOSE_TRY(cgroup.request_freeze());
      MOSE_TRY(swrk.answer(true));
    } else if (auto* done = std::get_if<Swrk::Done>(&event)) {
      if (!done->success) return fail("the dump failed: " + done->message);
      result.dump_ms = to_ms(now() - asked);
      return swrk.wait_exit(deadline - now());
    } else if (auto* died = std::get_if<Swrk::Died>(&event)) {
      return fail("CRIU died: " + died->how);
    } else {
      return fail("the dump did not end in time");
    }
  }
}

Status check_images(int images, CanaryResult& result) {
  MOSE_ASSIGN(std::vector<ImageFile> files, load_images(images));
  for (const ImageFile& file : files) result.image_bytes += file.bytes.size();
  if (result.image_bytes > kImageBytesSmall)
    return fail("the dump has " + std::to_string(result.image_bytes) + " bytes: memory is in it, the preload has no effect");
  MOSE_ASSIGN(std::vector<ImageProcess> processes, read_processes(images));
  if (processes.size() != 1 || lazy_area(processes[0]).pages() < 2048) return fail("the dump does not describe the canary's memory");
  return {};
}

Status try_canary(const CriuSetup& setup, const CanaryOptions& options, CanaryResult& result) {
  Timestamp deadline = now() + options.bound;
  Cgroup cgroup;         // before the rollback, which uses them
  ProcessHandle canary;
  Rollback cleanup;
  MOSE_ASSIGN(cgroup, Cgroup::create(options.cgroup_path));
  cleanup.push([&] {
    (void)cgroup.kill();
    (void)cgroup.thaw();
    (void)cgroup.remove(Nanoseconds{2'000'000'000});
  });
  // An agent that was killed here leaves its canary running: its program cannot be overwritten, its output would pass for
  // ours.
  MOSE_TRY(cgroup.kill());
  MOSE_TRY(cgroup.thaw());
  MOSE_TRY(cgroup.wait_empty(deadline - now()));
  std::error_code ignored;
  fs::remove_all(options.scratch, ignored);
  fs::create_directories(options.scratch, ignored);
  cleanup.push([&] {
    std::error_code error;
    fs::remove_all(options.scratch, error);
  });
  std::string root = options.scratch + "/root";
  MOSE_TRY(make_root(root));
  MOSE_ASSIGN(Fd images, make_images_dir(options.scratch + "/images"));

  WorkloadLaunch launch;
  launch.cgroup_fd = cgroup.fd();
  launch.root = root;
  launch.root_read_only = false;
  launch.log = "/output";
  launch.command = {"/canary", "--canary"};
  MOSE_ASSIGN(canary, launch_workload(launch, deadline - now()));
  cleanup.push([&] {  // if it is our child by now, leave no zombie
    (void)canary.signal(SIGKILL);
    (void)cgroup.thaw();
    (void)canary.reap(Nanoseconds{1'000'000'000});
  });
  std::string log = root + "/output";
  MOSE_TRY(wait_for_line(log, "ready", canary, deadline));
  MOSE_TRY(dump_canary(setup, canary, cgroup, images.get(), deadline, result));
  MOSE_TRY(check_images(images.get(), result));
  MOSE_ASSIGN(bool frozen, cgroup.frozen());
  if (!frozen) return fail("the canary was not left frozen");
  MOSE_TRY(canary.signal(SIGUSR1));
  MOSE_TRY(canary.signal(SIGCONT));
  MOSE_TRY(cgroup.thaw());
  return wait_for_line(log, "intact", canary, deadline);
}

}  // namespace

CanaryResult run_canary(const CriuSetup& setup, const CanaryOptions& options) {
  CanaryResult result;
  result.criu_version = setup.version();
  Status status = try_canary(setup, options, result);
  result.works = status.has_value();
  if (!status) result.reason = status.error().what;
  return result;
}

}  // namespace mose::restore
