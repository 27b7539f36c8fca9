// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "move/channel.h"

// The handshake: HELLO both ways on every connection, before anything else (include/mose/wire/frame.h).
namespace mose::move {

enum class Purpose : uint8_t { unspecified, control, bulk, urgent, query };

inline constexpr size_t kNodeNameMax = 253;  // bytes

struct Hello {
  uint32_t version_min = wire::kVersionMin;
  uint32_t version_max = wire::kVersionMax;
  uint64_t features = 0;  // kFeature... of frame.h
  std::string node;
  std::string architecture;
  uint32_t page_size = 0;
  std::vector<std::string> cpu_features;  // sorted; only flags that programs can use (hello.cpp)
  std::string criu_version;
  std::string software;
  Purpose purpose = Purpose::unspecified;
  std::string token;

  bool operator==(const Hello&) const = default;
};

// What this machine says of itself.
[[nodiscard]] Hello local_hello(std::string node, Purpose purpose);

[[nodiscard]] std::vector<std::byte> encode_hello(const Hello& hello);
[[nodiscard]] Result<Hello> decode_hello(std::span<const std::byte> payload);

// Whether both ends speak a common version and are the same kind of machine; one sentence that names both nodes' values.
[[nodiscard]] Status check_peer(const Hello& mine, const Hello& theirs);
// What programs started on `source` may be using and `destination` lacks; empty: fine.
[[nodiscard]] std::vector<std::string> missing_cpu_features(const Hello& source, const Hello& destination);
// Equal length and bytes, in time that does not depend on where they differ; an empty token equals nothing.
[[nodiscard]] bool same_token(std::string_view a, std::string_view b);

// Connecting end: sends `mine`, returns the checked answer. An ERROR frame becomes its text.
[[nodiscard]] Result<Hello> greet(Channel& channel, const Hello& mine, Nanoseconds bound);
// Accepting end, with the HELLO already read: answers with `mine`, or with ERROR(reason).
[[nodiscard]] Status welcome(Channel& channel, const Hello& mine);
[[nodiscard]] Status turn_away(Channel& channel, std::string_view reason);

}  // namespace mose::move
