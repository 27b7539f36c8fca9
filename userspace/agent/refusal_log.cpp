// SPDX-License-Identifier: MIT
#include "agent/refusal_log.h"

#include "base/log.h"

namespace mose::agent {

const char* to_string(RefusalKind kind) {
  switch (kind) {
    case RefusalKind::silent:
      return "silent";
    case RefusalKind::crowded:
      return "crowded";
    case RefusalKind::handshake:
      return "handshake";
    case RefusalKind::hello:
      return "hello";
    case RefusalKind::identity:
      return "identity";
    case RefusalKind::version:
      return "version";
    case RefusalKind::access:
      return "access";
    case RefusalKind::local:
      return "local";
  }
  return "?";
}

void RefusalLog::add(RefusalKind kind, const std::string& sentence, const std::string& peer, const std::string& node, const std::string& reason) {
  ++counts_[static_cast<size_t>(kind)];
  if (timer_ == 0) timer_ = loop_.after(kWindow, [this] { end_window(); });
  if (++count_ > kLinesMax) return;
  if (node.empty()) return log::warn(sentence, {{"peer", peer}, {"reason", reason}});
  log::warn(sentence, {{"peer", peer}, {"node", node}, {"reason", reason}});
}

void RefusalLog::end_window() {
  timer_ = 0;
  if (count_ > kLinesMax) log::warn("more connections were refused than are told singly", {{"not_told", count_ - kLinesMax}});
  count_ = 0;
}

}  // namespace mose::agent
