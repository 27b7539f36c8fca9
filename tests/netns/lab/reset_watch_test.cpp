// SPDX-License-Identifier: MIT
// TCP resets are counted on arrival, and nothing else is.
#include "client/reset_watch.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>

#include <thread>

#include "lab/topology.h"

namespace mose::lab {
namespace {

sockaddr_in loopback(uint16_t port) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = htons(port);
  out.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return out;
}

// A connection that is accepted, used and closed on both sides.
void converse(uint16_t port) {
  Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
      client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback(port);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  Fd server(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(server);
  char byte = 'x';
  ASSERT_EQ(::send(client.get(), &byte, 1, 0), 1);
  ASSERT_EQ(::recv(server.get(), &byte, 1, 0), 1);
}

void refused(uint16_t port) {
  Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback(port);
  EXPECT_NE(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
}

TEST(ResetWatchTest, CountsResetsAndNothingElse) {
  // A namespace is of a thread: this one's is its own.
  std::thread([] {
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0) << "needs root";
    ASSERT_TRUE(prepare_netns());
    auto watch = client::ResetWatch::open();
    ASSERT_TRUE(watch) << watch.error().what;
    converse(4000);
    EXPECT_EQ(watch->take(), 0u);
    refused(4001);
    refused(4002);
    EXPECT_EQ(watch->take(), 2u);
    EXPECT_EQ(watch->take(), 0u);
    for (int i = 0; i < 3000; ++i) refused(4001);
    EXPECT_EQ(watch->take(), 3000u) << "more than the socket has room for";
  }).join();
}

}  // namespace
}  // namespace mose::lab
