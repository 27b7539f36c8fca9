// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <set>

#include "kernel/netns.h"
#include "kernel/sock_diag.h"
#include "support/support.h"

namespace mose::test {
namespace {

Fd tcp_socket() {
  return Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

// A listener, a connection of ours and one whose program has gone: nobody but the kernel has its end.
struct Sockets {
  Fd listener, client, accepted, left_alone;

  [[nodiscard]] Status make() {
    Fd control = tcp_socket();
    ifreq loopback{};
    loopback.ifr_name[0] = 'l';
    loopback.ifr_name[1] = 'o';
    loopback.ifr_flags = IFF_UP;
    if (ioctl(control.get(), SIOCSIFFLAGS, &loopback) != 0) return fail_errno("set the loopback up");
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    listener = tcp_socket();
    if (bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener.get(), 4) != 0 ||
        getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
      return fail_errno("listen");
    }
    auto join = [&](Fd& ours, Fd& theirs) {
      ours = tcp_socket();
      if (connect(ours.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return false;
      theirs = Fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      return theirs.valid();
    };
    Fd gone;
    if (!join(client, accepted) || !join(gone, left_alone)) return fail_errno("connect");
    return {};
  }
};

std::multiset<int> states(const SockDiag& diag) {
  std::multiset<int> found;
  EXPECT_TRUE(diag.each(AF_INET, ~0u, [&](const inet_diag_msg& socket) { found.insert(socket.idiag_state); }));
  return found;
}

TEST(SockDiag, EndsConnectionsAlsoThoseWithoutAProgram) {
  if (geteuid() != 0) skip_process("network namespaces need root");
  auto netns = create_netns();
  ASSERT_TRUE(netns) << netns.error().what;
  Sockets sockets;
  auto made = in_netns(netns->get(), [&] { return sockets.make(); });
  ASSERT_TRUE(made) << made.error().what;
  auto diag = SockDiag::open(netns->get());
  ASSERT_TRUE(diag) << diag.error().what;
  auto before = states(*diag);
  EXPECT_EQ(before.size(), 5u);
  EXPECT_EQ(before.count(TCP_FIN_WAIT1) + before.count(TCP_FIN_WAIT2), 1u);  // the acknowledgement may take its time

  auto ended = diag->destroy_connections();
  if (!ended && ended.error().code == EOPNOTSUPP) skip_process("this kernel ends no sockets (INET_DIAG_DESTROY)");
  ASSERT_TRUE(ended) << ended.error().what;
  EXPECT_GE(*ended, 2u);  // the other ends may have gone by the reset of the first
  EXPECT_EQ(states(*diag), std::multiset<int>{TCP_LISTEN});
  char byte;
  EXPECT_EQ(recv(sockets.client.get(), &byte, 1, MSG_DONTWAIT), -1);
  EXPECT_TRUE(errno == ECONNABORTED || errno == ECONNRESET) << errno;
}

// The kernel shows a table that is shared as a negative number.
TEST(ServiceNetns, HasTablesOfItsOwn) {
  if (geteuid() != 0) skip_process("network namespaces need root");
  if (access("/proc/sys/net/ipv4/tcp_child_ehash_entries", F_OK) != 0) skip_process("this kernel has one table for all");
  auto buckets = [](const Result<Fd>& netns) -> Result<int64_t> {
    if (!netns) return std::unexpected(netns.error());
    return in_netns_get<int64_t>(netns->get(), []() -> Result<int64_t> {
      MOSE_ASSIGN(std::string text, read_file("/proc/sys/net/ipv4/tcp_ehash_entries"));
      return std::stoll(text);
    });
  };
  std::string before = read_file("/proc/sys/net/ipv4/tcp_child_ehash_entries").value_or("");
  auto plain = buckets(create_netns()), service = buckets(create_service_netns());
  ASSERT_TRUE(plain) << plain.error().what;
  ASSERT_TRUE(service) << service.error().what;
  EXPECT_EQ(*service, 16384);
  EXPECT_NE(*plain, *service);
  EXPECT_EQ(read_file("/proc/sys/net/ipv4/tcp_child_ehash_entries").value_or(""), before);
}

}  // namespace
}  // namespace mose::test
