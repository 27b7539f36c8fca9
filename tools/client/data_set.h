// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// What the client has put into the server, so that every answer can be judged by its content alone.
//
// A value is a function of key and version: "INDEX:VERSION:" and a filler that depends on both, so that a page of zeros,
// of an older state or of another key is seen in any byte. For each key the client knows the newest version that was
// sent and the newest that was acknowledged; the right answer lies between them.
namespace mose::client {

// Memory that one key costs in Redis beside its value (key, entry, object), about: used only to choose the number of keys.
inline constexpr size_t kKeyOverheadBytes = 200;
inline constexpr size_t kValueHeaderBytes = 22;  // "0000000001:0000000002:"

class DataSet {
 public:
  // At least one key; value_bytes at least kValueHeaderBytes.
  DataSet(uint32_t keys, uint32_t value_bytes) : sent_(keys, 0), acknowledged_(keys, 0), value_bytes_(value_bytes) {}

  [[nodiscard]] uint32_t keys() const { return static_cast<uint32_t>(sent_.size()); }
  [[nodiscard]] uint32_t value_bytes() const { return value_bytes_; }
  [[nodiscard]] static std::string key_name(uint32_t index);

  [[nodiscard]] uint32_t sent(uint32_t index) const { return sent_[index]; }
  [[nodiscard]] uint32_t acknowledged(uint32_t index) const { return acknowledged_[index]; }
  // The version of the next write of this key.
  uint32_t next_version(uint32_t index) { return ++sent_[index]; }
  void acknowledge(uint32_t index, uint32_t version) { acknowledged_[index] = version; }

  [[nodiscard]] std::string value(uint32_t index, uint32_t version) const;

  // The key and version that a value claims; false when it is none of ours or any byte differs.
  [[nodiscard]] bool parse(std::string_view value, uint32_t& index, uint32_t& version) const;

 private:
  std::vector<uint32_t> sent_, acknowledged_;
  uint32_t value_bytes_;
};

// Number of keys for a data set that takes about `megabytes` MiB in Redis.
[[nodiscard]] uint32_t keys_for(double megabytes, uint32_t value_bytes);

}  // namespace mose::client
