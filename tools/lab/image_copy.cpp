// SPDX-License-Identifier: MIT
#include "lab/image_copy.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <netinet/tcp.h>
#include <netpacket/packet.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstring>
#include <filesystem>

#include "lab/child_process.h"

namespace mose::lab {
namespace {

constexpr uint16_t kImagePort = 7401;
constexpr size_t kChunkBytes = 1u << 20;
constexpr size_t kNameMax = 255;
constexpr time_t kSilenceSeconds = 30;

// Both nodes are this machine: host byte order.
struct FileHeader {
  uint64_t bytes;
  uint32_t name_bytes;  // 0: all files were sent
  uint32_t padding;
};
static_assert(sizeof(FileHeader) == 16);

void tune(int socket) {
  // The same for every host, as for the client (client/connection.h).
  ::setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
  int one = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  timeval silence{kSilenceSeconds, 0};
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof silence);
}

Status receive_exactly(int socket, void* into, size_t bytes) {
  ssize_t n = ::recv(socket, into, bytes, MSG_WAITALL);
  if (n < 0) return fail_errno("receive images");
  if (static_cast<size_t>(n) != bytes) return fail("the sender of the images has gone");
  return {};
}

Status receive_file(int socket, const std::string& directory, const FileHeader& header, std::string& chunk) {
  if (header.name_bytes > kNameMax) return fail("a name of an image is too long");
  std::string name(header.name_bytes, '\0');
  MOSE_TRY(receive_exactly(socket, name.data(), name.size()));
  if (name.find('/') != std::string::npos) return fail("the name of an image holds a slash");
  MOSE_ASSIGN(auto file, open_file(directory + "/" + name, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  for (uint64_t left = header.bytes; left > 0;) {
    ssize_t n = ::recv(socket, chunk.data(), std::min<uint64_t>(chunk.size(), left), 0);
    if (n < 0) return fail_errno("receive images");
    if (n == 0) return fail("the sender of the images has gone");
    MOSE_TRY(write_all(file.get(), std::string_view(chunk).substr(0, static_cast<size_t>(n))));
    left -= static_cast<uint64_t>(n);
  }
  return {};
}

Status send_file(int socket, const std::filesystem::path& path) {
  MOSE_ASSIGN(auto file, open_file(path, O_RDONLY));
  struct stat info;
  if (::fstat(file.get(), &info) != 0) return fail_errno("fstat");
  std::string name = path.filename();
  FileHeader header{static_cast<uint64_t>(info.st_size), static_cast<uint32_t>(name.size()), 0};
  std::string head(reinterpret_cast<const char*>(&header), sizeof header);
  MOSE_TRY(write_all(socket, head + name));
  for (off_t at = 0; at < info.st_size;) {
    ssize_t n = ::sendfile(socket, file.get(), &at, static_cast<size_t>(info.st_size - at));
    if (n <= 0) return fail_errno("sendfile " + name);
  }
  return {};
}

}  // namespace

Result<Fd> listen_for_images() {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno("socket");
  int one = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kImagePort);
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || ::listen(socket.get(), 1) != 0) {
    return fail_errno("listen for images");
  }
  return socket;
}

Status receive_images(int listener, const std::string& directory) {
  Fd socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket) return fail_errno("accept");
  tune(socket.get());
  std::string chunk(kChunkBytes, '\0');
  while (true) {
    FileHeader header;
    MOSE_TRY(receive_exactly(socket.get(), &header, sizeof header));
    if (header.name_bytes == 0) return write_all(socket.get(), "!");
    MOSE_TRY(receive_file(socket.get(), directory, header, chunk));
  }
}

Status send_images(const std::string& directory, const std::string& address) {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno("socket");
  tune(socket.get());
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(kImagePort);
  if (inet_pton(AF_INET, address.c_str(), &to.sin_addr) != 1) return fail("bad address " + address);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return fail_errno("connect to " + address);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (entry.is_regular_file(error)) MOSE_TRY(send_file(socket.get(), entry.path()));
  }
  FileHeader end{};
  MOSE_TRY(write_all(socket.get(), std::string_view(reinterpret_cast<const char*>(&end), sizeof end)));
  char byte;
  return receive_exactly(socket.get(), &byte, 1);
}

Status in_net_announce(int net_fd, const std::string& address, const std::string& mac) {
  Place place;
  MOSE_ASSIGN(place.net, duplicate(net_fd));
  return in_place(place, [&]() -> Status {
    struct {
      ether_header ethernet;
      ether_arp arp;
    } __attribute__((packed)) frame{};
    unsigned char* m = frame.ethernet.ether_shost;
    if (std::sscanf(mac.c_str(), "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", m, m + 1, m + 2, m + 3, m + 4, m + 5) != 6) return fail("bad MAC");
    std::memset(frame.ethernet.ether_dhost, 0xff, ETH_ALEN);
    frame.ethernet.ether_type = htons(ETHERTYPE_ARP);
    frame.arp.arp_hrd = htons(ARPHRD_ETHER);
    frame.arp.arp_pro = htons(ETHERTYPE_IP);
    frame.arp.arp_hln = ETH_ALEN;
    frame.arp.arp_pln = 4;
    frame.arp.arp_op = htons(ARPOP_REQUEST);
    std::memcpy(frame.arp.arp_sha, m, ETH_ALEN);
    if (inet_pton(AF_INET, address.c_str(), frame.arp.arp_spa) != 1) return fail("bad address " + address);
    std::memcpy(frame.arp.arp_tpa, frame.arp.arp_spa, 4);
    Fd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    if (!socket) return fail_errno("packet socket");
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = static_cast<int>(::if_nametoindex("eth0"));
    to.sll_halen = ETH_ALEN;
    if (::sendto(socket.get(), &frame, sizeof frame, 0, reinterpret_cast<sockaddr*>(&to), sizeof to) < 0) return fail_errno("send ARP");
    return {};
  });
}

}  // namespace mose::lab
