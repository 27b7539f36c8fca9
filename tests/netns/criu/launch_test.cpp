// SPDX-License-Identifier: MIT
// Control groups, and mose-exec: what it arranges, and which step it names when it cannot.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "kernel/cgroup.h"
#include "kernel/launch.h"
#include "run_lock.h"
#include "support/support.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
constexpr Nanoseconds kBound{10'000'000'000};

class Launch : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) skip_process("needs root");
    auto mount = cgroup_mount();
    if (!mount) skip_process(mount.error().what);
    turn = wait_for_turn("mcriu-launch");
    group_path = *mount + "/mose-test-mcriu-launch";
    auto created = Cgroup::create(group_path + "/inner");
    ASSERT_TRUE(created) << created.error().what;
    group = std::move(*created);
    base = "/var/tmp/mose-test-mcriu-launch";
    fs::remove_all(base);
    root = base + "/root";
    for (const char* directory : {"/proc", "/dev", "/tmp", "/bin", "/data"}) fs::create_directories(root + directory);
    ASSERT_EQ(::mknod((root + "/dev/null").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0);
    fs::copy(*helper_path("mcriu-workload"), root + "/bin/workload");
    fs::create_directories(base + "/data");
  }
  void TearDown() override {
    EXPECT_TRUE(group.kill() && group.thaw());
    Status removed = group.remove(kBound);
    EXPECT_TRUE(removed) << removed.error().what;
    ::rmdir(group_path.c_str());
    fs::remove_all(base);
  }
  // `script` run by a shell through mose-exec; its standard output and error.
  std::string run(LaunchRequest request, const std::string& script, bool* success = nullptr) {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    Fd reader(ends[0]), writer(ends[1]);
    if (request.command.program.empty()) request.command.program = "/bin/sh";
    request.command.arguments = {"-c", script};
    request.command.fds = {{writer.get(), 1}, {writer.get(), 2}};
    auto process = launch(request);
    EXPECT_TRUE(process);
    writer.reset();
    std::string text = *read_all(reader.get());
    auto exit = process->reap(kBound);
    EXPECT_TRUE(exit);
    if (success) *success = exit->success();
    return text;
  }
  WorkloadLaunch workload() {
    WorkloadLaunch request;
    request.cgroup_fd = group.fd();
    request.root = root;
    request.binds = {{base + "/data", "/data", false}};
    request.log = "/data/log";
    request.command = {"/bin/workload", "10", "/data/state"};
    return request;
  }
  std::string error_of(const WorkloadLaunch& request) {
    auto process = launch_workload(request, kBound);
    EXPECT_FALSE(process);
    return process ? "" : process.error().what;
  }
  Fd turn;
  Cgroup group;
  std::string group_path, base, root;
};

TEST_F(Launch, JoinsTheCgroupAndTheNamespaces) {
  auto uts = new_namespace(NamespaceKind::uts);
  ASSERT_TRUE(uts);
  LaunchRequest request;
  request.cgroup_fd = group.fd();
  request.uts_fd = uts->get();
  struct stat st{};
  ASSERT_EQ(::fstat(uts->get(), &st), 0);
  std::string text = run(request, "grep ^0:: /proc/self/cgroup; stat -L -c %i /proc/self/ns/uts");
  EXPECT_NE(text.find("/mose-test-mcriu-launch/inner\n" + std::to_string(st.st_ino)), std::string::npos) << text;
}

TEST_F(Launch, BindsWhatTheCallerSeesEvenWhenATmpfsHidesIt) {
  std::ignore = write_all(open_file(base + "/data/file", O_WRONLY | O_CREAT, 0644)->get(), "hello");
  LaunchRequest request;
  request.private_mounts = true;
  request.tmpfs = {"/var/tmp"};
  request.binds = {{base + "/data", "/var/tmp/new/place", true}, {base + "/data/file", "/var/tmp/single", false}};
  std::string text = run(request, "cat /var/tmp/new/place/file /var/tmp/single; ls /var/tmp; touch /var/tmp/new/place/x && echo written");
  EXPECT_TRUE(text.starts_with("hellohellonew\nsingle\n")) << text;
  EXPECT_NE(text.find("Read-only"), std::string::npos) << text;
  EXPECT_FALSE(fs::exists("/var/tmp/new")) << "nothing of it is seen outside";
}

TEST_F(Launch, NamesTheStepThatFailed) {
  bool success = true;
  LaunchRequest request;
  request.private_mounts = true;
  request.binds = {{"/no/such/source", "/mnt", false}};
  EXPECT_EQ(run(request, "true", &success), "mose-exec: open mount source /no/such/source: No such file or directory\n");
  EXPECT_FALSE(success);
  request.binds.clear();
  request.command.program = "/no/such/program";
  EXPECT_EQ(run(request, "true"), "mose-exec: execute /no/such/program: No such file or directory\n");
  Fd file = *open_file("/dev/null", O_RDONLY);
  LaunchRequest wrong;
  wrong.net_fd = file.get();
  EXPECT_EQ(run(wrong, "true"), "mose-exec: enter the net namespace: Invalid argument\n");
}

TEST_F(Launch, DiesWithTheThreadThatAskedForIt) {
  Result<ProcessHandle> child = fail("not run");
  std::thread([&] {
    LaunchRequest request;
    request.parent_death_signal = SIGKILL;
    request.command.program = "/bin/sleep";
    request.command.arguments = {"1000"};
    child = launch(request);
    if (!child) return;
    // Were the thread to end before the helper asks, the program would hang on to the process' main thread instead.
    std::string name = "/proc/" + std::to_string(child->pid()) + "/comm";
    while (*read_file(name) != "sleep\n") std::this_thread::yield();
  }).join();
  ASSERT_TRUE(child) << child.error().what;
  auto exit = child->reap(kBound);
  if (!exit) (void)child->signal(SIGKILL);
  ASSERT_TRUE(exit) << exit.error().what;
  EXPECT_EQ(describe(*exit), "signal 9");
}

TEST_F(Launch, AWorkloadSeesItsRootProcAndDeclaredMountsOnly) {
  auto process = launch_workload(workload(), kBound);
  ASSERT_TRUE(process) << process.error().what;
  EXPECT_EQ(*virtual_pid(*process), 1);
  std::string proc = "/proc/" + std::to_string(process->pid());
  std::string mounts = *read_file(proc + "/mountinfo");
  EXPECT_EQ(std::count(mounts.begin(), mounts.end(), '\n'), 3) << mounts;
  EXPECT_NE(mounts.find(" / ro,"), std::string::npos) << mounts;
  EXPECT_EQ(mounts.find("shared:"), std::string::npos) << "nothing propagates: " << mounts;
  EXPECT_EQ(fs::read_symlink(proc + "/fd/0"), "/dev/null");
  EXPECT_EQ(fs::read_symlink(proc + "/fd/1"), "/data/log");
  EXPECT_EQ(fs::read_symlink(proc + "/cwd"), "/");
  EXPECT_EQ(std::distance(fs::directory_iterator(proc + "/fd"), fs::directory_iterator()), 3) << "no descriptor of ours got in";
  EXPECT_EQ(*read_file(proc + "/environ"), "");
  for (int tries = 0; group.procs()->size() < 2 && tries < 1000; ++tries) ::usleep(1000);  // its child
  EXPECT_EQ(group.procs()->size(), 2u);
}

TEST_F(Launch, TheHostsOwnRootMayBeTheRoot) {
  // A mount namespace whose root is the test's root: what mose-exec sees as "/" is a tree that we know.
  ASSERT_EQ(::mkdir((root + "/exec").c_str(), 0755), 0);
  fs::copy(*helper_path("mose-exec"), root + "/exec/mose-exec");
  std::string text = run({}, "unshare -m --propagation private sh -c 'mount --bind " + root + " " + root + " && cd " + root +
                                 " && mount -t tmpfs none data && mount -t proc proc proc && pivot_root . tmp && exec "
                                 "/exec/mose-exec --workload --root / --root-ro --bind /data /data --log /data/log --chdir / "
                                 "--pid-fd 1 -- /bin/workload 10 /data/state'");
  pid_t pid = std::atoi(text.c_str());
  ASSERT_GT(pid, 0) << text;
  auto process = ProcessHandle::open(pid);
  ASSERT_TRUE(process) << text;
  std::string mounts = *read_file("/proc/" + std::to_string(pid) + "/mountinfo");
  EXPECT_EQ(std::count(mounts.begin(), mounts.end(), '\n'), 3) << mounts;
  EXPECT_TRUE(process->signal(SIGKILL));
  (void)process->wait_ended(kBound);
}

TEST_F(Launch, AWorkloadThatCannotStartSaysWhy) {
  WorkloadLaunch request = workload();
  request.command[0] = "/bin/missing";
  EXPECT_EQ(error_of(request), "start the workload: mose-exec: execute /bin/missing in the workload's root: No such file or directory");
  request = workload();
  request.binds[0].target = "/missing";
  EXPECT_EQ(error_of(request), "start the workload: mose-exec: mount point /missing in the workload's root: No such file or directory");
  request = workload();
  request.log = "/log";
  EXPECT_EQ(error_of(request), "start the workload: mose-exec: open the log /log: Read-only file system");
  request = workload();
  request.root = "/no/such/root";
  EXPECT_EQ(error_of(request), "start the workload: mose-exec: open mount source /no/such/root: No such file or directory");
  request = workload();
  fs::remove(root + "/dev/null");
  EXPECT_NE(error_of(request).find("open /dev/null in the workload's root"), std::string::npos);
  EXPECT_TRUE(group.procs()->empty());
}

TEST_F(Launch, AMountPointIsResolvedInsideTheRoot) {
  // Outside, this link leads to a directory of the host.
  fs::create_directories(base + "/outside");
  fs::create_directories(root + base + "/outside");
  fs::remove(root + "/data");
  fs::create_directory_symlink(base + "/outside", root + "/data");
  auto process = launch_workload(workload(), kBound);
  ASSERT_TRUE(process) << process.error().what;
  std::string mounts = *read_file("/proc/" + std::to_string(process->pid()) + "/mountinfo");
  EXPECT_NE(mounts.find(" " + base + "/outside "), std::string::npos) << mounts;
}

TEST_F(Launch, AFrozenGroupStandsStillAndDiesFrozen) {
  auto process = launch_workload(workload(), kBound);
  ASSERT_TRUE(process);
  EXPECT_FALSE(*group.frozen());
  ASSERT_TRUE(group.freeze(kBound));
  EXPECT_TRUE(*group.frozen());
  EXPECT_TRUE(*group.freeze_requested());
  auto size = fs::file_size(base + "/data/log");
  ::usleep(50'000);
  EXPECT_EQ(fs::file_size(base + "/data/log"), size);
  ASSERT_TRUE(group.kill());
  EXPECT_TRUE(group.wait_empty(kBound)) << "SIGKILL reaches frozen processes";
  EXPECT_FALSE(*group.populated());
  EXPECT_TRUE(process->wait_ended(kBound));
}

TEST_F(Launch, WaitsOfAGroupAreBounded) {
  auto process = launch_workload(workload(), kBound);
  ASSERT_TRUE(process);
  EXPECT_EQ(group.wait_empty(Nanoseconds{1'000'000}).error().code, ETIMEDOUT);
  EXPECT_EQ(group.wait_frozen(Nanoseconds{1'000'000}).error().code, ETIMEDOUT);
  Cgroup other = std::move(*Cgroup::open(group.path()));
  EXPECT_EQ(other.remove(Nanoseconds{1'000'000}).error().code, ETIMEDOUT);
  EXPECT_FALSE(other.valid());
  auto of_process = Cgroup::of_process(process->pid());
  ASSERT_TRUE(of_process) << of_process.error().what;
  EXPECT_TRUE(of_process->path().ends_with("/mose-test-mcriu-launch/inner"));
}

TEST_F(Launch, WhatIsNoCgroupIsRefused) {
  EXPECT_FALSE(Cgroup::open("/tmp"));
  EXPECT_FALSE(Cgroup::open("/no/such/group"));
  EXPECT_FALSE(Cgroup::create("relative/path"));
  EXPECT_FALSE(group.add(0x3fffffff));
}

}  // namespace
}  // namespace mose::test
