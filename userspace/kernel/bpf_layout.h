// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

// Values of a map that another build of ours has made, in the layout that this one knows: by the names of their fields, as
// the type information (BTF) that every map carries in the kernel says. So a structure may grow, also in its middle.
namespace mose::bpf {

// What must agree for a program to be given another's map.
struct MapShape {
  uint32_t type = 0, key_size = 0, value_size = 0, max_entries = 0, flags = 0;
  bool operator==(const MapShape&) const = default;
};
[[nodiscard]] Result<MapShape> map_shape(int map);

class LayoutConversion {
 public:
  // From values of one loaded map to those of another. Read-only data of an object counts as a value. Fails when one of them
  // has no type information, and where a field of one name has another kind or has become narrower.
  [[nodiscard]] static Result<LayoutConversion> between(int from_map, int to_map);

  // The same fields at the same places: nothing need be converted.
  [[nodiscard]] bool same() const { return same_; }
  // What only `to` has becomes zero, what only `from` has is left out.
  void convert(std::span<const std::byte> from, std::span<std::byte> to) const;
  // Fields that only one side has, by path; for a log line.
  [[nodiscard]] const std::string& dropped() const { return dropped_; }

 private:
  friend class LayoutComparison;
  struct Piece {
    uint32_t from = 0, to = 0, size = 0;
  };
  std::vector<Piece> pieces_;
  std::string dropped_;
  bool same_ = false;
};

// Every value of `from` into `to`, which has keys of the same size: per-CPU values each for itself. Keys that `to` has no
// place for are an error.
[[nodiscard]] Status copy_values(int from, int to, const LayoutConversion& conversion);

}  // namespace mose::bpf
