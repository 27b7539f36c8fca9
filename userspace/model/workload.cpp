// SPDX-License-Identifier: MIT
#include "model/workload.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace mose {
namespace {

constexpr std::string_view kCleanPath = "an absolute path without \"..\", \".\", \"//\" and \"/\" at its end";
constexpr size_t kNameMax = 31;  // fits into a pin name with a suffix and into one interface alias

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

// One spelling per path, so that two declarations of one place compare equal: no "..", ".", "//" or "/" at the end.
bool absolute_clean(std::string_view path) {
  if (path.empty() || path.front() != '/') return false;
  if (path == "/") return true;
  for (std::string_view part : split(path.substr(1), '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

// Whether all bits of the host part are `value`; an empty one has none that differ.
bool host_part_is(const ServiceAddress& address, bool value) {
  const unsigned bits = address.family == AF_INET ? 32 : 128;
  for (unsigned bit = address.prefix; bit < bits; ++bit) {
    if (((address.bytes[bit / 8] >> (7 - bit % 8)) & 1) != static_cast<unsigned>(value)) return false;
  }
  return true;
}

// Why no service can be reached at the address; empty: one can. Link-local ones are usual on a single segment.
std::string_view unusable_v4(const ServiceAddress& address) {
  const uint8_t first = address.bytes[0];
  if (std::count(address.bytes.begin(), address.bytes.begin() + 4, 0) == 4) return "it stands for every address of a node";
  if (std::count(address.bytes.begin(), address.bytes.begin() + 4, 0xff) == 4) return "it is the broadcast address of every segment";
  if (first == 127) return "it is a loopback address";
  if (first >= 224 && first <= 239) return "it is a multicast address";
  if (address.prefix >= 31) return {};  // RFC 3021: both are hosts
  if (host_part_is(address, false)) return "it is the address of its network";
  if (host_part_is(address, true)) return "it is the broadcast address of its network";
  return {};
}

std::string_view unusable_v6(const ServiceAddress& address) {
  const bool high_zero = std::all_of(address.bytes.begin(), address.bytes.end() - 1, [](uint8_t b) { return b == 0; });
  if (high_zero && address.bytes.back() == 0) return "it stands for every address of a node";
  if (high_zero && address.bytes.back() == 1) return "it is the loopback address";
  if (address.bytes[0] == 0xff) return "it is a multicast address";
  // RFC 6164: not between two routers.
  if (address.prefix < 127 && host_part_is(address, false)) return "it is the address of any router of its network (subnet-router anycast)";
  return {};
}

uint64_t fnv1a(const uint8_t* bytes, size_t count) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (size_t i = 0; i < count; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3ull;
  return hash;
}

}  // namespace

std::string format_mac(const MacAddress& m) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5]);
}

Result<MacAddress> parse_mac(std::string_view text) {
  MacAddress mac{};
  auto parts = split(text, ':');
  if (parts.size() != mac.size()) return fail(fmt::format("\"{}\" is not a MAC address", text));
  for (size_t i = 0; i < mac.size(); ++i) {
    auto [end, error] = std::from_chars(parts[i].data(), parts[i].data() + parts[i].size(), mac[i], 16);
    if (error != std::errc() || parts[i].size() != 2 || end != parts[i].data() + 2) {
      return fail(fmt::format("\"{}\" is not a MAC address", text));
    }
  }
  return mac;
}

Result<ServiceAddress> parse_service_address(std::string_view text) {
  auto bad = [&](std::string_view why) {
    return fail(fmt::format("\"{}\" is not an address with a prefix such as 192.0.2.10/24: {}", text, why));
  };
  size_t slash = text.find('/');
  if (slash == std::string_view::npos) return bad("the prefix length is missing");
  std::string host(text.substr(0, slash));
  std::string_view digits = text.substr(slash + 1);
  ServiceAddress address;
  address.family = host.find(':') == std::string::npos ? AF_INET : AF_INET6;
  if (inet_pton(address.family, host.c_str(), address.bytes.data()) != 1) return bad("the address cannot be read");
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), address.prefix);
  unsigned longest = address.family == AF_INET ? 32 : 128;
  if (error != std::errc() || end != digits.data() + digits.size() || address.prefix > longest || address.prefix == 0) {
    return bad(fmt::format("the prefix length must be 1 to {}", longest));
  }
  return address;
}

std::string format_address(const ServiceAddress& address) {
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(address.family, address.bytes.data(), text, sizeof text);
  return text;
}

std::string format_with_prefix(const ServiceAddress& address) {
  return fmt::format("{}/{}", format_address(address), address.prefix);
}

MacAddress mac_for(const ServiceAddress& address) {
  uint64_t hash = fnv1a(address.bytes.data(), address.family == AF_INET ? 4 : 16);
  MacAddress mac;
  for (size_t i = 0; i < mac.size(); ++i) mac[i] = static_cast<uint8_t>(hash >> (8 * i));
  mac[0] = static_cast<uint8_t>((mac[0] & 0xfc) | 0x02);  // locally administered, unicast
  return mac;
}

Result<MountMode> parse_mount_mode(std::string_view text) {
  if (text == "identical") return MountMode::identical;
  if (text == "shared") return MountMode::shared;
  if (text == "copy") return MountMode::copy;
  return fail(fmt::format("\"{}\" is not a mount mode: identical, shared or copy", text));
}

std::string_view to_string(MountMode mode) {
  switch (mode) {
    case MountMode::identical:
      return "identical";
    case MountMode::shared:
      return "shared";
    case MountMode::copy:
      return "copy";
  }
  return "?";
}

Result<WorkloadMount> parse_mount(std::string_view text) {
  auto parts = split(text, ':');
  if (parts.size() < 3 || parts.size() > 4 || (parts.size() == 4 && parts[3] != "ro")) {
    return fail(fmt::format("\"{}\" is not a mount: SOURCE:TARGET:identical|shared|copy[:ro]", text));
  }
  WorkloadMount mount{std::string(parts[0]), std::string(parts[1]), MountMode::identical, parts.size() == 4};
  MOSE_ASSIGN(mount.mode, parse_mount_mode(parts[2]));
  return mount;
}

Status validate(const WorkloadSpec& spec) {
  auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  bool name_ok = !spec.name.empty() && spec.name.size() <= kNameMax && plain(spec.name[0]) &&
                 std::all_of(spec.name.begin(), spec.name.end(), [&](char c) { return plain(c) || c == '-'; });
  if (!name_ok) {
    return fail(fmt::format("\"{}\" is not a workload name: lower-case letters, digits and dashes, at most {}", spec.name,
                            kNameMax));
  }
  if (spec.addresses.empty()) return fail(fmt::format("workload {} has no address: give --address", spec.name));
  for (const ServiceAddress& address : spec.addresses) {
    auto same = [&](const ServiceAddress& other) {
      return other.family == address.family && other.bytes == address.bytes;
    };
    if (std::count_if(spec.addresses.begin(), spec.addresses.end(), same) > 1) {
      return fail(fmt::format("address {} is given twice", format_address(address)));
    }
    const std::string_view why = address.family == AF_INET ? unusable_v4(address) : unusable_v6(address);
    if (!why.empty()) return fail(fmt::format("address {} cannot be a service's: {}", format_with_prefix(address), why));
  }
  if (!absolute_clean(spec.root)) return fail(fmt::format("root \"{}\" is not {}", spec.root, kCleanPath));
  for (const WorkloadMount& mount : spec.mounts) {
    for (const std::string& path : {mount.source, mount.target}) {
      if (!absolute_clean(path)) return fail(fmt::format("mount path \"{}\" is not {}", path, kCleanPath));
    }
    if (mount.target == "/" || mount.target == "/proc") return fail(mount.target + " cannot be mounted over");
    auto same = [&](const WorkloadMount& other) { return other.target == mount.target; };
    if (std::count_if(spec.mounts.begin(), spec.mounts.end(), same) > 1) {
      return fail(fmt::format("mount target {} is declared twice", mount.target));
    }
  }
  return {};
}

}  // namespace mose
