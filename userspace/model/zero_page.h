// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "model/page_set.h"

namespace mose {

// `page` is kPageSize bytes long.
inline bool is_zero_page(const std::byte* page) {
  uint64_t head = 0;
  std::memcpy(&head, page, sizeof(head));
  // The page against itself, shifted: equal means that every word repeats the (zero) first one.
  return head == 0 && std::memcmp(page, page + sizeof(head), kPageSize - sizeof(head)) == 0;
}

}  // namespace mose
