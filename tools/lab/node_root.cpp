// SPDX-License-Identifier: MIT
#include "lab/node_root.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "base/fd.h"
#include "kernel/spawn.h"
#include "lab/child_process.h"

namespace mose::lab {
namespace {

namespace fs = std::filesystem;

constexpr Nanoseconds kLddBound = std::chrono::seconds(20);
constexpr const char* kDirectories[] = {
    "dev/net", "etc/mose/conf.d", "etc/mose/workloads.d", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr/bin",
    "usr/sbin", "usr/lib", "usr/lib64", "usr/libexec/mose", "var/lib/mose", "var/lib/redis", "var/log/mose-workload",
    "var/tmp", "mnt"};
// Since the merge of /usr these are links on every Debian that we run on.
constexpr const char* kMerged[] = {"bin", "sbin", "lib", "lib64"};
constexpr const char* kCommands[] = {"mosed", "mose"};
constexpr const char* kHelpers[] = {"mose-exec", "mose-init", "mose-holder", "mose-throttle", "mose-pager", "mose-lab-keeper", "libmose-criu-preload.so", "libmose-lab-pipe-limit.so"};
// Of the host: the scenario's server, and what a person or a test wants in a shell. None but the first is needed.
constexpr const char* kHostPrograms[] = {"redis-server", "redis-cli", "bash", "sh",    "ls",   "cat",    "sleep", "ps",
                                         "kill",         "id",        "mkdir", "rm",   "cp",   "mv",     "touch", "env",
                                         "sha256sum",    "tail",      "head",  "grep", "ip",   "ss",     "dd",    "true",
                                         "false",        "tee",   "stat", "mount", "umount", "readlink"};
constexpr const char* kHostFiles[] = {"/etc/passwd", "/etc/group",       "/etc/nsswitch.conf", "/etc/ld.so.cache",
                                      "/etc/ld.so.conf", "/etc/localtime", "/etc/services",    "/etc/os-release"};
struct DeviceNode {
  const char* path;
  unsigned major, minor;
};
constexpr DeviceNode kDevices[] = {{"dev/null", 1, 3},    {"dev/zero", 1, 5}, {"dev/full", 1, 7},    {"dev/random", 1, 8},
                                   {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},  {"dev/ptmx", 5, 2}, {"dev/net/tun", 10, 200}};

class RootBuilder {
 public:
  explicit RootBuilder(std::string root) : root_(std::move(root)) {}

  Status skeleton() {
    for (const char* dir : kDirectories) MOSE_TRY(make_directories(root_ / dir));
    for (const char* name : kMerged) {
      if (::symlink((std::string("usr/") + name).c_str(), (root_ / name).c_str()) != 0) return fail_errno("symlink");
    }
    ::chmod((root_ / "tmp").c_str(), 01777);
    for (const DeviceNode& d : kDevices) {
      std::string path = root_ / d.path;
      if (::mknod(path.c_str(), S_IFCHR | 0666, makedev(d.major, d.minor)) != 0) return fail_errno("mknod " + path);
      ::chmod(path.c_str(), 0666);
    }
    return {};
  }

  // A regular file, links followed, with its mode and times (CRIU compares size, MOSE size and build-id).
  Status copy(const fs::path& source, const fs::path& inside) {
    fs::path target = root_ / inside.relative_path();
    MOSE_TRY(make_directories(target.parent_path()));
    MOSE_ASSIGN(auto in, open_file(source, O_RDONLY));
    struct stat info;
    if (::fstat(in.get(), &info) != 0) return fail_errno("fstat " + source.string());
    auto out = open_file(target, O_WRONLY | O_CREAT | O_TRUNC, info.st_mode & 07777);
    if (!out) return std::unexpected(out.error());
    for (off_t left = info.st_size; left > 0;) {
      ssize_t n = ::copy_file_range(in.get(), nullptr, out->get(), nullptr, static_cast<size_t>(left), 0);
      if (n <= 0) return fail_errno("copy " + source.string());
      left -= n;
    }
    timespec times[2] = {info.st_atim, info.st_mtim};
    ::futimens(out->get(), times);
    return {};
  }

  // The program and everything that the dynamic loader would load with it. What is there already stays: whoever runs from
  // it would be hurt by being written over.
  Status copy_program(const fs::path& source, const fs::path& inside) {
    if (!has(inside)) MOSE_TRY(copy(source, inside));
    MOSE_ASSIGN(auto libraries, needed_libraries(source));
    for (const std::string& library : libraries) {
      if (!has(library)) MOSE_TRY(copy(library, library));
    }
    return {};
  }

  Status copy_tree(const fs::path& source) {
    std::error_code error;
    MOSE_TRY(make_directories(root_ / source.relative_path().parent_path()));
    fs::copy(source, root_ / source.relative_path(), fs::copy_options::recursive | fs::copy_options::copy_symlinks, error);
    if (error) return fail_errno("copy " + source.string(), error.value());
    return {};
  }

  Status write(const fs::path& inside, const std::string& text, mode_t mode = 0644) {
    fs::path target = root_ / inside.relative_path();
    MOSE_TRY(make_directories(target.parent_path()));
    MOSE_ASSIGN(auto out, open_file(target, O_WRONLY | O_CREAT | O_TRUNC, mode));
    return write_all(out.get(), text);
  }

 private:
  [[nodiscard]] bool has(const fs::path& inside) const { return ::access((root_ / inside.relative_path()).c_str(), F_OK) == 0; }

  static Status make_directories(const fs::path& path) {
    std::error_code error;
    fs::create_directories(path, error);
    if (error) return fail_errno("mkdir " + path.string(), error.value());
    return {};
  }

  // ldd runs the loader of the program itself: what it names is what will be loaded. A static program has none.
  static Result<std::vector<std::string>> needed_libraries(const fs::path& program) {
    ProgramSpec spec;
    spec.argv = {"ldd", program};
    MOSE_ASSIGN(auto result, run_program(spec, "", kLddBound));
    std::vector<std::string> out;
    std::istringstream lines(result.out);
    for (std::string line; std::getline(lines, line);) {
      if (line.find("not found") != std::string::npos) return fail(program.string() + " lacks a library:" + line);
      size_t slash = line.find('/'), end = line.find(" (0x");
      if (slash != std::string::npos && end != std::string::npos && slash < end) out.push_back(line.substr(slash, end - slash));
    }
    return out;
  }

  fs::path root_;
};

std::string find_on_host(const char* name) {
  for (const char* dir : {"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/local/bin/"}) {
    std::string path = std::string(dir) + name;
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  return {};
}

Status copy_ours(RootBuilder& builder) {
  for (const char* name : kCommands) {
    auto path = helper_path(name);
    // Parts of MOSE may be missing while one of them is built and tested alone; what needs them says so itself.
    if (path) MOSE_TRY(builder.copy_program(*path, std::string("/usr/bin/") + name));
  }
  for (const char* name : kHelpers) {
    auto path = helper_path(name);
    if (path) MOSE_TRY(builder.copy_program(*path, std::string("/usr/libexec/mose/") + name));
  }
  return {};
}

}  // namespace

Status fill_node_root(const RootRequest& request) {
  RootBuilder builder(request.root);
  MOSE_TRY(builder.skeleton());
  for (const char* file : kHostFiles) {
    if (::access(file, R_OK) == 0) MOSE_TRY(builder.copy(file, file));
  }
  MOSE_TRY(builder.write("/etc/hostname", request.node + "\n"));
  MOSE_TRY(builder.write("/etc/hosts", "127.0.0.1 localhost " + request.node + "\n"));
  MOSE_TRY(builder.write("/etc/mose/mose.toml", request.config));
  for (const auto& [name, pem] : request.certificates) MOSE_TRY(builder.write(fs::path(kPkiDirectory) / name, pem, 0600));
  for (const char* name : kHostPrograms) {
    std::string path = find_on_host(name);
    if (!path.empty()) MOSE_TRY(builder.copy_program(path, path));
  }
  const char* prefix = std::getenv("MOSE_PREFIX");
  std::string criu = std::string(prefix ? prefix : "/opt/mose") + "/criu";
  if (::access(criu.c_str(), R_OK) == 0) MOSE_TRY(builder.copy_tree(criu));
  return copy_ours(builder);
}

Status add_to_node_root(const std::string& root, const RootAdditions& additions) {
  RootBuilder builder(root);
  for (const std::string& program : additions.programs) MOSE_TRY(builder.copy_program(program, program));
  for (const std::string& tree : additions.trees) MOSE_TRY(builder.copy_tree(tree));
  return {};
}

Status remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return fail_errno("remove " + path, error.value());
  return {};
}

}  // namespace mose::lab
