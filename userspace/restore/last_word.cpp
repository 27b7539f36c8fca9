// SPDX-License-Identifier: MIT
#include "restore/last_word.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "base/fd.h"
#include "restore/pager_messages.h"

namespace mose::restore {

std::string last_word_path(const std::string& socket_path) { return socket_path + ".complete"; }

Status write_last_word(const std::string& socket_path, const PagerStatus& status) {
  const std::string path = last_word_path(socket_path), next = path + ".new";
  MOSE_ASSIGN(Fd fd, open_file(next, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  MOSE_TRY(write_all(fd.get(), write_report(PagerEventKind::status, status).SerializeAsString()));
  if (::rename(next.c_str(), path.c_str()) != 0) return fail_errno("rename " + next);
  return {};
}

Result<PagerStatus> read_last_word(const std::string& socket_path) {
  const std::string path = last_word_path(socket_path);
  MOSE_ASSIGN(std::string bytes, read_file(path, kPagerFrameMax));
  pager::v1::PagerReport report;
  PagerStatus status;
  PagerEvent event;
  if (!report.ParseFromString(bytes) || !read_report(report, status, event) || status.phase != PagerPhase::complete)
    return fail(path + " is damaged");
  return status;
}

void remove_last_word(const std::string& socket_path) { (void)::unlink(last_word_path(socket_path).c_str()); }

}  // namespace mose::restore
