// SPDX-License-Identifier: MIT
#include "standby_bed.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "kernel/tcp_repair.h"
#include "restore/images.h"
#include "support/support.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
using restore::Swrk;
// What the standby's clocks are ahead of the workload's when CRIU makes its first task.
constexpr Nanoseconds kAhead = std::chrono::seconds(2);

std::string fd_path(int fd) {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd);
}

// As the agents take a workload's copied mounts along.
WorkloadSpec copied_data(const CriuBed::Node& node) {
  WorkloadSpec spec;
  spec.name = node.name;
  spec.mounts = {{node.data, "/data", MountMode::copy, false}};
  return spec;
}

}  // namespace

void StandbyBed::run(int net, const std::string& command) const {
  std::string line = "nsenter --net=" + fd_path(net) + " sh -ec '" + command + "'";
  ASSERT_EQ(std::system(line.c_str()), 0) << line;
}

StandbyBed::StandbyBed() {
  auto net = new_namespace(NamespaceKind::net);
  if (!net) skip_process(net.error().what);
  client = std::move(*net);
  const std::string no_way =
      "ip link add void0 type veth peer name void1; ip link set void0 arp off up; ip link set void1 arp off up; ";
  run(client.get(), no_way + "ip link set lo up; ip addr add 192.0.2.1/32 dev lo");
  for (CriuBed::Node* node : {&bed.a, &bed.b}) {
    const std::string link = "v" + node->name;
    run(client.get(), "ip link add " + link + " type veth peer name eth0 netns " + fd_path(node->net.get()) +
                          "; ip link set " + link + " up; ip addr add 2001:db8::1/128 dev " + link + " nodad");
    run(node->net.get(),
        no_way + "ip addr add 192.0.2.2/32 dev lo; ip link set eth0 up; ip addr add 2001:db8::2/128 dev eth0 nodad");
    shut(*node);
    fs::remove(node->root + "/bin/workload");
    fs::copy(*helper_path("mcriu-standby-workload"), node->root + "/bin/workload");
  }
  hold();
}

void StandbyBed::connect(CriuBed::Node& node) {
  run(node.net.get(),
      "ip route replace 192.0.2.1/32 dev eth0 src 192.0.2.2; ip -6 route replace 2001:db8::1/128 dev eth0");
  run(client.get(), "ip route replace 192.0.2.2/32 dev v" + node.name +
                        " src 192.0.2.1; ip -6 route replace 2001:db8::2/128 dev v" + node.name);
}
void StandbyBed::hold() {
  run(client.get(),
      "ip route replace 192.0.2.2/32 dev void0 src 192.0.2.1; ip -6 route replace 2001:db8::2/128 dev void0");
}
void StandbyBed::shut(CriuBed::Node& node) {
  run(node.net.get(),
      "ip route replace 192.0.2.1/32 dev void0 src 192.0.2.2; ip -6 route replace 2001:db8::1/128 dev void0");
}

Result<restore::ImageSet> StandbyBed::images(const CriuBed::Node& node, const std::string& name) {
  MOSE_ASSIGN(Fd dir, open_file(node.images + "/" + name, O_RDONLY | O_DIRECTORY));
  return restore::ImageSet::load(dir.get());
}

Status StandbyBed::dump_into(CriuBed::Node& node, const std::string& name) {
  MOSE_ASSIGN(Fd dir, restore::make_images_dir(node.images + "/" + name));
  MOSE_ASSIGN(Swrk dumper, Swrk::start_for_dump(bed.criu(), bed.source_place(node)));
  MOSE_TRY(node.cgroup.freeze(kBound));
  MOSE_TRY(dump(node, dumper, dir.get()));
  return add_pages(node, dir.get());
}

Status StandbyBed::carry(CriuBed::Node& from, CriuBed::Node& to, const std::string& name, agent::CopyTarget holds) {
  MOSE_ASSIGN(Fd source, open_file(from.images + "/" + name, O_RDONLY | O_DIRECTORY));
  MOSE_ASSIGN(Fd target, restore::make_images_dir(to.images + "/" + name));
  MOSE_TRY(carry_images(source.get(), target.get()));
  MOSE_ASSIGN(auto files, agent::read_copied(copied_data(from), from.log));
  return agent::write_copied(copied_data(to), to.log, files, holds);
}

Status StandbyBed::make_standby(CriuBed::Node& from, CriuBed::Node& to) {
  hold();  // CRIU fails when bytes arrive while it reads a queue
  const Timestamp dumped = now();
  MOSE_TRY(dump_into(from, "early"));
  MOSE_TRY(carry(from, to, "early", agent::CopyTarget::nobody));
  MOSE_TRY(resume(from));
  connect(from);
  MOSE_ASSIGN(Fd dir, open_file(to.images + "/early", O_RDONLY | O_DIRECTORY));
  MOSE_ASSIGN(Swrk restorer, Swrk::start_for_restore(bed.criu(), bed.destination_place(to)));
  MOSE_ASSIGN(pid_t pid, restore_tree(to, restorer, dir.get(), [&](const Swrk::Hook& hook) -> Result<bool> {
                if (hook.name == "pre-restore") MOSE_TRY(restore::advance_clocks(dir.get(), now() - dumped + kAhead));
                return true;
              }));
  MOSE_ASSIGN(to.first, ProcessHandle::open(pid));
  restore::StandbyProcess process{1, &to.first};
  return restore::quiet_standby({&process, 1});
}

Result<StandbyBed::Move> StandbyBed::switch_over(CriuBed::Node& from, CriuBed::Node& to, bool leave_unread) {
  if (leave_unread) MOSE_TRY(from.cgroup.freeze(kBound));
  hold();
  MOSE_TRY(dump_into(from, "final"));
  MOSE_TRY(carry(from, to, "final", agent::CopyTarget::standby));
  Move move;
  MOSE_ASSIGN(restore::ImageSet early, images(to, "early"));
  const Timestamp start = now();
  MOSE_ASSIGN(restore::ImageSet final, images(to, "final"));
  const Timestamp loaded = now();
  MOSE_ASSIGN(restore::StandbyDelta delta, restore::compare_images(early, final, restore::StandbyMemory::all));
  move.load = loaded - start;
  move.compare = now() - loaded;
  for (const auto& pages : delta.pages) {
    move.pages += pages.run.count;
    if (pages.contents.empty()) move.zeroed += pages.run.count;
  }
  move.connections = delta.connections.size();
  for (const auto& watch : delta.watches) ++move.watches[watch.change];
  for (const auto& connection : delta.connections) {
    move.unread += !connection.in_queue.empty();
    move.unacknowledged += !connection.sent.empty();
    move.unsent += !connection.unsent.empty();
  }
  restore::StandbyProcess process{1, &to.first};
  MOSE_ASSIGN(move.times, restore::refresh_standby(delta, {&process, 1}));
  MOSE_TRY(to.cgroup.wait_frozen(kBound));
  MOSE_TRY(clear(from));
  shut(from);
  connect(to);
  MOSE_TRY(to.cgroup.thaw());
  return move;
}

StandbyClient::StandbyClient(int net, Work work)
    : thread_([this, net, work = std::move(work)] {
        if (::setns(net, CLONE_NEWNET) < 0)
          error_ = "cannot enter the client's namespace";
        else
          error_ = work(stop_, answers_);
      }) {}
StandbyClient::~StandbyClient() {
  (void)stop();
}
std::string StandbyClient::stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
  return error_;
}

Result<Fd> connect_to(Family family, uint16_t port4, uint16_t port6) {
  Fd fd(::socket(family == Family::ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  timeval bound{15, 0};
  int one = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  sockaddr_in in4{};
  in4.sin_family = AF_INET;
  in4.sin_port = htons(family == Family::mapped ? port6 : port4);
  ::inet_pton(AF_INET, "192.0.2.2", &in4.sin_addr);
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  in6.sin6_port = htons(port6);
  ::inet_pton(AF_INET6, "2001:db8::2", &in6.sin6_addr);
  for (int tries = 0; tries < 300; ++tries) {
    int result = family == Family::ipv6 ? ::connect(fd.get(), reinterpret_cast<sockaddr*>(&in6), sizeof in6)
                                        : ::connect(fd.get(), reinterpret_cast<sockaddr*>(&in4), sizeof in4);
    if (result == 0) return fd;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return fail_errno("connect to the workload");
}

}  // namespace mose::test
