// SPDX-License-Identifier: MIT
#include "agent/journal_disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/durable_file.h"
#include "base/directory.h"
#include "base/fd.h"

namespace mose::agent {
namespace {

class HostFile : public JournalFile {
 public:
  HostFile(Fd file, std::string path, bool named) : file_(std::move(file)), path_(std::move(path)), named_(named) {}

  Status write_at(size_t offset, std::string_view bytes) override {
    if (lseek(file_.get(), static_cast<off_t>(offset), SEEK_SET) < 0) return fail_errno("seek");
    return write_all(file_.get(), bytes);
  }
  Status truncate(size_t bytes) override {
    if (ftruncate(file_.get(), static_cast<off_t>(bytes)) != 0) return fail_errno("truncate");
    return {};
  }
  Status sync_data() override {
    if (fdatasync(file_.get()) != 0) return fail_errno("fsync");
    return {};
  }
  Status sync() override {
    if (fsync(file_.get()) != 0) return fail_errno("fsync");
    return {};
  }
  Status publish() override {
    if (named_) return {};
    std::string here = "/proc/self/fd/" + std::to_string(file_.get());
    if (linkat(AT_FDCWD, here.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) != 0) return fail_errno("link");
    named_ = true;
    return {};
  }

 private:
  Fd file_;
  std::string path_;
  bool named_;
};

class HostDisk : public JournalDisk {
 public:
  Result<std::unique_ptr<JournalFile>> create(const std::string& path) override {
    const std::string directory = path.substr(0, path.rfind('/'));
    if (Fd unnamed(::open(directory.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600)); unnamed) {
      return std::make_unique<HostFile>(std::move(unnamed), path, false);
    }
    // Not every file system has files without a name.
    MOSE_ASSIGN(Fd named, open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
    return std::make_unique<HostFile>(std::move(named), path, true);
  }
  Result<std::unique_ptr<JournalFile>> open(const std::string& path) override {
    MOSE_ASSIGN(Fd file, open_file(path, O_WRONLY));
    return std::make_unique<HostFile>(std::move(file), path, true);
  }
  Result<std::string> read(const std::string& path, size_t bytes_max) override { return read_file(path, bytes_max); }
  Result<std::vector<std::string>> list(const std::string& directory) override {
    std::vector<std::string> names;
    Directory dir = open_directory(directory);
    if (!dir) {
      if (errno == ENOENT) return names;
      return fail_errno("read " + directory);
    }
    // Half of them would be worse than none: what is not named here counts as never begun.
    errno = 0;
    while (dirent* item = readdir(dir.get())) names.emplace_back(item->d_name);
    if (errno != 0) return fail_errno("read " + directory);
    return names;
  }
  Status remove(const std::string& path) override {
    if (unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno("remove " + path);
    return {};
  }
  Status sync_directory(const std::string& directory) override { return agent::sync_directory(directory); }
};

}  // namespace

JournalDisk& host_disk() {
  static HostDisk disk;
  return disk;
}

}  // namespace mose::agent
