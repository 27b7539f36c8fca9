// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "client/load_client.h"
#include "client/streams.h"

// All connections of the client with what is under way on them: the load (closed loop or at a rate), then the probes.
// Sends what is due by the clock and hands answers to their stream. Part of LoadClient, which judges the windows.
namespace mose::client {

class LoadStreams {
 public:
  explicit LoadStreams(const LoadOptions& options);
  LoadStreams(const LoadStreams&) = delete;
  LoadStreams& operator=(const LoadStreams&) = delete;

  [[nodiscard]] Status make_descriptors();
  // Connects everything and starts the clock.
  [[nodiscard]] Status start();
  // Makes those anew that have ended.
  [[nodiscard]] Status reconnect();
  void set_sending(bool sending) { sending_ = sending; }
  [[nodiscard]] bool sending() const { return sending_; }
  // Waits at most `timeout_ms` for something to do and does it.
  void poll(int timeout_ms);

  [[nodiscard]] int event_fd() const { return epoll_.get(); }
  [[nodiscard]] uint64_t ticks() const { return tick_; }
  [[nodiscard]] uint64_t answers() const { return answers_; }
  [[nodiscard]] uint64_t retransmits() const;
  [[nodiscard]] bool all_open() const;
  [[nodiscard]] bool all_idle() const;
  // Every connection that is still open has answered something that was sent at or after `ns`.
  [[nodiscard]] bool all_open_answered_since(int64_t ns) const;
  // Requests without an answer on open connections that have answered nothing since.
  [[nodiscard]] uint64_t unanswered_since(int64_t ns) const;
  // Ends the connections on which something is under way: late answers would be taken for those of later requests.
  void lose_busy();
  void forget_before(int64_t ns);

  DataSet data;
  Context shared;
  std::vector<Worker> workers;  // empty at a rate
  std::vector<Probe> probes;
  std::vector<int64_t> answers_ns;  // of all connections

 private:
  Status open_connection(size_t i);
  void lose_connection(size_t i);
  void send_worker(size_t i, int64_t at);
  void send_probe(size_t i, int64_t at);
  void send_rate(uint64_t tick, int64_t due_ns);
  bool send_batch(size_t i, uint32_t requests, int64_t due_ns);
  void on_tick();
  void on_readable(size_t i);
  [[nodiscard]] size_t load_count() const { return workers.size() + streams_.size(); }
  Probe& probe(size_t i) { return probes[i - load_count()]; }
  [[nodiscard]] size_t pending(size_t i) const;
  [[nodiscard]] bool answered_since(size_t i, int64_t ns) const;

  LoadOptions options_;
  KeyChoice keys_;
  RateSchedule schedule_;
  std::vector<RateStream> streams_;  // empty in a closed loop
  std::vector<Connection> connections_;
  Fd epoll_, timer_;
  bool sending_ = false;
  int64_t start_ns_ = 0;  // tick 0
  uint64_t tick_ = 0, answers_ = 0;
  size_t next_stream_ = 0;
  std::string batch_;
};

}  // namespace mose::client
