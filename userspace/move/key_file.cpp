// SPDX-License-Identifier: MIT
#include "move/key_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/fd.h"

namespace mose::move {
namespace {

constexpr size_t kKeyFileMax = 1u << 20;

Status check_closed(const struct stat& status, const std::string& path) {
  const bool others_own = status.st_uid != 0 && status.st_uid != geteuid();
  if (!others_own && (status.st_mode & (S_IRWXG | S_IRWXO)) == 0) return {};
  return fail_errno("the key " + path + " can be read or written by others: " + (others_own ? "chown root " + path + " && " : "") + "chmod 600 " + path, EPERM);
}

}  // namespace

Result<std::string> read_key_file(const std::string& path) {
  MOSE_ASSIGN(Fd file, open_file(path, O_RDONLY));
  struct stat status{};
  if (fstat(file.get(), &status) != 0) return fail_errno("stat " + path);
  MOSE_TRY(check_closed(status, path));
  // Straight into what is wiped afterwards: a text that grows leaves its smaller selves behind.
  std::string pem(std::min(static_cast<size_t>(status.st_size), kKeyFileMax), '\0');
  size_t have = 0;
  while (have < pem.size()) {
    const ssize_t got = ::read(file.get(), pem.data() + have, pem.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno("read " + path);
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  return pem;
}

}  // namespace mose::move
