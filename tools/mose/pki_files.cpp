// SPDX-License-Identifier: MIT
#include "mose/pki_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "agent/durable_file.h"
#include "base/rollback.h"

namespace mose::cli {
namespace {

constexpr size_t kAuthorityMax = 1u << 20;

std::string fresh(const NewFile& file) { return file.path + ".new"; }

Status write_fresh(const NewFile& file) {
  const std::string path = fresh(file);
  // Of a command that was broken off.
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno("remove " + path);
  MOSE_ASSIGN(Fd out, open_file(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, file.mode));
  if (fchmod(out.get(), file.mode) != 0) return fail_errno("chmod " + path);
  if (auto written = write_all(out.get(), file.text); !written) return context(path, written.error());
  if (fsync(out.get()) != 0) return fail_errno("sync " + path);
  return {};
}

}  // namespace

Status replace_files(const std::vector<NewFile>& files) {
  Rollback undo;
  for (const NewFile& file : files) {
    undo.push([path = fresh(file)] { unlink(path.c_str()); });
    MOSE_TRY(write_fresh(file));
  }
  for (const NewFile& file : files) {
    if (rename(fresh(file).c_str(), file.path.c_str()) != 0) return fail_errno("rename to " + file.path);
    MOSE_TRY(agent::sync_directory(file.path.substr(0, file.path.rfind('/') + 1)));
  }
  undo.commit();
  return {};
}

Result<Fd> lock_directory(const PkiDirectory& directory) {
  MOSE_ASSIGN(Fd lock, open_file(directory.path, O_RDONLY | O_DIRECTORY));
  while (flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return fail_errno("lock " + directory.path);
  }
  return lock;
}

Result<move::Authority> load_authority(const PkiDirectory& directory) {
  auto certificate = read_file(directory.file("ca.crt"), kAuthorityMax);
  auto key = certificate ? read_file(directory.file("ca.key"), kAuthorityMax) : Result<std::string>(std::unexpected(certificate.error()));
  if (!key) return fail(fmt::format("there is no authority in {} ({}): make one with `mose pki init`, or name its directory with --dir", directory.path, key.error().what));
  auto authority = move::Authority::load(*certificate, *key);
  explicit_bzero(key->data(), key->size());
  return authority;
}

}  // namespace mose::cli
