// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "model/page_set.h"
#include "restore/image_fields.h"

namespace mose::restore {

// A warm standby is a tree restored from an early dump and frozen before its first instruction. When the workload has
// stopped for good, its final dump is compared with the early one: what differs is either known here as something that
// can be changed in the standby from outside (refresh_standby), or it is a reason to restore anew.
//
// The list is one of what may differ, not of what may not: fields, files and kinds of files that nobody here knows must
// be equal byte for byte. Everything comes from the network and is checked; nothing is touched.

// Of an open file: those that fcntl() can change later.
inline constexpr uint32_t kChangeableFlags = O_APPEND | O_NONBLOCK;
// State components of the processor that every thread has: x87 and SSE.
inline constexpr uint64_t kLegacyComponents = 3;

// One descriptor through which an open file can be reached in the standby; a file that several share is changed once.
struct StandbyDescriptor {
  SpaceId space = 0;
  int number = -1;
};

struct StandbyThread {
  SpaceId space = 0;
  uint32_t tid = 0;  // virtual
  // Of the general registers in the order of the kernel's user_regs_struct.
  static constexpr size_t kRegisters = 27;
  std::array<uint64_t, kRegisters> registers{};
  // The first 512 bytes as FXSAVE makes them, then the state components that are in use, by their number.
  std::array<std::byte, 512> fxsave{};
  struct Component {
    unsigned number = 0;
    std::vector<std::byte> bytes;
  };
  std::vector<Component> components;
  uint64_t signal_mask = 0;
};

// An established connection. Sequence numbers and queues as in CRIU's image: `in_sequence` and `out_sequence` are those
// behind the queues' last bytes.
struct StandbyConnection {
  StandbyDescriptor descriptor;
  bool ipv6 = false;
  std::array<uint8_t, 16> local{}, remote{};  // 4 bytes in use unless ipv6
  uint16_t local_port = 0, remote_port = 0;
  uint32_t in_sequence = 0, out_sequence = 0;
  uint32_t options = 0;  // TCPI_OPT_*
  uint32_t send_scale = 0, receive_scale = 0, mss = 0, timestamp = 0;
  struct Window {
    uint32_t send_wl1 = 0, send_window = 0, max_window = 0, receive_window = 0, receive_wup = 0;
  };
  std::optional<Window> window;
  uint32_t send_buffer = 0, receive_buffer = 0, buffer_lock = 0;
  bool reuse_address = false;
  std::string_view in_queue, sent, unsent;
};

// A connection in any other state: equal in both dumps, quieted with the others all the same.
struct StandbyRestingConnection {
  StandbyDescriptor descriptor;
  bool reuse_address = false;
};

struct StandbyFile {
  StandbyDescriptor descriptor;
  std::string path;                  // as the workload sees it
  std::optional<uint64_t> position;  // regular files
  std::optional<uint64_t> size;      // that the file must have by now
  bool regular = false;              // must be the file that `path` names now
};
struct StandbyStatusFlags {
  StandbyDescriptor descriptor;
  uint32_t flags = 0;  // O_APPEND and O_NONBLOCK
};
struct StandbyEventfd {
  StandbyDescriptor descriptor;
  uint64_t early = 0, final = 0;
};
struct StandbyPipe {
  StandbyDescriptor descriptor;
  size_t early_bytes = 0;
  std::string_view contents;
};
struct StandbyTimer {
  StandbyDescriptor descriptor;
  int clock = 0;
  bool absolute = false;
  uint64_t ticks = 0;
  uint64_t value_ns = 0, interval_ns = 0;  // value: what was left; 0: not armed
};

// What an epoll waits for, by the number of the descriptor that it was told.
struct StandbyWatch {
  enum class Change : uint8_t { added, removed, modified };
  StandbyDescriptor epoll;
  Change change = Change::modified;
  int target = -1;
  uint32_t events = 0;  // EPOLL*
  uint64_t data = 0;
};

// Pages that lie in the final images with other contents than in the early ones.
struct StandbyPages {
  SpaceId space = 0;
  PageRun run;
  std::string_view contents;  // empty: zeros
};

struct StandbyClocks {
  uint64_t monotonic_ns = 0, boottime_ns = 0;
};

// Views point into the final ImageSet, which must outlive this.
struct StandbyDelta {
  std::vector<std::pair<SpaceId, uint32_t>> processes;  // virtual pid, number of threads
  std::vector<StandbyThread> threads;                   // all
  std::vector<StandbyConnection> connections;           // all established ones
  std::vector<StandbyRestingConnection> resting;        // all others that are neither listening nor closed
  std::vector<StandbyDescriptor> unconnected;           // TCP sockets that are: never quieted
  std::vector<StandbyFile> files;                       // all regular files and those whose position is another
  std::vector<StandbyStatusFlags> status_flags;
  std::vector<StandbyEventfd> eventfds;
  std::vector<StandbyPipe> pipes;
  std::vector<StandbyTimer> timers;
  std::vector<StandbyWatch> watches;
  std::vector<StandbyPages> pages;
  std::optional<StandbyClocks> clocks;  // what the workload's clocks showed at the final dump
};

enum class StandbyMemory : uint8_t {
  eager,  // pages that can come lazily are somebody else's business; one in the images is an error
  all,    // the images hold every page, the standby has no userfaultfd
};

// An error: one sentence with the first difference that cannot be applied, or what is wrong with the images. With the
// early images on both sides it tells whether a standby made from them can be refreshed at all.
[[nodiscard]] Result<StandbyDelta> compare_images(const ImageSet& early, const ImageSet& final, StandbyMemory memory);

}  // namespace mose::restore
