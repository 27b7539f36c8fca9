// SPDX-License-Identifier: MIT
#include "restore/guardian_file.h"

#include <unistd.h>

#include <charconv>
#include <string_view>

#include "base/fd.h"

namespace mose::restore {
namespace {

constexpr size_t kFileMax = 8192;

bool parse_line(std::string_view line, GuardianName& out) {
  const char* end = line.data() + line.size();
  auto [space, error] = std::from_chars(line.data(), end, out.pid);
  if (error != std::errc() || out.pid == 0 || space == end || *space != ' ') return false;
  auto [rest, second] = std::from_chars(space + 1, end, out.start_time);
  return second == std::errc() && rest == end;
}

}  // namespace

std::string guardian_path(const std::string& socket_path) { return socket_path + ".guardian"; }

Result<GuardianList> read_guardians(const std::string& socket_path) {
  MOSE_ASSIGN(std::string text, read_file(guardian_path(socket_path), kFileMax));
  GuardianList list;
  bool first = true;
  for (std::string_view rest = text; !rest.empty();) {
    size_t end = rest.find('\n');
    GuardianName name;
    if (end == std::string_view::npos || !parse_line(rest.substr(0, end), name) || list.stale.size() == kGuardiansMax)
      return fail(guardian_path(socket_path) + " is damaged");
    rest.remove_prefix(end + 1);
    if (std::exchange(first, false)) {
      list.current = name;
    } else {
      list.stale.push_back(name);
    }
  }
  if (first) return fail(guardian_path(socket_path) + " is empty");
  return list;
}

Status write_guardians(const std::string& socket_path, const GuardianList& list) {
  std::string text;
  auto add = [&](const GuardianName& name) {
    text += std::to_string(name.pid) + " " + std::to_string(name.start_time) + "\n";
  };
  add(list.current);
  for (const GuardianName& name : list.stale) add(name);
  return write_whole_file(guardian_path(socket_path), text);
}

void remove_guardians(const std::string& socket_path) { (void)::unlink(guardian_path(socket_path).c_str()); }

Result<GuardianName> read_guardian_file(const std::string& socket_path) {
  MOSE_ASSIGN(GuardianList list, read_guardians(socket_path));
  return list.current;
}

}  // namespace mose::restore
