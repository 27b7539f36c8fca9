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
#include "move/key_file.h"

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

bool is_missing(const Result<std::string>& file) { return !file && file.error().code == ENOENT; }

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
  const std::string certificate_path = directory.file("ca.crt"), key_path = directory.file("ca.key");
  auto certificate = read_file(certificate_path, kAuthorityMax);
  auto key = move::read_key_file(key_path);
  if (is_missing(certificate) && is_missing(key)) {
    return fail(fmt::format("there is no authority in {}: make one with `mose pki init`, or name its directory with --dir", directory.path));
  }
  if (is_missing(certificate)) {
    return fail(fmt::format("{} is not there, and {} is: put it back (every node has a copy), or run `mose pki init` again if that never came to its end",
                            certificate_path, key_path));
  }
  if (!certificate) return std::unexpected(certificate.error());
  if (is_missing(key)) {
    return fail(fmt::format("{} is not there, and nothing is signed without it: where the key of {} is kept elsewhere, bring it back for as long as this takes",
                            key_path, certificate_path));
  }
  if (!key) return std::unexpected(key.error());
  auto authority = move::Authority::load(*certificate, *key);
  explicit_bzero(key->data(), key->size());
  return authority ? std::move(authority) : Result<move::Authority>(context(directory.path, authority.error()));
}

}  // namespace mose::cli
