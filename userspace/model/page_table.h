// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "model/page_set.h"

namespace mose {

// One value per page of one address space, T{} meaning "none". Stored in blocks of 2 MiB of address space, so that a
// dense space costs sizeof(T) per page and a sparse one at most one block per 2 MiB touched. Blocks never move: threads
// may work on different blocks at once once the blocks exist.
template <typename T>
class PageTable {
 public:
  static constexpr uint64_t kBlockPages = 512;
  using Block = std::array<T, kBlockPages>;

  [[nodiscard]] T get(uint64_t page) const {
    const Block* block = find_block(page);
    return block ? (*block)[page % kBlockPages] : T{};
  }
  void set(uint64_t page, T value) { block_of(page)[page % kBlockPages] = value; }

  // The block that holds `page`, made when it is missing.
  [[nodiscard]] Block& block_of(uint64_t page) {
    auto& block = blocks_[page / kBlockPages];
    if (!block) block = std::make_unique<Block>(Block{});
    return *block;
  }
  [[nodiscard]] const Block* find_block(uint64_t page) const {
    auto it = blocks_.find(page / kBlockPages);
    return it == blocks_.end() ? nullptr : it->second.get();
  }
  [[nodiscard]] size_t blocks() const { return blocks_.size(); }
  void clear() { blocks_.clear(); }

  // Calls visit(page, value) for every page whose value is not T{}, ascending.
  template <typename Visit>
  void for_each(Visit visit) const {
    std::vector<uint64_t> keys;
    keys.reserve(blocks_.size());
    for (const auto& [key, block] : blocks_) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    for (uint64_t key : keys) {
      const Block& block = *blocks_.at(key);
      for (uint64_t i = 0; i < kBlockPages; ++i) {
        if (block[i] != T{}) visit(key * kBlockPages + i, block[i]);
      }
    }
  }

 private:
  std::unordered_map<uint64_t, std::unique_ptr<Block>> blocks_;
};

}  // namespace mose
