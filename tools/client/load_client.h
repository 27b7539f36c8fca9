// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "client/connection.h"
#include "client/figures.h"
#include "client/key_choice.h"
#include "client/rate_stream.h"

// The client of the experiments: keeps connections to a Redis server under load while the server is moved, and knows
// afterwards what its users went through and whether any of their data suffered.
//
// Life: fill() once, start(); then for each move begin_window(), the move, end_window(), verify(); pause() and resume()
// between. The connections stay the same through all moves; one that has ended is made anew at the next
// begin_window() (its end is counted in the window in which it came). One thread; poll() does the work and must be
// called all the time while the load runs, which serve() (commands.h) does.
namespace mose::client {

struct LoadOptions {
  Endpoint server;
  uint32_t workers = 16;           // closed-loop connections
  uint32_t probes = 2;             // open-loop connections
  uint32_t worker_interval_ms = 20;
  double megabytes = 10;           // data set, about, in the server's memory
  uint32_t value_bytes = 1000;
  uint64_t seed = 1;
  // Requests per second over all connections but the probes', instead of the closed loop; absent: closed loop. They are
  // pipelined: what is due in a millisecond goes out together, at most kBatchMax of it on one connection.
  std::optional<uint32_t> rate;
  Mix mix;
  KeyDistribution distribution;
};

inline constexpr uint32_t kBatchMax = 10;

inline constexpr uint32_t kConnectionsMax = 1024;
inline constexpr uint32_t kValueBytesMax = 64u << 10;

class LoadClient {
 public:
  [[nodiscard]] static Result<std::unique_ptr<LoadClient>> create(const LoadOptions& options);
  ~LoadClient();

  // Writes the whole data set (pipelined) and sets the counters to zero. Returns the number of keys.
  [[nodiscard]] Result<uint64_t> fill();
  [[nodiscard]] Status start();
  // Stops sending and waits for what is under way (bounded); what stays unanswered is an error.
  void pause();
  void resume();

  // Waits at most `timeout_ms` for something to do and does it. The descriptor is for a poll of one's own.
  void poll(int timeout_ms);
  [[nodiscard]] int event_fd() const;

  // The server's process, as seen from here, whose cost and TCP counters are wanted; 0: none.
  void watch_server(pid_t pid);

  // The window that the figures are about begins now.
  [[nodiscard]] Status begin_window();
  // It ends now: waits (bounded) until every connection has answered a request sent after it, then gives the figures.
  // `bounds`: when the move was where, as its mover says.
  [[nodiscard]] Figures end_window(const PhaseBounds& bounds = {});
  // Reads back every key and counter over a new connection; the load rests meanwhile.
  [[nodiscard]] Verification verify();

 private:
  struct Impl;
  explicit LoadClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mose::client
