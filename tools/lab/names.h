// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/result.h"

// Every name that a lab uses follows from the lab's own name, so that what a crashed run left is found by the next one.
// Addresses are from the documentation range 198.51.100.0/24: one segment, as seen by all.
namespace mose::lab {

inline constexpr const char* kDefaultLab = "default";
inline constexpr const char* kStateRoot = "/run/mose-lab";
inline constexpr const char* kDiskParent = "/var/lib/mose";
inline constexpr const char* kDiskRoot = "/var/lib/mose/lab";
inline constexpr const char* kNetnsRoot = "/run/netns";  // where iproute2 looks: `ip netns exec` works on a lab

// What `lab run` moves: MOSE's own, and that of the baseline that is MOSE as well.
inline constexpr const char* kWorkload = "redis";
inline constexpr const char* kNaiveProtection = "naive-wp";

inline constexpr const char* kPrefixLength = "24";
inline constexpr const char* kClientAddress = "198.51.100.2";
inline constexpr const char* kClientMac = "02:4d:6f:00:00:02";
inline constexpr const char* kServiceAddress = "198.51.100.100";
inline constexpr const char* kStockAddress = "198.51.100.101";
inline constexpr const char* kStockPagePort = "7402";  // of stock CRIU's page server at the source
inline constexpr const char* kNaiveAddress = "198.51.100.102";
inline constexpr uint16_t kPeerPort = 7400;
inline constexpr uint16_t kRedisPort = 6379;

inline constexpr std::array<const char*, 2> kNodes = {"a", "b"};
[[nodiscard]] bool is_node(const std::string& node);
[[nodiscard]] std::string node_address(const std::string& node);  // .11, .12

// Letters, digits and '-', at most 24 of them: it becomes part of namespace and directory names.
[[nodiscard]] Status check_lab_name(const std::string& lab);

class Names {
 public:
  explicit Names(std::string lab) : lab_(std::move(lab)) {}

  [[nodiscard]] const std::string& lab() const { return lab_; }
  [[nodiscard]] std::string state_file() const { return std::string(kStateRoot) + "/" + lab_ + ".json"; }
  [[nodiscard]] std::string lock_file() const { return std::string(kStateRoot) + "/" + lab_ + ".lock"; }
  // `place`: sw, client, a, b.
  [[nodiscard]] std::string netns(const std::string& place) const { return "mose-lab-" + lab_ + "-" + place; }
  [[nodiscard]] std::string netns_path(const std::string& place) const { return std::string(kNetnsRoot) + "/" + netns(place); }
  // Below the cgroup version 2 mount, without a leading slash.
  [[nodiscard]] std::string cgroup() const { return "mose-lab-" + lab_; }
  [[nodiscard]] std::string node_cgroup(const std::string& node) const { return cgroup() + "/" + node; }
  [[nodiscard]] std::string disk() const { return std::string(kDiskRoot) + "/" + lab_; }
  [[nodiscard]] std::string node_disk(const std::string& node) const { return disk() + "/" + node; }
  [[nodiscard]] std::string node_root(const std::string& node) const { return node_disk(node) + "/root"; }
  [[nodiscard]] std::string agent_log(const std::string& node) const { return node_disk(node) + "/mosed.log"; }

 private:
  std::string lab_;
};

// The places with a network namespace.
inline constexpr std::array<const char*, 4> kPlaces = {"sw", "client", "a", "b"};

}  // namespace mose::lab
