// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <random>
#include <thread>

#include "agent/control_client.h"
#include "agent/control_frames.h"
#include "agent/control_server.h"
#include "kernel/confinement.h"
#include "mose/control/control.pb.h"
#include "temp_dir.h"

namespace mose::agent {
namespace {

using namespace std::chrono_literals;
using control::v1::Request;
using control::v1::Response;
using testing::HasSubstr;

TEST(ControlFrames, ComeBackWholeHoweverTheStreamIsCut) {
  std::string stream = make_frame("one") + make_frame("") + make_frame(std::string(100000, 'x'));
  for (size_t piece : {1u, 2u, 3u, 7u, 4096u, 200000u}) {
    FrameReader reader;
    std::vector<std::string> frames;
    for (size_t at = 0; at < stream.size(); at += piece) {
      reader.append(std::string_view(stream).substr(at, piece));
      for (;;) {
        auto frame = reader.next();
        ASSERT_TRUE(frame);
        if (!*frame) break;
        frames.push_back(**frame);
      }
    }
    ASSERT_EQ(frames.size(), 3u) << piece;
    EXPECT_EQ(frames[0], "one");
    EXPECT_EQ(frames[1], "");
    EXPECT_EQ(frames[2].size(), 100000u);
    EXPECT_EQ(reader.buffered(), 0u);
  }
}

TEST(ControlFrames, ALengthBeyondTheBoundIsAnErrorBeforeItsBytesCome) {
  FrameReader reader(16);
  reader.append(make_frame(std::string(17, 'x')).substr(0, 4));
  auto frame = reader.next();
  ASSERT_FALSE(frame);
  EXPECT_THAT(frame.error().what, HasSubstr("a frame of 17 bytes is longer than 16"));
  EXPECT_FALSE(reader.next()) << "the error stays";
}

// A server in a thread of its own that answers Ping, and Events with two responses.
class ControlTest : public testing::Test {
 protected:
  void SetUp() override {
    config_.control.socket = dir_.path() + "/mosed.sock";
    config_.node.runtime_dir = dir_.path();
    config_.limits.connections_max = 4;
    thread_ = std::thread([this] {
      auto loop = EventLoop::create();
      loop_ = loop->get();
      auto server = ControlServer::start(*loop_, config_, [](const Request& request, const Reply& reply) {
        Response response;
        if (request.has_ping()) {
          response.mutable_pong()->set_node("a");
          return reply.send(response, true);
        }
        if (!request.has_events()) return reply.fail(2, "unknown request");
        response.mutable_event()->set_text("first");
        reply.send(response, false);
        response.mutable_event()->set_text("second");
        reply.send(response, true);
      });
      ASSERT_TRUE(server) << server.error().what;
      ready_ = true;
      loop_->run();
    });
    while (!ready_) std::this_thread::yield();
  }
  void TearDown() override {
    loop_->quit();
    thread_.join();
    EXPECT_NE(access(config_.control.socket.c_str(), F_OK), 0) << "the socket's file goes with the server";
  }

  ControlClient connect() {
    auto client = ControlClient::connect(config_.control.socket, 2s);
    EXPECT_TRUE(client) << client.error().what;
    return std::move(*client);
  }
  // The ends of dead connections may be seen a moment later than a new one: until then it may be turned away.
  void expect_alive() {
    Response response;
    for (Timestamp deadline = now() + 5s; now() < deadline && !response.has_pong();) {
      auto client = connect();
      Request request;
      request.mutable_ping();
      auto status = client.call(request, response, 5s);
      ASSERT_TRUE(status) << status.error().what;
    }
    EXPECT_EQ(response.pong().node(), "a");
  }
  // Sends raw bytes and reads until the server closes; gives the last response.
  Response send_raw(const std::string& bytes) {
    auto client = connect();
    EXPECT_TRUE(write_all(client.fd(), bytes));
    Response response;
    auto status = client.receive(response, 5s);
    EXPECT_TRUE(status) << status.error().what;
    Response more;
    auto end = client.receive(more, 5s);
    EXPECT_FALSE(end);
    EXPECT_EQ(end.error().code, ECONNRESET) << end.error().what;
    return response;
  }

  test::TempDir dir_;
  Config config_;
  std::thread thread_;
  EventLoop* loop_ = nullptr;
  std::atomic<bool> ready_ = false;
};

TEST_F(ControlTest, AnswersRequestsAndStreams) {
  expect_alive();
  auto client = connect();
  Request events;
  events.mutable_events();
  auto id = client.send(events);
  ASSERT_TRUE(id);
  Response response;
  ASSERT_TRUE(client.receive(response, 5s));
  EXPECT_EQ(response.event().text(), "first");
  EXPECT_EQ(response.id(), *id);
  EXPECT_FALSE(response.last());
  ASSERT_TRUE(client.receive(response, 5s));
  EXPECT_EQ(response.event().text(), "second");
  EXPECT_TRUE(response.last());
}

TEST_F(ControlTest, TheSocketBelongsToRootOnly) {
  struct stat info;
  ASSERT_EQ(stat(config_.control.socket.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

// The first words of the agent to a process of its own that has become what `become` makes of it; empty: it was let in.
std::string told_to(const std::string& path, const std::function<bool()>& become) {
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const pid_t child = fork();
  if (child == 0) {
    std::string told = "it could not become that";
    if (become()) {
      auto client = ControlClient::connect(path, 2s);
      Request ping;
      ping.mutable_ping();
      Response response;
      if (client) (void)client->send(ping);  // who is turned away may be so already
      told = client && client->receive(response, 5s) ? response.failure().reason() : "no answer";
    }
    const bool written = write_all(ends[1], told).has_value();
    _exit(written ? 0 : 1);
  }
  close(ends[1]);
  const Fd reader(ends[0]);
  std::string told = read_all(reader.get(), 1 << 16).value_or("its answer cannot be read");
  waitpid(child, nullptr, 0);
  return told;
}

TEST_F(ControlTest, RootThatHasGivenItsCapabilitiesUpIsTurnedAway) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  auto give_up = [](std::span<const int> kept) { return [kept] { return keep_capabilities(kept) && forbid_dumps_and_privileges(); }; };
  EXPECT_THAT(told_to(config_.control.socket, give_up({})), HasSubstr("is root without CAP_SYS_ADMIN"));
  static constexpr int kPagers[] = {CAP_DAC_OVERRIDE, CAP_SYS_PTRACE, CAP_CHECKPOINT_RESTORE, CAP_SYS_NICE};
  EXPECT_THAT(told_to(config_.control.socket, give_up(kPagers)), HasSubstr("is root without CAP_SYS_ADMIN"));
  static constexpr int kOne[] = {CAP_SYS_ADMIN};
  EXPECT_EQ(told_to(config_.control.socket, give_up(kOne)), "");
  expect_alive();
}

// There it has all capabilities, over nothing of this machine.
TEST_F(ControlTest, RootOfAUserNamespaceIsTurnedAway) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const std::string told = told_to(config_.control.socket, [] { return unshare(CLONE_NEWUSER) == 0; });
  if (told.starts_with("it could not")) GTEST_SKIP() << "this kernel lets nobody make a user namespace";
  EXPECT_THAT(told, HasSubstr("is root without CAP_SYS_ADMIN"));
  expect_alive();
}

TEST_F(ControlTest, ATooLongFrameGetsAReasonAndTheEnd) {
  Response response = send_raw(std::string("\xff\xff\xff\xff", 4));
  EXPECT_EQ(response.failure().exit_code(), 2u);
  EXPECT_THAT(response.failure().reason(), HasSubstr("is longer than"));
  expect_alive();
}

TEST_F(ControlTest, AFrameThatIsNoRequestGetsAReasonAndTheEnd) {
  Response response = send_raw(make_frame("\xff\xff\xff"));
  EXPECT_THAT(response.failure().reason(), HasSubstr("cannot be read"));
  expect_alive();
}

TEST_F(ControlTest, RandomBytesNeverHurtIt) {
  std::mt19937 random(20260101);  // fixed: a failure comes again
  for (int round = 0; round < 200; ++round) {
    std::string bytes(random() % 300, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (round % 2 == 0) bytes = make_frame(bytes);
    auto client = connect();
    (void)::send(client.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  expect_alive();
}

TEST_F(ControlTest, ClientsThatGoAwayInTheMiddleOfARequestAreForgotten) {
  for (int i = 0; i < 20; ++i) {
    auto client = connect();
    ASSERT_TRUE(write_all(client.fd(), make_frame(std::string(100, 'x')).substr(0, 50)));
  }
  expect_alive();
}

TEST_F(ControlTest, MoreConnectionsThanTheBoundAreClosedAtOnce) {
  std::vector<ControlClient> held;
  for (int i = 0; i < 4; ++i) held.push_back(connect());
  Request ping;
  ping.mutable_ping();
  Response response;
  ASSERT_TRUE(held.back().call(ping, response, 5s));
  // It is told why without having asked: what it asks meets a closed socket.
  auto fifth = connect();
  ASSERT_TRUE(fifth.receive(response, 5s));
  EXPECT_THAT(response.failure().reason(), HasSubstr("limits.connections_max"));
  held.clear();
  expect_alive();
}

TEST(ControlClient, SaysWhereNobodyListens) {
  auto client = ControlClient::connect("/nowhere/mosed.sock", 1s);
  ASSERT_FALSE(client);
  EXPECT_THAT(client.error().what, HasSubstr("agent not running at /nowhere/mosed.sock: No such file"));
}

TEST(ControlClient, DoesNotWaitForEverForAnAgentThatIsStuck) {
  test::TempDir dir;
  std::string path = dir.path() + "/stuck.sock";
  Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  auto client = ControlClient::connect(path, 1s);
  ASSERT_TRUE(client);
  Request ping;
  ping.mutable_ping();
  Response response;
  auto status = client->call(ping, response, 50ms);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ETIMEDOUT);
}

}  // namespace
}  // namespace mose::agent
