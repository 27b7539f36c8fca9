// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

// CRIU's RPC as bytes: one message per packet of the swrk socket. Pure functions.
namespace mose::restore {

struct DumpMessage {
  int images_dir_fd = -1;  // number of the descriptor in our process
  pid_t pid = 0;
  std::string freeze_cgroup;
  std::vector<std::string> externals;
  int log_level = 1;
};
struct RestoreMessage {
  int images_dir_fd = -1;
  std::string root;
  std::vector<std::string> externals;
  bool lazy_pages = true;
  int log_level = 1;
};
[[nodiscard]] std::string encode_dump(const DumpMessage& message);
[[nodiscard]] std::string encode_restore(const RestoreMessage& message);
[[nodiscard]] std::string encode_hook_answer(bool ok);

struct CriuMessage {
  bool is_hook = false;
  std::string hook;       // hook: its name
  pid_t pid = 0;          // hook: the process it is about; restore: the new first process; 0 when there is none
  bool success = false;   // answer. CRIU may give an error text with a success: the text then means nothing
  int error = 0;
  std::string error_text;
};
[[nodiscard]] Result<CriuMessage> decode_criu_message(std::string_view bytes);

// Names of the logs that dump and restore leave in the images directory.
inline constexpr const char* kDumpLog = "dump.log";
inline constexpr const char* kRestoreLog = "restore.log";

}  // namespace mose::restore
