// SPDX-License-Identifier: MIT
#include "client/data_set.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace mose::client {
namespace {

uint64_t splitmix(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

void append_padded(std::string& out, uint32_t value) {
  char digits[10];
  for (int i = 9; i >= 0; --i) {
    digits[i] = static_cast<char>('0' + value % 10);
    value /= 10;
  }
  out.append(digits, sizeof digits);
}

bool parse_padded(std::string_view text, uint32_t& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc{} && end == text.data() + text.size();
}

}  // namespace

std::string DataSet::key_name(uint32_t index) {
  std::string out = "key:";
  append_padded(out, index);
  return out;
}

std::string DataSet::value(uint32_t index, uint32_t version) const {
  std::string out;
  out.reserve(value_bytes_ + sizeof(uint64_t));
  append_padded(out, index);
  out += ':';
  append_padded(out, version);
  out += ':';
  uint64_t state = (static_cast<uint64_t>(index) << 32) | version;
  while (out.size() < value_bytes_) {
    uint64_t word = splitmix(state);
    out.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  out.resize(value_bytes_);
  return out;
}

bool DataSet::parse(std::string_view text, uint32_t& index, uint32_t& version) const {
  if (text.size() != value_bytes_ || text[10] != ':' || text[21] != ':') return false;
  if (!parse_padded(text.substr(0, 10), index) || !parse_padded(text.substr(11, 10), version)) return false;
  return index < keys() && text == value(index, version);
}

uint32_t keys_for(double megabytes, uint32_t value_bytes) {
  double keys = megabytes * 1048576.0 / (value_bytes + kKeyOverheadBytes);
  return static_cast<uint32_t>(std::clamp(keys, 1.0, 100e6));
}

}  // namespace mose::client
