// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

// What the standby workload and its client agree on.
namespace mose::test {

inline constexpr uint16_t kPort4 = 7000, kPort6 = 7001;
inline constexpr size_t kTail = 3000;  // more bytes behind the answer to every eighth number
inline constexpr uint64_t kCommand = uint64_t{1} << 62;
inline constexpr uint64_t kOpenFile = kCommand + 1, kMap = kCommand + 2, kThread = kCommand + 3,
                          kHandler = kCommand + 4, kCloseFile = kCommand + 5, kTimer = kCommand + 6,
                          kUmask = kCommand + 7, kWatch = kCommand + 12;
// No changes. kConnect: a socket that has been there from the start connects to kPortBack at the client, sends
// kTailBack bytes and is closed. kKeep: the connection that asked stays open at its end, until another one says
// kEndKept: then it gets kTailBack bytes and is closed.
inline constexpr uint64_t kConnect = kCommand + 9, kKeep = kCommand + 10, kEndKept = kCommand + 11;
// The connection that asked is heard no more, by what the epoll waits for or by what is in it at all, until one says kHearAll.
inline constexpr uint64_t kMute = kCommand + 13, kUnwatch = kCommand + 14, kHearAll = kCommand + 15;
// Or it is waited for in a way that the kernel lets nobody change.
inline constexpr uint64_t kExclusive = kCommand + 17;  // no multiple of 8: those have a tail
inline constexpr uint16_t kPortBack = 7100;
inline constexpr size_t kTailBack = 5000;

}  // namespace mose::test
