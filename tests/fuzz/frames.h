// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace mose::fuzz {

// Everything that a peer can make us decode, fed with `input`: as payload of each decoder, and as the byte stream of a
// connection that a page receiver reads. Ends the process (CHECK, sanitizer) when something accepts what it must not.
void feed(std::span<const std::byte> input);

// Whether a receiver takes `pages` as the payload of its first PAGES frame. The frame's checksum is right where it can be
// computed, but for the bits of `damage`.
[[nodiscard]] bool receive(std::span<const std::byte> pages, uint64_t damage = 0);

}  // namespace mose::fuzz
