// SPDX-License-Identifier: MIT
// A control connection in the event loop, with a peer that does what honest ones hardly do.
#include "agent/peer_connection.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>
#include <vector>

#include "kernel/socket.h"
#include "move/codec.h"
#include "support/fleet.h"

namespace mose::agent {
namespace {

using namespace std::chrono_literals;

const move::StreamId kStream{MigrationId{{9}}, 1};

class PeerConnections : public testing::Test {
 protected:
  void SetUp() override {
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop);
    loop_ = std::move(*loop);
    int fds[2] = {-1, -1};
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    ours_ = Fd(fds[0]);
    peers_ = Fd(fds[1]);
  }
  void open(move::StreamSocket socket) {
    connection_ = std::make_unique<PeerConnection>(*loop_, std::move(socket), kStream, "b");
    PeerConnection::Handlers handlers;
    handlers.on_frame = [this](wire::FrameType, const std::string&) { ++frames_; };
    handlers.on_closed = [this](const std::string& reason) { closed_ = reason; };
    ASSERT_TRUE(connection_->open(std::move(handlers)));
  }
  // ours_: the socket of the connection once more.
  void connect_by_tcp() {
    const Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    ASSERT_EQ(listen(listener.get(), 1), 0);
    ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
    ours_ = Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(ours_.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    peers_ = Fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    open(move::StreamSocket(Fd(fcntl(ours_.get(), F_DUPFD_CLOEXEC, 0))));
    ASSERT_EQ(fcntl(ours_.get(), F_SETFL, O_NONBLOCK), 0);
  }
  // And waits until its kernel has taken what it takes.
  void send_more_than_it_has_room_for() {
    connection_->send(wire::FrameType::images, std::string(kBytes, 'i'));
    for (const Timestamp end = now() + 5s; now() < end && unanswered(ours_.get()).value().data;) loop_->run_once(1ms);
    ASSERT_GT(unacknowledged_bytes(ours_.get()).value(), 0u) << "there is room for all of it";
  }

  static constexpr size_t kBytes = 32u << 20;
  std::unique_ptr<EventLoop> loop_;
  Fd ours_, peers_;
  std::unique_ptr<PeerConnection> connection_;
  int frames_ = 0;
  std::string closed_;
};

TEST_F(PeerConnections, GiveOthersTheirTurnWhateverAPeerSends) {
  constexpr int kFrames = 10 * PeerConnection::kFramesPerTurn;
  const auto frame = move::encode_frame(wire::FrameType::drained, kStream, {});
  std::string many;  // at once: a socket has room for few small pieces
  for (int i = 0; i < kFrames; ++i) many.append(reinterpret_cast<const char*>(frame.data()), frame.size());
  ASSERT_EQ(::send(peers_.get(), many.data(), many.size(), MSG_DONTWAIT), static_cast<ssize_t>(many.size()));
  open(move::StreamSocket(std::move(ours_)));
  int turns = 0, before = 0;
  for (; frames_ < kFrames && turns < 1000; ++turns) {
    loop_->run_once(100ms);
    EXPECT_LE(frames_ - before, PeerConnection::kFramesPerTurn);
    before = frames_;
  }
  EXPECT_EQ(frames_, kFrames) << "nothing more comes, and all that came is read";
  EXPECT_GE(turns, 10);
  EXPECT_EQ(closed_, "");
}

// Its kernel has taken what it has room for, and says so: it is busy, not gone.
TEST_F(PeerConnections, GiveAPeerTimeThatDoesNotReadWhatItsKernelHasTaken) {
  constexpr auto kSilence = 50ms;
  connect_by_tcp();
  send_more_than_it_has_room_for();
  const Timestamp begin = now();
  connection_->expect_life(kSilence);
  while (closed_.empty() && now() < begin + 10s) loop_->run_once(10ms);
  EXPECT_NE(closed_, "") << "for ever it does not wait";
  EXPECT_GE(now() - begin, 5 * kSilence) << closed_;
}

TEST_F(PeerConnections, GoOnWithAPeerThatReadsAgain) {
  constexpr auto kSilence = 50ms;
  connect_by_tcp();
  send_more_than_it_has_room_for();
  connection_->expect_life(kSilence);
  for (const Timestamp end = now() + 3 * kSilence; now() < end;) loop_->run_once(10ms);
  ASSERT_EQ(closed_, "");
  std::atomic<size_t> read = 0;
  std::jthread peer([&] {
    std::vector<char> bytes(1u << 20);
    for (ssize_t got = 1; got > 0 && read < kBytes; read += got > 0 ? static_cast<size_t>(got) : 0) got = ::recv(peers_.get(), bytes.data(), bytes.size(), 0);
  });
  for (const Timestamp end = now() + 10s; read < kBytes && closed_.empty() && now() < end;) loop_->run_once(1ms);
  EXPECT_GE(read, kBytes);
  EXPECT_EQ(closed_, "");
  connection_.reset();  // or the peer would wait for more
  ours_ = Fd();
}

// New keys are answered by TLS alone, whatever the agent has to say: an answer for which the socket had no room must leave as soon
// as there is.
TEST_F(PeerConnections, AnswerAPeerThatChangesItsKeysAndReadsLater) {
  constexpr int kUpdates = 300;
  constexpr size_t kAnswerBytes = 27;  // a record with a KeyUpdate
  const test::Fleet fleet;
  const move::TlsFiles files = fleet.node("b");
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  ASSERT_EQ(SSL_CTX_use_certificate_file(context.get(), files.certificate.c_str(), SSL_FILETYPE_PEM), 1);
  ASSERT_EQ(SSL_CTX_use_PrivateKey_file(context.get(), files.key.c_str(), SSL_FILETYPE_PEM), 1);
  std::unique_ptr<SSL, decltype(&SSL_free)> peer(SSL_new(context.get()), SSL_free);
  SSL_set_fd(peer.get(), peers_.get());
  std::thread connecting([&] { EXPECT_EQ(SSL_connect(peer.get()), 1); });
  auto socket = move::Tls::load(fleet.node("a")).value()->accept(std::move(ours_)).value();
  Result<move::Wait> wait = move::Wait::to_read;
  for (const Timestamp end = now() + 5s; now() < end && wait && *wait != move::Wait::nothing; std::this_thread::sleep_for(1ms)) wait = socket.handshake();
  connecting.join();
  ASSERT_TRUE(wait) << wait.error().what;
  const int little = 1;  // the kernel's least
  ASSERT_EQ(setsockopt(socket.fd(), SOL_SOCKET, SO_SNDBUF, &little, sizeof little), 0);
  open(std::move(socket));

  const auto frame = move::encode_frame(wire::FrameType::drained, kStream, {});
  for (int i = 0; i < kUpdates; ++i) {
    ASSERT_EQ(SSL_key_update(peer.get(), SSL_KEY_UPDATE_REQUESTED), 1);
    ASSERT_EQ(SSL_write(peer.get(), frame.data(), static_cast<int>(frame.size())), static_cast<int>(frame.size()));
    loop_->run_once(Nanoseconds(0));
  }
  for (const Timestamp end = now() + 5s; frames_ < kUpdates && now() < end;) loop_->run_once(10ms);
  ASSERT_EQ(frames_, kUpdates) << closed_;
  // Nobody says anything any more; the peer reads what there is.
  size_t answered = 0;
  for (const Timestamp end = now() + 2s; answered < kUpdates * kAnswerBytes && now() < end;) {
    loop_->run_once(1ms);
    char bytes[4096];
    const ssize_t got = ::recv(peers_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
    answered += got > 0 ? static_cast<size_t>(got) : 0;
  }
  EXPECT_GE(answered, kUpdates * kAnswerBytes);
  EXPECT_EQ(closed_, "");
}

}  // namespace
}  // namespace mose::agent
