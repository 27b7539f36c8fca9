// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "model/page_set.h"

namespace mose::restore {

// The socket on which `criu restore --lazy-pages` hands over the userfaultfd of every restored process. Nothing is ever
// sent to CRIU.
//
// Protocol, as the restored tasks write it one after the other on one stream: int32 virtual pid; when it is positive
// one byte with the userfaultfd as SCM_RIGHTS, when negative a zombie and no descriptor; after the last task the word
// "RSTF": all of memory has been mapped and registered; then end of stream. An end without that word is a failed restore.
//
// Life: listen() before the RESTORE request (CRIU fails when nobody listens); poll fd(), call receive() when it is
// readable: first it accepts the one connection and stops to listen, then it gives what has arrived.
class LazySocket {
 public:
  struct Task {
    SpaceId space;
    Fd uffd;
  };
  struct Zombie {
    SpaceId space;
  };
  struct Finished {};          // RSTF
  struct Ended {               // end of the stream, or something that no CRIU writes
    std::string reason;        // empty: a plain end
  };
  using Message = std::variant<Task, Zombie, Finished, Ended>;

  // `directory` is CRIU's work directory; a socket file left there is replaced.
  [[nodiscard]] static Result<LazySocket> listen(const std::string& directory);

  // The listener, then the connection; changes once, in receive(). -1 after the end.
  [[nodiscard]] int fd() const { return connection_.valid() ? connection_.get() : listener_.get(); }
  [[nodiscard]] bool connected() const { return connection_.valid(); }
  // Everything that can be read without blocking, in order.
  [[nodiscard]] std::vector<Message> receive();

 private:
  LazySocket(Fd listener, Fd directory) : listener_(std::move(listener)), directory_(std::move(directory)) {}
  [[nodiscard]] Status accept_one();
  // One message, or nothing when more bytes must come.
  enum class Step : uint8_t { message, more, end };
  [[nodiscard]] Step step(std::vector<Message>& out);

  Fd listener_;
  Fd directory_;
  Fd connection_;
  uint8_t word_[4] = {};
  size_t word_size_ = 0;
  bool wants_fd_ = false;
  SpaceId space_ = 0;
};

inline constexpr std::string_view kLazySocketName = "lazy-pages.socket";

}  // namespace mose::restore
