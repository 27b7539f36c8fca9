// SPDX-License-Identifier: MIT
#include "fake_redis.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vector>

#include "base/check.h"

namespace mose::test {
namespace {

// Cuts one request off the front of `input`; false when it is not whole yet.
bool take_request(std::string& input, std::vector<std::string>& words) {
  words.clear();
  if (input.empty()) return false;
  size_t at = input.find("\r\n");
  if (at == std::string::npos) return false;
  size_t count = std::stoul(input.substr(1));
  at += 2;
  for (size_t i = 0; i < count; ++i) {
    size_t line = input.find("\r\n", at);
    if (line == std::string::npos) return false;
    size_t size = std::stoul(input.substr(at + 1));
    if (input.size() < line + 2 + size + 2) return false;
    words.push_back(input.substr(line + 2, size));
    at = line + 2 + size + 2;
  }
  input.erase(0, at);
  return true;
}

}  // namespace

FakeRedis::FakeRedis() {
  listener_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  MOSE_CHECK(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0, "loopback is there");
  MOSE_CHECK(::listen(listener_.get(), 64) == 0, "a bound socket listens");
  ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { run(); });
}

FakeRedis::~FakeRedis() {
  stop_ = true;
  thread_.join();
}

void FakeRedis::set(const std::string& key, const std::string& value) {
  std::scoped_lock lock(mutex_);
  values_[key] = value;
}

void FakeRedis::erase(const std::string& key) {
  std::scoped_lock lock(mutex_);
  values_.erase(key);
}

std::string FakeRedis::carry_out(const std::vector<std::string>& words) {
  std::scoped_lock lock(mutex_);
  if (words.size() == 3 && words[0] == "SET") {
    values_[words[1]] = words[2];
    return "+OK\r\n";
  }
  if (words.size() == 2 && words[0] == "INCR") {
    std::string& value = values_[words[1]];
    value = std::to_string((value.empty() ? 0 : std::stol(value)) + 1);
    return ":" + value + "\r\n";
  }
  if (words.size() != 2 || words[0] != "GET") return "-ERR unknown command\r\n";
  auto it = values_.find(words[1]);
  if (it == values_.end()) return "$-1\r\n";
  return "$" + std::to_string(it->second.size()) + "\r\n" + it->second + "\r\n";
}

void FakeRedis::serve(Peer& peer) {
  char chunk[65536];
  ssize_t n = ::recv(peer.socket.get(), chunk, sizeof chunk, MSG_DONTWAIT);
  if (n == 0 || (n < 0 && errno != EAGAIN)) {
    peer.socket.reset();
    return;
  }
  if (n > 0) peer.input.append(chunk, static_cast<size_t>(n));
  std::string answers;
  std::vector<std::string> words;
  while (take_request(peer.input, words)) answers += carry_out(words);
  if (!answers.empty()) (void)write_all(peer.socket.get(), answers);
}

void FakeRedis::run() {
  std::vector<Peer> peers;
  while (!stop_) {
    std::vector<pollfd> fds{{listener_.get(), POLLIN, 0}};
    for (const Peer& p : peers) fds.push_back({p.socket.get(), POLLIN, 0});
    ::poll(fds.data(), fds.size(), 5);
    if (reset_all.exchange(false)) {
      linger now{1, 0};
      for (Peer& p : peers) ::setsockopt(p.socket.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
      peers.clear();
      continue;
    }
    if (silent) {
      ::usleep(1000);
      continue;
    }
    for (size_t i = 0; i < peers.size(); ++i) {
      if (fds[i + 1].revents) serve(peers[i]);
    }
    std::erase_if(peers, [](const Peer& p) { return !p.socket.valid(); });
    if (fds[0].revents) peers.push_back({Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)), {}});
  }
}

}  // namespace mose::test
