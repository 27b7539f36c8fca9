// SPDX-License-Identifier: MIT
#include "kernel/inspect.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <thread>

#include "kernel/cgroup.h"
#include "kernel/inspect_sockets.h"
#include "kernel/proc_path.h"
#include "kernel/procfs.h"
#include "kernel/shared_objects.h"
#include "kernel/system_v.h"

namespace mose {
namespace {

struct Process {
  ProcessHandle handle;
  std::string command;
};

std::string command_of(pid_t pid) {
  auto text = read_file(proc_path(pid, "comm"), 256);
  return text ? text->substr(0, text->find('\n')) : "?";
}

std::string link_of(const std::string& path) {
  char target[4096];
  ssize_t length = readlink(path.c_str(), target, sizeof target);
  return length < 0 ? std::string() : std::string(target, static_cast<size_t>(length));
}

// "pipe:[123]" -> 123.
std::optional<uint64_t> inode_of(std::string_view link, std::string_view kind) {
  if (!link.starts_with(kind) || !link.ends_with("]")) return std::nullopt;
  uint64_t inode = 0;
  auto [end, error] = std::from_chars(link.data() + kind.size(), link.data() + link.size(), inode);
  if (error != std::errc()) return std::nullopt;
  return inode;
}

struct MountEntry {
  int id = 0;
  std::string target;
  bool writable = false;
};

// Lines of mountinfo: "ID PARENT MAJ:MIN ROOT TARGET OPTIONS ...". Blanks in paths are octal escapes and stay so.
std::vector<MountEntry> parse_mounts(const std::string& text) {
  std::vector<MountEntry> mounts;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::vector<std::string> words;
    for (size_t word = at; word < end && words.size() < 6;) {
      size_t blank = std::min(text.find(' ', word), end);
      words.push_back(text.substr(word, blank - word));
      word = blank + 1;
    }
    if (words.size() == 6) {
      bool writable = words[5] == "rw" || words[5].starts_with("rw,");
      mounts.push_back({atoi(words[0].c_str()), words[4], writable});
    }
    at = end + 1;
  }
  return mounts;
}

std::optional<int> mount_of_descriptor(pid_t pid, int fd) {
  auto text = read_file(proc_path(pid, fmt::format("fdinfo/{}", fd)), 1u << 16);
  if (!text) return std::nullopt;
  size_t at = text->find("mnt_id:");
  if (at == std::string::npos) return std::nullopt;
  return atoi(text->c_str() + at + 7);
}

std::optional<int> mount_of_mapping(pid_t pid, const Vma& vma) {
  struct statx info{};
  std::string path =
      proc_path(pid, fmt::format("map_files/{:x}-{:x}", vma.pages.first * kPageSize, vma.pages.end() * kPageSize));
  if (syscall(SYS_statx, AT_FDCWD, path.c_str(), 0, STATX_MNT_ID, &info) != 0 || (info.stx_mask & STATX_MNT_ID) == 0) {
    return std::nullopt;
  }
  return static_cast<int>(info.stx_mnt_id);
}

bool harmless_device(unsigned major, unsigned minor) {
  return major == 1 && (minor == 3 || minor == 5 || minor == 7 || minor == 8 || minor == 9);
}
bool is_terminal(unsigned major) {
  return major == 4 || major == 5 || (major >= 136 && major <= 143);
}

// Nothing when it has ended.
std::optional<pid_t> parent_of(pid_t pid) {
  auto text = read_file(proc_path(pid, "stat"), 4096);
  // The command name may hold anything: "PID (NAME) STATE PARENT ...".
  size_t at = text ? text->rfind(") ") : std::string::npos;
  if (at == std::string::npos || at + 4 >= text->size()) return std::nullopt;
  return static_cast<pid_t>(std::strtol(text->c_str() + at + 4, nullptr, 10));
}

class Inspection {
 public:
  explicit Inspection(const InspectRequest& request) : request_(request) {}

  Result<std::vector<Tie>> run() {
    MOSE_ASSIGN(auto tree, process_tree(*request_.init));
    for (ProcessHandle& handle : tree) {
      tree_pids_.insert(handle.pid());
      std::string command = command_of(handle.pid());
      processes_.push_back({std::move(handle), std::move(command)});
    }
    MOSE_ASSIGN(netns_, open_namespace(*request_.init, NamespaceKind::net));
    auto peers = unix_peers(netns_.get());
    if (peers) peers_ = std::move(*peers);
    auto text = read_file(proc_path(request_.init->pid(), "mountinfo"), 8u << 20);
    if (!text) return std::unexpected(text.error());
    mounts_ = parse_mounts(*text);
    for (const MountEntry& mount : mounts_) mount_ids_.insert(mount.id);

    check_cgroup();
    check_ipc();
    collect_descriptors();
    for (const Process& process : processes_) {
      check_process(process);
      check_descriptors(process);
      check_memory(process);
    }
    check_shared_objects();
    check_mounts();  // last: a host's own may be so many that they would crowd out the rest
    return std::move(ties_);
  }

 private:
  struct Descriptor {
    int fd;
    std::string link;
  };

  void add(TieKind kind, const Process* process, int fd, std::string thing) {
    if (ties_.size() >= kTiesMax) return;
    ties_.push_back({kind, process != nullptr ? process->handle.pid() : 0, process != nullptr ? process->command : "",
                     fd, std::move(thing)});
  }

  // Also one that was born since the tree was read, or has ended since: a service may fork all the time.
  [[nodiscard]] bool is_ours(const pid_t pid) const {
    constexpr int kStepsMax = 256;
    pid_t at = pid;
    for (int step = 0; step < kStepsMax; ++step) {
      if (tree_pids_.contains(at)) return true;
      auto parent = parent_of(at);
      if (!parent && at == pid) return true;
      if (parent && *parent <= 1) return false;
      at = parent.value_or(pid);  // who has lost his parent has another one
    }
    return false;
  }

  void check_mounts() {
    for (const MountEntry& mount : mounts_) {
      bool known = mount.target == "/" || mount.target == "/proc" ||
                   std::find(request_.declared_mounts.begin(), request_.declared_mounts.end(), mount.target) !=
                       request_.declared_mounts.end();
      if (!known)
        add(TieKind::undeclared_mount, nullptr, -1,
            fmt::format("{} ({})", mount.target, mount.writable ? "writable" : "read-only"));
    }
  }

  void check_cgroup() {
    if (request_.cgroup.empty()) return;
    auto group = Cgroup::open(request_.cgroup);
    auto pids = group ? group->procs() : Result<std::vector<pid_t>>(std::unexpected(group.error()));
    if (!pids) return;
    for (pid_t pid : *pids) {
      if (!is_ours(pid))
        add(TieKind::foreign_process, nullptr, -1, fmt::format("{}, pid {}", command_of(pid), pid));
    }
    for (const Process& process : processes_) {
      auto own = Cgroup::of_process(process.handle.pid());
      bool inside = own && (own->path() == request_.cgroup || own->path().starts_with(request_.cgroup + "/"));
      if (own && !inside) add(TieKind::strayed_process, &process, -1, own->path());
    }
  }

  void check_ipc() {
    auto ipc = open_namespace(*request_.init, NamespaceKind::ipc);
    if (!ipc) return;
    auto objects = system_v_objects(ipc->get());
    if (!objects) return add(TieKind::sysv_object, nullptr, -1, objects.error().what);
    auto several = [&](uint64_t count, const char* what) {
      if (count != 0) add(TieKind::sysv_object, nullptr, -1, fmt::format("{} System V {}{}", count, what, count > 1 ? "s" : ""));
    };
    several(objects->semaphores, "semaphore set");
    several(objects->queues, "message queue");
    const auto& ours = own_shared_objects();
    for (const SystemVSegment& segment : objects->segments) {
      if (!ours || std::ranges::find(*ours, segment.id, &SharedObject::system_v) == ours->end())
        add(TieKind::unattached_segment, nullptr, -1, std::to_string(segment.id));
    }
  }

  void check_process(const Process& process) {
    auto tracer = status_field(process.handle, "TracerPid");
    if (tracer && *tracer != "0")
      add(TieKind::traced, &process, -1, fmt::format("{}, pid {}", command_of(atoi(tracer->c_str())), *tracer));
    for (NamespaceKind kind : {NamespaceKind::net, NamespaceKind::ipc, NamespaceKind::uts, NamespaceKind::mnt,
                               NamespaceKind::pid, NamespaceKind::user}) {
      auto own = open_namespace(process.handle, kind);
      auto init = open_namespace(*request_.init, kind);
      if (!own || !init) continue;
      auto same = same_namespace(own->get(), init->get());
      if (same && !*same) add(TieKind::nested_namespace, &process, -1, to_string(kind));
    }
  }

  void collect_descriptors() {
    for (const Process& process : processes_) {
      std::vector<Descriptor>& list = descriptors_[process.handle.pid()];
      for (int fd : numbers_in(proc_path(process.handle.pid(), "fd"))) {
        list.push_back({fd, link_of(proc_path(process.handle.pid(), fmt::format("fd/{}", fd)))});
        const std::string& link = list.back().link;
        if (auto inode = inode_of(link, "socket:[")) own_sockets_.insert(*inode);
        if (auto inode = inode_of(link, "pipe:[")) own_pipes_.insert(*inode);
      }
    }
    if (own_pipes_.empty() && own_sockets_.empty()) return;
    // Who outside holds the same pipe or socket: all processes that we can see.
    for (int pid : numbers_in("/proc")) {
      if (is_ours(pid)) continue;
      for (int fd : numbers_in(proc_path(pid, "fd"))) {
        std::string link = link_of(proc_path(pid, fmt::format("fd/{}", fd)));
        if (auto inode = inode_of(link, "socket:[")) outside_sockets_.emplace(*inode, pid);
        auto inode = inode_of(link, "pipe:[");
        if (inode && own_pipes_.contains(*inode)) outside_pipes_.emplace(*inode, pid);
      }
    }
  }

  void check_descriptors(const Process& process) {
    for (const Descriptor& descriptor : descriptors_[process.handle.pid()]) {
      if (auto inode = inode_of(descriptor.link, "pipe:[")) {
        check_pipe(process, descriptor, *inode);
      } else if (auto socket = inode_of(descriptor.link, "socket:[")) {
        check_socket(process, descriptor, *socket);
      } else if (descriptor.link.starts_with("anon_inode:")) {
        check_anonymous(process, descriptor);
      } else if (descriptor.link.starts_with("/memfd:")) {
        check_memfd(process, descriptor);
      } else if (descriptor.link.starts_with("/")) {
        check_file(process, descriptor);
      }
    }
  }

  // An object of huge pages is not one of those that are moved, even where nobody maps it.
  void check_memfd(const Process& process, const Descriptor& descriptor) {
    struct statfs info{};
    const std::string path = proc_path(process.handle.pid(), fmt::format("fd/{}", descriptor.fd));
    if (statfs(path.c_str(), &info) == 0 && info.f_type == HUGETLBFS_MAGIC)
      add(TieKind::hugetlb, &process, descriptor.fd, descriptor.link);
  }

  // Listed once.
  const Result<std::vector<SharedObject>>& own_shared_objects() {
    if (own_shared_objects_) return *own_shared_objects_;
    std::vector<SpaceProcess> spaces;
    for (const Process& process : processes_) {
      if (auto space = space_of(process.handle.pid())) spaces.push_back(*space);
    }
    return own_shared_objects_.emplace(shared_objects(spaces));
  }

  // What processes share without a file moves with them, as long as nobody else has it and it can be written anew.
  void check_shared_objects() {
    const auto& objects = own_shared_objects();
    if (!objects) return add(TieKind::shared_memory, nullptr, -1, objects.error().what);
    std::map<SpaceId, const SharedObject*> ours;
    for (const SharedObject& object : *objects) {
      ours[object.space] = &object;
      if (object.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
        add(TieKind::sealed_memory, holder_of(object), object.fd, object.name);
    }
    if (ours.empty()) return;
    for (int pid : numbers_in("/proc")) {
      if (ours.empty() || is_ours(pid)) continue;
      auto other = space_of(pid);
      auto theirs =
          other ? shared_objects({&*other, 1}) : Result<std::vector<SharedObject>>(std::unexpected(other.error()));
      if (!theirs) continue;  // it has ended, or is the kernel's
      for (const SharedObject& object : *theirs) {
        auto it = ours.find(object.space);
        if (it == ours.end() || it->second->inode != object.inode) continue;
        // Every ipc namespace has its own segment of that number.
        if (object.system_v >= 0 && !in_our_ipc(pid)) continue;
        add(TieKind::shared_memory, holder_of(*it->second), it->second->fd,
            fmt::format("{}, which {}, pid {}, has too", object.name, command_of(pid), pid));
        ours.erase(it);
      }
    }
  }
  [[nodiscard]] bool in_our_ipc(int pid) const {
    auto process = ProcessHandle::open(pid);
    auto theirs = process ? open_namespace(*process, NamespaceKind::ipc) : Result<Fd>(std::unexpected(process.error()));
    auto own = open_namespace(*request_.init, NamespaceKind::ipc);
    if (!theirs || !own) return false;
    return same_namespace(theirs->get(), own->get()).value_or(false);
  }
  [[nodiscard]] const Process* holder_of(const SharedObject& object) const {
    for (const Process& process : processes_) {
      if (process.handle.pid() == object.holder.pid) return &process;
    }
    return nullptr;
  }

  void check_pipe(const Process& process, const Descriptor& descriptor, uint64_t inode) {
    auto holder = outside_pipes_.find(inode);
    if (holder == outside_pipes_.end()) return;
    add(TieKind::pipe, &process, descriptor.fd,
        fmt::format("{}, held by {}, pid {}", descriptor.link, command_of(holder->second), holder->second));
  }

  void check_socket(const Process& process, const Descriptor& descriptor, uint64_t inode) {
    auto facts = socket_facts(process.handle, descriptor.fd, netns_.get());
    if (!facts) return;  // closed meanwhile
    if (!facts->same_netns)
      return add(TieKind::foreign_socket, &process, descriptor.fd, descriptor.link + " of another network namespace");
    if (facts->family == AF_UNIX) {
      auto own = peers_.find(inode);
      if (auto holder = outside_sockets_.find(inode); holder != outside_sockets_.end()) {
        return add(
            TieKind::unix_socket, &process, descriptor.fd,
            fmt::format("{}, also held by {}, pid {}", descriptor.link, command_of(holder->second), holder->second));
      }
      if (own == peers_.end() || !own->second || own_sockets_.contains(*own->second)) return;
      auto holder = outside_sockets_.find(*own->second);
      std::string who = holder == outside_sockets_.end()
                            ? "a process that cannot be seen"
                            : fmt::format("{}, pid {}", command_of(holder->second), holder->second);
      return add(TieKind::unix_socket, &process, descriptor.fd,
                 fmt::format("{}, connected to {}", descriptor.link, who));
    }
    if (facts->family == AF_NETLINK) return;
    if (facts->family != AF_INET && facts->family != AF_INET6) {
      return add(TieKind::foreign_socket, &process, descriptor.fd,
                 fmt::format("{} of address family {}", descriptor.link, facts->family));
    }
    if (facts->type == SOCK_RAW || is_dumped(facts->protocol)) return;
    add(TieKind::foreign_socket, &process, descriptor.fd,
        facts->protocol == IPPROTO_MPTCP
            ? descriptor.link + " of Multipath TCP, which CRIU does not dump (a Go program: GODEBUG=multipathtcp=0)"
            : fmt::format("{} of protocol {}, which CRIU does not dump", descriptor.link, facts->protocol));
  }
  // Protocols over IP that CRIU 4.2 takes.
  [[nodiscard]] static bool is_dumped(int protocol) {
    return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE;
  }

  void check_anonymous(const Process& process, const Descriptor& descriptor) {
    std::string_view name = std::string_view(descriptor.link).substr(11);
    if (name.starts_with("[") && name.ends_with("]")) name = name.substr(1, name.size() - 2);
    for (std::string_view movable : {"eventpoll", "eventfd", "timerfd", "signalfd", "inotify", "pidfd"}) {
      if (name == movable) return;
    }
    TieKind kind = name == "io_uring"      ? TieKind::io_uring
                   : name == "userfaultfd" ? TieKind::userfaultfd
                                           : TieKind::special_descriptor;
    add(kind, &process, descriptor.fd, std::string(name));
  }

  // A server opens and closes files all the time: what had this number when the list was made may be closed by now, and
  // the number a socket's. So the file is held while it is asked, and says itself what it is.
  void check_file(const Process& process, const Descriptor& listed) {
    auto held = open_file(proc_path(process.handle.pid(), fmt::format("fd/{}", listed.fd)), O_PATH | O_CLOEXEC);
    if (!held) {
      if (held.error().code == ENOENT || held.error().code == ESRCH) return;  // closed meanwhile
      return add(TieKind::special_descriptor, &process, listed.fd, listed.link + " (" + held.error().what + ")");
    }
    const Descriptor descriptor{listed.fd, link_of(proc_path(::getpid(), fmt::format("fd/{}", held->get())))};
    struct stat info;
    if (!descriptor.link.starts_with("/") || descriptor.link.starts_with("/memfd:")) return;
    if (fstat(held->get(), &info) != 0) return;
    if (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode)) {
      unsigned high = major(info.st_rdev), low = minor(info.st_rdev);
      if (S_ISCHR(info.st_mode) && is_terminal(high))
        return add(TieKind::terminal, &process, descriptor.fd, descriptor.link);
      if (S_ISCHR(info.st_mode) && harmless_device(high, low)) return;
      return add(TieKind::device, &process, descriptor.fd, descriptor.link);
    }
    auto mount = mount_of_descriptor(::getpid(), held->get());
    if (mount && !mount_ids_.contains(*mount))
      return add(TieKind::outside_file, &process, descriptor.fd, descriptor.link);
    if (!S_ISFIFO(info.st_mode)) return;
    held->reset();  // or we would be found as its other end
    for (int pid : numbers_in("/proc")) {
      if (is_ours(pid)) continue;
      for (int fd : numbers_in(proc_path(pid, "fd"))) {
        struct stat other;
        if (stat(proc_path(pid, fmt::format("fd/{}", fd)).c_str(), &other) != 0 || other.st_ino != info.st_ino ||
            other.st_dev != info.st_dev)
          continue;
        return add(TieKind::pipe, &process, descriptor.fd,
                   fmt::format("{}, held by {}, pid {}", descriptor.link, command_of(pid), pid));
      }
    }
  }

  void check_memory(const Process& process) {
    auto vmas = read_vmas(process.handle.pid());
    if (!vmas) return;
    uint64_t locked = 0, huge = 0;
    std::set<std::string> outside, odd;
    for (const Vma& vma : *vmas) {
      if (vma.locked) locked += vma.pages.count;
      if (vma.hugetlb) huge += vma.pages.count;
      bool file = vma.name.starts_with("/");
      bool memory_file = vma.name.starts_with("/memfd:") || vma.name.starts_with("/dev/zero") ||
                         vma.name.starts_with("/SYSV") || vma.name.starts_with("/anon_hugepage");
      if (vma.name.starts_with("/secretmem") || vma.name.starts_with("anon_inode:")) {
        odd.insert(vma.name);
      } else if (vma.name == "/[aio] (deleted)" || vma.name == "[aio]") {
        odd.insert("a ring of asynchronous I/O (io_setup)");
      } else if (file && !memory_file) {
        auto mount = mount_of_mapping(process.handle.pid(), vma);
        if (mount && !mount_ids_.contains(*mount)) outside.insert(vma.name);
      }
    }
    for (const std::string& name : outside) add(TieKind::outside_file, &process, -1, name);
    for (const std::string& name : odd) add(TieKind::odd_memory, &process, -1, name);
    if (huge != 0) add(TieKind::hugetlb, &process, -1, fmt::format("{} MiB", huge * kPageSize >> 20));
    if (locked > kLockedPagesMax)
      add(TieKind::locked_memory, &process, -1, fmt::format("{} KiB", locked * kPageSize >> 10));
  }

  const InspectRequest& request_;
  std::vector<Process> processes_;
  std::set<pid_t> tree_pids_;
  Fd netns_;
  UnixPeers peers_;
  std::vector<MountEntry> mounts_;
  std::set<int> mount_ids_;
  std::map<pid_t, std::vector<Descriptor>> descriptors_;
  std::set<uint64_t> own_sockets_, own_pipes_;
  std::map<uint64_t, pid_t> outside_sockets_, outside_pipes_;  // inode -> one process outside that holds it
  std::optional<Result<std::vector<SharedObject>>> own_shared_objects_;
  std::vector<Tie> ties_;
};

}  // namespace

Result<std::vector<Tie>> inspect_ties(const InspectRequest& request) {
  return Inspection(request).run();
}

}  // namespace mose
