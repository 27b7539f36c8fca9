// SPDX-License-Identifier: MIT
#include "kernel/xdp_features.h"

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cstring>
#include <memory>
#include <vector>

#include "base/fd.h"

namespace mose {
namespace {

// linux/netdev.h, which the kernel headers of Debian 12 do not have yet.
constexpr int kNetdevDevGet = 1, kNetdevIfindex = 1, kNetdevXdpFeatures = 3;
constexpr uint64_t kXdpBasic = 1, kXdpRedirect = 2, kXdpNdoXmit = 4;
constexpr timeval kAnswerBound{.tv_sec = 1, .tv_usec = 0};

struct FreeMessage {
  void operator()(nl_msg* message) const { nlmsg_free(message); }
};
using Message = std::unique_ptr<nl_msg, FreeMessage>;

Message request_of(uint16_t family, uint8_t command, uint8_t version) {
  Message message(nlmsg_alloc());
  auto* header = message ? nlmsg_put(message.get(), 0, 1, family, sizeof(genlmsghdr), NLM_F_REQUEST) : nullptr;
  if (header == nullptr) return nullptr;
  auto* genl = static_cast<genlmsghdr*>(nlmsg_data(header));
  *genl = {.cmd = command, .version = version, .reserved = 0};
  return message;
}

// One request, one answer: its bytes, beginning with a nlmsghdr.
Result<std::vector<char>> ask(int socket, nl_msg* request, const char* what) {
  const nlmsghdr* header = nlmsg_hdr(request);
  if (send(socket, header, header->nlmsg_len, 0) < 0) return fail_errno(what);
  std::vector<char> answer(8192);
  ssize_t size = recv(socket, answer.data(), answer.size(), 0);
  if (size < 0) return fail_errno(what);
  answer.resize(static_cast<size_t>(size));
  const auto* reply = reinterpret_cast<const nlmsghdr*>(answer.data());
  if (!nlmsg_ok(reply, static_cast<int>(size))) return fail(std::string(what) + ": the answer is cut off");
  if (reply->nlmsg_type == NLMSG_ERROR) {
    return fail_errno(what, -static_cast<const nlmsgerr*>(nlmsg_data(reply))->error);
  }
  return answer;
}

nlattr* find(std::vector<char>& answer, int type) {
  return nlmsg_find_attr(reinterpret_cast<nlmsghdr*>(answer.data()), sizeof(genlmsghdr), type);
}

}  // namespace

Result<XdpFeatures> xdp_features(unsigned ifindex) {
  Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  if (!socket) return fail_errno("generic netlink socket");
  (void)setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerBound, sizeof kAnswerBound);

  constexpr const char* kFamily = "netlink family netdev (Linux 6.3 and later)";
  Message request = request_of(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
  if (!request || nla_put_string(request.get(), CTRL_ATTR_FAMILY_NAME, "netdev") != 0)
    return fail_errno(kFamily, ENOMEM);
  MOSE_ASSIGN(auto family, ask(socket.get(), request.get(), kFamily));
  nlattr* id = find(family, CTRL_ATTR_FAMILY_ID);
  if (id == nullptr) return fail_errno(kFamily, ENOENT);

  const std::string what = "XDP features of device " + std::to_string(ifindex);
  request = request_of(nla_get_u16(id), kNetdevDevGet, 1);
  if (!request || nla_put_u32(request.get(), kNetdevIfindex, ifindex) != 0) return fail_errno(what, ENOMEM);
  MOSE_ASSIGN(auto device, ask(socket.get(), request.get(), what.c_str()));
  nlattr* features = find(device, kNetdevXdpFeatures);
  if (features == nullptr || nla_len(features) < static_cast<int>(sizeof(uint64_t))) return fail_errno(what, ENOENT);
  uint64_t bits = 0;
  std::memcpy(&bits, nla_data(features), sizeof bits);
  return XdpFeatures{(bits & kXdpBasic) != 0, (bits & kXdpRedirect) != 0, (bits & kXdpNdoXmit) != 0};
}

}  // namespace mose
