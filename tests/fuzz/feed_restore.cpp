// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "base/check.h"
#include "fuzz/targets.h"
#include "restore/criu_messages.h"
#include "restore/image_capabilities.h"
#include "restore/image_difference.h"
#include "restore/image_fields.h"
#include "restore/images.h"
#include "restore/lazy_socket.h"
#include "restore/standby_compare.h"

namespace mose::fuzz {
namespace {

using namespace restore;

// Whose magic an image's name asks for, so that mutations reach what lies behind it.
uint32_t magic_of(std::string_view name) {
  constexpr std::pair<std::string_view, uint32_t> kKinds[] = {
      {"pstree", kMagicTree}, {"core-", kMagicCore},        {"ids-", kMagicIds},    {"mm-", kMagicMm},         {"fdinfo-", kMagicFdinfo},       {"files", kMagicFiles},
      {"fs-", kMagicFs},      {"tcp-stream-", kMagicTcpStream}, {"pipes-data", kMagicPipesData}, {"timens-", kMagicTimens}, {"pagemap-", kMagicPageMap}};
  for (const auto& [prefix, magic] : kKinds) {
    if (name.starts_with(prefix)) return magic;
  }
  return kMagicInventory;
}

struct Dumps {
  std::vector<ImageFile> early, final;
};

// Chunks: flags, length of the name, name, length (3 bytes), bytes. Flags: 1 not in the early dump, 2 not in the final one, 4 the
// bytes are one message without its frame.
Dumps dumps_of(Input input) {
  Dumps out;
  while (input.size() > 5) {
    const auto flags = static_cast<unsigned>(input[0]);
    const size_t name_bytes = std::min<size_t>(static_cast<size_t>(input[1]), input.size() - 5);
    ImageFile image{std::string(text_of(input.subspan(2, name_bytes))), {}};
    input = input.subspan(2 + name_bytes);
    size_t length = static_cast<size_t>(input[0]) | static_cast<size_t>(input[1]) << 8 | static_cast<size_t>(input[2]) << 16;
    input = input.subspan(3);
    length = std::min(length, input.size());
    const std::string_view bytes = text_of(input.first(length));
    input = input.subspan(length);
    if ((flags & 4) != 0) {
      put_u32(image.bytes, kCommonMagic);
      put_u32(image.bytes, magic_of(image.name));
      put_u32(image.bytes, static_cast<uint32_t>(bytes.size()));
    }
    image.bytes += bytes;
    if ((flags & 1) == 0) out.early.push_back(image);
    if ((flags & 2) == 0) out.final.push_back(std::move(image));
  }
  return out;
}

void read_directory(const std::vector<ImageFile>& images) {
  static_cast<void>(permitted_capabilities(images));
  auto dir = make_images_dir(scratch_directory() + "/images");
  MOSE_CHECK(dir, "a directory for images");
  for (const ImageFile& image : images) {
    if (store_image(dir->get(), image)) MOSE_CHECK(image.name.find('/') == std::string::npos, "no image leaves its directory");
  }
  if (auto processes = read_processes(dir->get())) {
    for (const ImageProcess& process : *processes) {
      MOSE_CHECK(lazy_area(process).minus(eager_area(process)).pages() == lazy_area(process).pages(), "a page is lazy or it is not");
    }
  }
  static_cast<void>(read_regular_files(dir->get()));
  static_cast<void>(forget_file_sizes(dir->get(), {"/var/log"}));
  static_cast<void>(advance_clocks(dir->get(), std::chrono::seconds(1)));
  if (auto loaded = load_images(dir->get())) static_cast<void>(advance_tcp_timestamps(*loaded, std::chrono::milliseconds(5)));
}

void check_differences(const Dumps& dumps) {
  for (const ImageFile& early : dumps.early) {
    for (const ImageFile& later : dumps.final) {
      auto difference = image_difference(early.bytes, later.bytes);
      if (!difference) continue;
      auto made = apply_difference(early.bytes, *difference);
      MOSE_CHECK(made && *made == later.bytes, "a difference gives the later image");
    }
  }
}

}  // namespace

void feed_images(Input input) {
  const Dumps dumps = dumps_of(input);
  check_differences(dumps);
  auto early = ImageSet::of(std::make_shared<const std::vector<ImageFile>>(dumps.early));
  auto final = ImageSet::of(std::make_shared<const std::vector<ImageFile>>(dumps.final));
  if (early && final) {
    for (StandbyMemory memory : {StandbyMemory::eager, StandbyMemory::all}) {
      static_cast<void>(compare_images(*early, *early, memory));
      static_cast<void>(compare_images(*early, *final, memory));
    }
  }
  if (auto fields = ImageFields::parse(text_of(input))) {
    MOSE_CHECK(!ImageFields::difference(*fields, *fields), "a message does not differ from itself");
  }
  read_directory(dumps.final);
}

// The first byte: an answer by RPC, or the pager's socket as a restoring CRIU writes to it.
void feed_criu(Input input) {
  if (input.empty()) return;
  const std::string_view bytes = text_of(input.subspan(1));
  if (static_cast<unsigned>(input[0]) % 2 == 0) {
    if (auto message = decode_criu_message(bytes)) MOSE_CHECK(message->is_hook == !message->hook.empty(), "a hook has a name");
    return;
  }
  auto socket = LazySocket::listen(scratch_directory());
  MOSE_CHECK(socket, "a socket in /dev/shm");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = scratch_directory() + "/" + std::string(kLazySocketName);
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  Fd criu(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  MOSE_CHECK(connect(criu.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0, "a connection to it");
  // A byte of 0xfd brings a descriptor along.
  for (size_t at = 0; at < bytes.size();) {
    const size_t end = std::min(bytes.find('\xfd', at), bytes.size() - 1);
    iovec part{const_cast<char*>(bytes.data()) + at, end + 1 - at};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (bytes[end] == '\xfd') {
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr* rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int));
      const int fd = criu.get();
      memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    if (::sendmsg(criu.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
    at = end + 1;
  }
  ::shutdown(criu.get(), SHUT_WR);
  for (int i = 0; i < 64 && socket->fd() >= 0; ++i) {
    bool ended = false;
    for (const auto& message : socket->receive()) ended = ended || std::holds_alternative<LazySocket::Ended>(message);
    if (ended) return;
  }
}

}  // namespace mose::fuzz
