// SPDX-License-Identifier: MIT
#include "kernel/netlink.h"

#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <functional>

namespace mose {
namespace {

struct FreeMessage {
  void operator()(nl_msg* message) const { nlmsg_free(message); }
};
struct FreeCallbacks {
  void operator()(nl_cb* callbacks) const { nl_cb_put(callbacks); }
};

constexpr size_t kMessageMax = 4096;  // our requests are a few hundred bytes

// A request under construction. A field that does not fit is remembered and makes the request fail when sent.
class Request {
 public:
  Request(int type, int flags) : message_(nlmsg_alloc_size(kMessageMax)) {
    ok_ = message_ && nlmsg_put(message_.get(), NL_AUTO_PORT, NL_AUTO_SEQ, type, 0, NLM_F_REQUEST | flags) != nullptr;
  }
  template <typename T>
  Request& head(const T& value) {
    ok_ = ok_ && nlmsg_append(message_.get(), const_cast<T*>(&value), sizeof value, NLMSG_ALIGNTO) == 0;
    return *this;
  }
  Request& put(int type, const void* bytes, size_t size) {
    ok_ = ok_ && nla_put(message_.get(), type, static_cast<int>(size), bytes) == 0;
    return *this;
  }
  template <typename T>
  Request& value(int type, T value) {
    return put(type, &value, sizeof value);
  }
  Request& text(int type, const std::string& text) { return put(type, text.c_str(), text.size() + 1); }
  Request& nest(int type, const std::function<void(Request&)>& inside) {
    nlattr* start = ok_ ? nla_nest_start(message_.get(), type) : nullptr;
    ok_ = start != nullptr;
    if (ok_) {
      inside(*this);
      nla_nest_end_keep_empty(message_.get(), start);
    }
    return *this;
  }
  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] nl_msg* get() const { return message_.get(); }

 private:
  std::unique_ptr<nl_msg, FreeMessage> message_;
  bool ok_ = false;
};

struct Answer {
  bool done = false;
  int error = 0;      // errno
  std::string words;  // of the kernel
  std::function<void(const nlmsghdr*)> each;
};

int on_valid(nl_msg* message, void* argument) {
  auto* answer = static_cast<Answer*>(argument);
  if (answer->each) answer->each(nlmsg_hdr(message));
  return NL_OK;
}

int on_done(nl_msg*, void* argument) {
  static_cast<Answer*>(argument)->done = true;
  return NL_STOP;
}

// The kernel's own words follow the error (extended acknowledgement); the failed request is left out (NETLINK_CAP_ACK).
int on_error(sockaddr_nl*, nlmsgerr* error, void* argument) {
  auto* answer = static_cast<Answer*>(argument);
  answer->done = true;
  answer->error = -error->error;
  const auto* header = reinterpret_cast<const nlmsghdr*>(reinterpret_cast<const char*>(error) - NLMSG_HDRLEN);
  size_t fixed = sizeof(nlmsgerr);
  if ((header->nlmsg_flags & NLM_F_ACK_TLVS) != 0 && (header->nlmsg_flags & NLM_F_CAPPED) != 0 &&
      header->nlmsg_len > NLMSG_HDRLEN + fixed) {
    auto* attributes = reinterpret_cast<nlattr*>(reinterpret_cast<char*>(error) + NLMSG_ALIGN(fixed));
    int size = static_cast<int>(header->nlmsg_len - NLMSG_HDRLEN - NLMSG_ALIGN(fixed));
    if (nlattr* words = nla_find(attributes, size, NLMSGERR_ATTR_MSG)) {
      answer->words.assign(static_cast<const char*>(nla_data(words)),
                           strnlen(static_cast<const char*>(nla_data(words)), static_cast<size_t>(nla_len(words))));
    }
  }
  return NL_STOP;
}

Status talk(nl_sock* socket, const Request& request, const std::string& what,
            std::function<void(const nlmsghdr*)> each = {}) {
  if (!request.ok()) return fail(what + ": the request does not fit into a message");
  if (int code = nl_send_auto(socket, request.get()); code < 0) return fail(what + ": " + nl_geterror(code));
  Answer answer{.each = std::move(each)};
  std::unique_ptr<nl_cb, FreeCallbacks> callbacks(nl_cb_alloc(NL_CB_DEFAULT));
  if (!callbacks) return fail_errno(what, ENOMEM);
  nl_cb_set(callbacks.get(), NL_CB_VALID, NL_CB_CUSTOM, on_valid, &answer);
  nl_cb_set(callbacks.get(), NL_CB_ACK, NL_CB_CUSTOM, on_done, &answer);
  nl_cb_set(callbacks.get(), NL_CB_FINISH, NL_CB_CUSTOM, on_done, &answer);
  nl_cb_err(callbacks.get(), NL_CB_CUSTOM, on_error, &answer);
  while (!answer.done) {
    int code = nl_recvmsgs(socket, callbacks.get());
    if (code < 0 && !answer.done) return fail(what + ": " + nl_geterror(code));
  }
  if (answer.error == 0) return {};
  return fail_errno(answer.words.empty() ? what : what + " (" + answer.words + ")", answer.error);
}

// A deletion that found nothing is not a failure.
Result<bool> existed(Status status, std::initializer_list<int> missing) {
  if (status) return true;
  for (int code : missing) {
    if (status.error().code == code) return false;
  }
  return std::unexpected(status.error());
}

nlattr* nested(nlattr* nest, int type) {
  return nla_find(static_cast<nlattr*>(nla_data(nest)), nla_len(nest), type);
}

size_t address_size(const ServiceAddress& address) {
  return address.family == AF_INET ? 4 : 16;
}

// The address in an attribute; without a family when it has another size.
ServiceAddress address_in(nlattr* attribute, int family) {
  ServiceAddress address{.family = family, .prefix = family == AF_INET ? 32u : 128u};
  if (attribute == nullptr || nla_len(attribute) != static_cast<int>(address_size(address))) return {};
  std::memcpy(address.bytes.data(), nla_data(attribute), address_size(address));
  return address;
}

Netlink::RouteInfo route_info(const nlmsghdr* header) {
  Netlink::RouteInfo info;
  const auto* head = static_cast<const rtmsg*>(nlmsg_data(header));
  auto find = [&](int type) { return nlmsg_find_attr(const_cast<nlmsghdr*>(header), sizeof *head, type); };
  if (nlattr* device = find(RTA_OIF)) info.ifindex = nla_get_u32(device);
  if (nlattr* gateway = find(RTA_GATEWAY)) info.gateway = address_in(gateway, head->rtm_family);
  if (nlattr* via = find(RTA_VIA); via != nullptr && nla_len(via) > static_cast<int>(sizeof(rtvia))) {
    rtvia family{};
    std::memcpy(&family, nla_data(via), sizeof family);
    ServiceAddress address{.family = family.rtvia_family, .prefix = family.rtvia_family == AF_INET ? 32u : 128u};
    size_t size = std::min(address_size(address), static_cast<size_t>(nla_len(via)) - sizeof family);
    std::memcpy(address.bytes.data(), static_cast<const char*>(nla_data(via)) + sizeof family, size);
    info.gateway = address;
  }
  info.source = address_in(find(RTA_PREFSRC), head->rtm_family);
  nlattr* metrics = find(RTA_METRICS);
  if (nlattr* mtu = metrics == nullptr ? nullptr : nested(metrics, RTAX_MTU)) info.mtu = nla_get_u32(mtu);
  return info;
}

Netlink::LinkInfo link_info(const nlmsghdr* header) {
  Netlink::LinkInfo info;
  const auto* head = static_cast<const ifinfomsg*>(nlmsg_data(header));
  info.ifindex = static_cast<unsigned>(head->ifi_index);
  info.up = (head->ifi_flags & IFF_UP) != 0;
  auto find = [&](int type) { return nlmsg_find_attr(const_cast<nlmsghdr*>(header), sizeof *head, type); };
  if (nlattr* name = find(IFLA_IFNAME)) info.name = nla_get_string(name);
  if (nlattr* master = find(IFLA_MASTER)) info.master = nla_get_u32(master);
  if (nlattr* peer = find(IFLA_LINK)) info.peer = nla_get_u32(peer);
  if (nlattr* mtu = find(IFLA_MTU)) info.mtu = nla_get_u32(mtu);
  info.physical = find(IFLA_PARENT_DEV_NAME) != nullptr;
  bool carrier = false, queue = false, forwards = info.master == 0;
  if (nlattr* state = find(IFLA_OPERSTATE)) carrier = nla_get_u8(state) == IF_OPER_UP;
  if (nlattr* qdisc = find(IFLA_QDISC)) queue = std::strcmp(nla_get_string(qdisc), "noop") != 0;
  nlattr* kind = find(IFLA_LINKINFO);
  nlattr* port = kind == nullptr ? nullptr : nested(kind, IFLA_INFO_SLAVE_DATA);
  nlattr* state = port == nullptr ? nullptr : nested(port, IFLA_BRPORT_STATE);
  if (state != nullptr) forwards = nla_get_u8(state) == BR_STATE_FORWARDING;
  info.operational = info.up && carrier && queue && forwards;
  if (nlattr* mac = find(IFLA_ADDRESS); mac != nullptr && nla_len(mac) == static_cast<int>(info.mac.size())) {
    std::memcpy(info.mac.data(), nla_data(mac), info.mac.size());
  }
  return info;
}

Request bridge_entry(int type, int flags, unsigned port, const MacAddress& mac) {
  ndmsg head{};
  head.ndm_family = AF_BRIDGE;
  head.ndm_ifindex = static_cast<int>(port);
  head.ndm_flags = NTF_MASTER | NTF_STICKY;  // does not follow frames with this source that come in by another port
  head.ndm_state = NUD_NOARP;                // "static": stays, but is no address of the host
  Request request(type, flags);
  request.head(head).put(NDA_LLADDR, mac.data(), mac.size());
  return request;
}

}  // namespace

void Netlink::Free::operator()(nl_sock* socket) const {
  nl_socket_free(socket);
}

Result<Netlink> Netlink::open() {
  Netlink netlink(nl_socket_alloc());
  if (!netlink.socket_) return fail_errno("netlink socket", ENOMEM);
  if (int code = nl_connect(netlink.socket_.get(), NETLINK_ROUTE); code < 0) {
    return fail(std::string("netlink socket: ") + nl_geterror(code));
  }
  int one = 1, fd = nl_socket_get_fd(netlink.socket_.get());
  // Only for better words in errors; old kernels lack them.
  (void)setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof one);
  (void)setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one);
  nl_socket_disable_seq_check(netlink.socket_.get());
  return netlink;
}

Result<Netlink::LinkInfo> Netlink::link(const std::string& name) const {
  if (name.empty() || name.size() >= IFNAMSIZ) return fail("\"" + name + "\" is not a device name");
  LinkInfo info;
  Request request(RTM_GETLINK, 0);
  request.head(ifinfomsg{}).text(IFLA_IFNAME, name);
  MOSE_TRY(talk(socket_.get(), request, "device " + name, [&](const nlmsghdr* header) { info = link_info(header); }));
  return info;
}

Result<Netlink::LinkInfo> Netlink::link(unsigned ifindex) const {
  LinkInfo info;
  ifinfomsg head{};
  head.ifi_index = static_cast<int>(ifindex);
  Request request(RTM_GETLINK, 0);
  request.head(head);
  MOSE_TRY(talk(socket_.get(), request, "device " + std::to_string(ifindex),
                [&](const nlmsghdr* header) { info = link_info(header); }));
  return info;
}

Status Netlink::change_link(unsigned ifindex, const LinkChange& change) const {
  ifinfomsg head{};
  head.ifi_index = static_cast<int>(ifindex);
  if (change.up) {
    head.ifi_change = IFF_UP;
    head.ifi_flags = *change.up ? IFF_UP : 0;
  }
  Request request(RTM_NEWLINK, 0);
  request.head(head);
  if (change.master) request.value(IFLA_MASTER, static_cast<uint32_t>(*change.master));
  if (change.queue_length) request.value(IFLA_TXQLEN, static_cast<uint32_t>(*change.queue_length));
  if (change.mtu) request.value(IFLA_MTU, static_cast<uint32_t>(*change.mtu));
  if (change.name) request.text(IFLA_IFNAME, *change.name);
  if (change.mac) request.put(IFLA_ADDRESS, change.mac->data(), change.mac->size());
  return talk(socket_.get(), request, "change device " + std::to_string(ifindex));
}

Status Netlink::wait_operational(unsigned ifindex, Nanoseconds bound) const {
  constexpr timespec kPause{.tv_sec = 0, .tv_nsec = 1'000'000};
  for (Timestamp deadline = now() + bound;;) {
    MOSE_ASSIGN(LinkInfo info, link(ifindex));
    if (info.operational) return {};
    if (now() >= deadline) return fail("device " + info.name + " is set up but does not become operational");
    nanosleep(&kPause, nullptr);
  }
}

Status Netlink::create_veth(const std::string& name, const std::string& peer, const MacAddress& peer_mac,
                            int peer_netns, unsigned mtu) const {
  Request request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  request.head(ifinfomsg{}).text(IFLA_IFNAME, name);
  if (mtu != 0) request.value(IFLA_MTU, static_cast<uint32_t>(mtu));
  request.nest(IFLA_LINKINFO, [&](Request& info) {
    info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, [&](Request& data) {
      data.nest(VETH_INFO_PEER, [&](Request& end) {
        end.head(ifinfomsg{}).text(IFLA_IFNAME, peer).put(IFLA_ADDRESS, peer_mac.data(), peer_mac.size());
        end.value(IFLA_NET_NS_FD, static_cast<uint32_t>(peer_netns));
        if (mtu != 0) end.value(IFLA_MTU, static_cast<uint32_t>(mtu));
      });
    });
  });
  return talk(socket_.get(), request, "create veth pair " + name);
}

Status Netlink::create_bridge(const std::string& name) const {
  Request request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  request.head(ifinfomsg{}).text(IFLA_IFNAME, name);
  request.nest(IFLA_LINKINFO, [&](Request& info) {
    info.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, [&](Request& data) {
      data.value(IFLA_BR_STP_STATE, uint32_t{0}).value(IFLA_BR_MCAST_SNOOPING, uint8_t{0});
    });
  });
  return talk(socket_.get(), request, "create bridge " + name);
}

Result<bool> Netlink::delete_link(const std::string& name) const {
  Request request(RTM_DELLINK, 0);
  request.head(ifinfomsg{}).text(IFLA_IFNAME, name);
  return existed(talk(socket_.get(), request, "delete device " + name), {ENODEV});
}

Status Netlink::add_address(unsigned ifindex, const ServiceAddress& address) const {
  ifaddrmsg head{};
  head.ifa_family = static_cast<uint8_t>(address.family);
  head.ifa_prefixlen = static_cast<uint8_t>(address.prefix);
  head.ifa_flags = IFA_F_NODAD | IFA_F_PERMANENT;
  head.ifa_index = ifindex;
  Request request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
  request.head(head).put(IFA_LOCAL, address.bytes.data(), address_size(address));
  request.put(IFA_ADDRESS, address.bytes.data(), address_size(address));
  return talk(socket_.get(), request, "add address " + format_with_prefix(address));
}

Status Netlink::add_default_route(unsigned ifindex, const ServiceAddress& gateway) const {
  rtmsg head{};
  head.rtm_family = static_cast<uint8_t>(gateway.family);
  head.rtm_table = RT_TABLE_MAIN;
  head.rtm_protocol = RTPROT_STATIC;
  head.rtm_scope = RT_SCOPE_UNIVERSE;
  head.rtm_type = RTN_UNICAST;
  Request request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
  request.head(head).put(RTA_GATEWAY, gateway.bytes.data(), address_size(gateway));
  request.value(RTA_OIF, static_cast<uint32_t>(ifindex));
  return talk(socket_.get(), request, "default route by " + format_address(gateway));
}

Result<Netlink::RouteInfo> Netlink::route(const ServiceAddress& to) const {
  const std::string what = "route to " + format_address(to);
  RouteInfo info;
  rtmsg head{};
  head.rtm_family = static_cast<uint8_t>(to.family);
  head.rtm_dst_len = static_cast<uint8_t>(address_size(to) * 8);
  Request request(RTM_GETROUTE, 0);
  request.head(head).put(RTA_DST, to.bytes.data(), address_size(to));
  MOSE_TRY(talk(socket_.get(), request, what, [&](const nlmsghdr* header) { info = route_info(header); }));
  if (info.ifindex == 0 || info.source.family == 0)
    return fail(what + ": the kernel names no device or no address of ours");
  return info;
}

Result<bool> Netlink::has_address(const ServiceAddress& address) const {
  ifaddrmsg head{};
  head.ifa_family = static_cast<uint8_t>(address.family);
  Request request(RTM_GETADDR, NLM_F_DUMP);
  request.head(head);
  bool found = false;
  MOSE_TRY(talk(socket_.get(), request, "list addresses", [&](const nlmsghdr* header) {
    auto find = [&](int type) { return nlmsg_find_attr(const_cast<nlmsghdr*>(header), sizeof(ifaddrmsg), type); };
    nlattr* own = find(IFA_LOCAL);  // missing for IPv6 without a peer
    if (own == nullptr) own = find(IFA_ADDRESS);
    const ServiceAddress one = address_in(own, address.family);
    if (one.family != 0 && one.bytes == address.bytes) found = true;
  }));
  return found;
}

Result<MacAddress> Netlink::resolve_neighbour(unsigned ifindex, const ServiceAddress& address,
                                              Nanoseconds bound) const {
  constexpr timespec kPause{.tv_sec = 0, .tv_nsec = 2'000'000};
  ndmsg head{};
  head.ndm_family = static_cast<uint8_t>(address.family);
  head.ndm_ifindex = static_cast<int>(ifindex);
  head.ndm_flags = NTF_USE;  // as if a packet were sent there: asked when it is not known or old
  Request request(RTM_NEWNEIGH, NLM_F_CREATE);
  request.head(head).put(NDA_DST, address.bytes.data(), address_size(address));
  const std::string what = "neighbour " + format_address(address);
  MOSE_TRY(talk(socket_.get(), request, what));
  for (Timestamp deadline = now() + bound;;) {
    MOSE_ASSIGN(auto entries, neighbours(ifindex));
    for (const NeighbourEntry& entry : entries) {
      if (entry.address.family == address.family && entry.address.bytes == address.bytes) return entry.mac;
    }
    if (now() >= deadline) return fail(what + " does not answer");
    nanosleep(&kPause, nullptr);
  }
}

Status Netlink::add_neighbour(unsigned ifindex, const NeighbourEntry& neighbour) const {
  ndmsg head{};
  head.ndm_family = static_cast<uint8_t>(neighbour.address.family);
  head.ndm_ifindex = static_cast<int>(ifindex);
  head.ndm_state = NUD_REACHABLE;
  Request request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
  request.head(head).put(NDA_DST, neighbour.address.bytes.data(), address_size(neighbour.address));
  request.put(NDA_LLADDR, neighbour.mac.data(), neighbour.mac.size());
  return talk(socket_.get(), request, "neighbour " + format_address(neighbour.address));
}

Result<bool> Netlink::delete_neighbour(unsigned ifindex, const ServiceAddress& address) const {
  ndmsg head{};
  head.ndm_family = static_cast<uint8_t>(address.family);
  head.ndm_ifindex = static_cast<int>(ifindex);
  Request request(RTM_DELNEIGH, 0);
  request.head(head).put(NDA_DST, address.bytes.data(), address_size(address));
  return existed(talk(socket_.get(), request, "neighbour " + format_address(address)), {ENOENT});
}

Result<std::vector<Netlink::NeighbourEntry>> Netlink::neighbours(unsigned ifindex) const {
  std::vector<NeighbourEntry> entries;
  Request request(RTM_GETNEIGH, NLM_F_DUMP);
  request.head(ndmsg{});
  MOSE_TRY(talk(socket_.get(), request, "list neighbours", [&](const nlmsghdr* header) {
    const auto* head = static_cast<const ndmsg*>(nlmsg_data(header));
    bool usable = (head->ndm_state & (NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT)) != 0;
    if (!usable || head->ndm_ifindex != static_cast<int>(ifindex)) return;
    if (head->ndm_family != AF_INET && head->ndm_family != AF_INET6) return;
    NeighbourEntry entry;
    entry.address.family = head->ndm_family;
    entry.address.prefix = head->ndm_family == AF_INET ? 32 : 128;
    nlattr* to = nlmsg_find_attr(const_cast<nlmsghdr*>(header), sizeof *head, NDA_DST);
    nlattr* mac = nlmsg_find_attr(const_cast<nlmsghdr*>(header), sizeof *head, NDA_LLADDR);
    if (to == nullptr || nla_len(to) != static_cast<int>(address_size(entry.address))) return;
    if (mac == nullptr || nla_len(mac) != static_cast<int>(entry.mac.size())) return;
    std::memcpy(entry.address.bytes.data(), nla_data(to), address_size(entry.address));
    std::memcpy(entry.mac.data(), nla_data(mac), entry.mac.size());
    if ((entry.mac[0] & 1) == 0) entries.push_back(entry);
  }));
  return entries;
}

Status Netlink::add_bridge_entry(unsigned port, const MacAddress& mac) const {
  return talk(socket_.get(), bridge_entry(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, port, mac),
              "bridge entry for " + format_mac(mac));
}

Result<bool> Netlink::delete_bridge_entry(unsigned port, const MacAddress& mac) const {
  return existed(talk(socket_.get(), bridge_entry(RTM_DELNEIGH, 0, port, mac), "bridge entry for " + format_mac(mac)),
                 {ENOENT});
}

// The kernel lists them by device and point only; where there is no clsact the list is empty.
Result<std::vector<Netlink::BpfFilter>> Netlink::bpf_filters() const {
  std::vector<unsigned> devices;
  Request links(RTM_GETLINK, NLM_F_DUMP);
  links.head(ifinfomsg{});
  MOSE_TRY(talk(socket_.get(), links, "list devices", [&](const nlmsghdr* header) {
    devices.push_back(static_cast<unsigned>(static_cast<const ifinfomsg*>(nlmsg_data(header))->ifi_index));
  }));
  std::vector<BpfFilter> filters;
  for (unsigned device : devices) {
    for (bool egress : {false, true}) {
      tcmsg at{};
      at.tcm_ifindex = static_cast<int>(device);
      at.tcm_parent = TC_H_MAKE(TC_H_CLSACT, egress ? TC_H_MIN_EGRESS : TC_H_MIN_INGRESS);
      Request request(RTM_GETTFILTER, NLM_F_DUMP);
      request.head(at);
      MOSE_TRY(talk(socket_.get(), request, "list filters of device " + std::to_string(device), [&](const nlmsghdr* header) {
        const auto* head = static_cast<const tcmsg*>(nlmsg_data(header));
        auto* message = const_cast<nlmsghdr*>(header);
        nlattr* kind = nlmsg_find_attr(message, sizeof *head, TCA_KIND);
        nlattr* options = nlmsg_find_attr(message, sizeof *head, TCA_OPTIONS);
        if (kind == nullptr || nla_strcmp(kind, "bpf") != 0 || options == nullptr) return;
        nlattr* program = nested(options, TCA_BPF_ID);
        if (program == nullptr || nla_len(program) != sizeof(uint32_t)) return;
        filters.push_back({.ifindex = device,
                           .egress = egress,
                           .handle = head->tcm_handle,
                           .priority = TC_H_MAJ(head->tcm_info) >> 16,
                           .program = nla_get_u32(program)});
      }));
    }
  }
  return filters;
}

}  // namespace mose
