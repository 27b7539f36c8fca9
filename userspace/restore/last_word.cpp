// SPDX-License-Identifier: MIT
#include "restore/last_word.h"

#include <unistd.h>

#include "base/fd.h"
#include "restore/pager_messages.h"

namespace mose::restore {

std::string last_word_path(const std::string& socket_path) { return socket_path + ".complete"; }

Status write_last_word(const std::string& socket_path, const PagerStatus& status) {
  return write_whole_file(last_word_path(socket_path), write_report(PagerEventKind::status, status).SerializeAsString());
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
