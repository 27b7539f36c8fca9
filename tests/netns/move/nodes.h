// SPDX-License-Identifier: MIT
#pragma once

#include <poll.h>

#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "kernel/socket.h"
#include "move/page_receiver.h"
#include "move/page_server.h"

// Both ends of a migration as far as the page streams go, over loopback.
namespace mose::test {

using namespace move;
using std::chrono::seconds;

inline const move::StreamId kStream{MigrationId{{4, 5, 6}}, 1};
inline const std::string kToken = "a token of PREPARE";

// The source agent as far as the page streams go: accepts, checks HELLO and token, keeps BULK for the sender and serves
// URGENT connections once the page server is there.
class SourceNode {
 public:
  SourceNode() {
    listener_ = tcp_listen("127.0.0.1:0").value();
    thread_ = std::jthread([this](std::stop_token stop) { accept_loop(stop); });
  }
  ~SourceNode() {
    stop_.request_stop();
    cut();
    thread_.request_stop();
    thread_.join();
    servers_.clear();
  }
  std::string endpoint() const { return local_endpoint(listener_.get()).value(); }

  Channel& bulk() {
    std::unique_lock lock(mutex_);
    // A pager that cannot connect is a failed test, not a test that never ends.
    MOSE_CHECK(changed_.wait_for(lock, seconds(60), [&] { return bulk_ != nullptr; }), "the pager connects");
    return *bulk_;
  }
  void serve(std::vector<SpaceProcess> processes) {
    std::lock_guard lock(mutex_);
    server_ = std::make_unique<PageServer>(std::move(processes), &gate);
    changed_.notify_all();
  }
  // Every connection that is open now ends.
  void cut() {
    std::lock_guard lock(mutex_);
    for (const auto& channel : channels_) channel->shut_down();
  }
  const ServeStats& served() const { return server_->stats(); }

  UrgentGate gate;

 private:
  void accept_loop(std::stop_token stop) {
    while (!stop.stop_requested()) {
      pollfd poll_fd{listener_.get(), POLLIN, 0};
      if (poll(&poll_fd, 1, 50) <= 0) continue;
      auto accepted = tcp_accept(listener_.get(), false);
      if (!accepted || !accepted->socket) continue;
      auto channel = std::make_shared<Channel>(std::move(accepted->socket), kStream);
      auto frame = channel->receive(seconds(60));
      if (!frame || frame->type != wire::FrameType::hello) continue;
      auto hello = decode_hello(frame->payload);
      if (!hello || !same_token(hello->token, kToken)) {
        static_cast<void>(turn_away(*channel, "unknown token"));
        continue;
      }
      if (!welcome(*channel, local_hello("a", Purpose::unspecified))) continue;
      std::lock_guard lock(mutex_);
      channels_.push_back(channel);
      if (hello->purpose == Purpose::bulk) {
        bulk_ = channel.get();
        changed_.notify_all();
      } else {
        servers_.emplace_back([this, channel] { serve_one(*channel); });
      }
    }
  }
  void serve_one(Channel& channel) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, seconds(30), [&] { return server_ != nullptr || stop_.stop_requested(); });
      if (!server_) return;
    }
    static_cast<void>(server_->serve(channel, stop_.get_token()));
  }

  Fd listener_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<Channel>> channels_;
  Channel* bulk_ = nullptr;
  std::unique_ptr<PageServer> server_;
  std::stop_source stop_;
  std::vector<std::jthread> servers_;
  std::jthread thread_;
};

class DestinationNode {
 public:
  explicit DestinationNode(const std::string& endpoint) {
    Hello hello = local_hello("b", Purpose::unspecified);
    hello.token = kToken;
    store = PageStore::create(kStream.migration, kStream.epoch, 2ull << 30).value();
    PageReceiverOptions options;
    options.connect = connect_to_source(endpoint, kStream, hello, seconds(60));
    options.on_failure = [this](const Error& error) { failure = error.what; };
    options.on_complete = [this] { complete_.set_value(); };
    receiver = std::make_unique<PageReceiver>(*store, std::move(options));
    receiver->start();
  }
  bool wait_complete() { return complete_.get_future().wait_for(seconds(60)) == std::future_status::ready; }

  std::unique_ptr<PageStore> store;
  std::unique_ptr<PageReceiver> receiver;
  std::string failure;

 private:
  std::promise<void> complete_;
};

}  // namespace mose::test
