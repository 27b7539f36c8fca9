// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <set>

#include "restore/image_format.h"
#include "restore/images.h"
#include "restore/standby_compare.h"

namespace mose::restore {

// Shared by the parts of compare_images; of no use elsewhere.
struct StandbyComparison {
  const ImageSet& early;
  const ImageSet& final;
  StandbyMemory memory;
  StandbyDelta& delta;

  // CRIU numbers open files in the order in which it meets them: the numbers of two dumps pair up one to one.
  std::map<uint32_t, uint32_t> final_file, early_file;
  std::map<uint32_t, StandbyDescriptor> descriptors;  // by the early number
  std::set<uint32_t> shared;                          // early numbers of files that several processes have open
  // Images that somebody has compared; all others must be equal bytes.
  std::set<std::string> compared;

  [[nodiscard]] bool pair_files(uint32_t early_id, uint32_t final_id) {
    return final_file.try_emplace(early_id, final_id).first->second == final_id &&
           early_file.try_emplace(final_id, early_id).first->second == early_id;
  }
};

// A message of each side; both must parse.
struct FieldPair {
  ImageFields early, final;
  [[nodiscard]] static Result<FieldPair> parse(const std::string& name, std::string_view early, std::string_view final);
  // What is left must be equal. The error says `what`, or the words that `words` has for the field.
  struct Words {
    const char* field;
    const char* words;
  };
  [[nodiscard]] Status rest_equal(const std::string& what, std::initializer_list<Words> words = {}) const;
};

// One nested message that both sides have or neither has; an empty pair when neither has.
[[nodiscard]] Result<FieldPair> take_pair(FieldPair& from, uint32_t number, const std::string& what);

// Of a time in seconds: beyond it no clock gets.
inline constexpr uint64_t kSecondsMax = uint64_t{1} << 33;

[[nodiscard]] Status compare_processes(StandbyComparison& c);    // pstree, ids, cores, timens, inventory
[[nodiscard]] Status compare_descriptors(StandbyComparison& c);  // fdinfo
[[nodiscard]] Status compare_memory(StandbyComparison& c);       // mm, fs, page maps and pages
[[nodiscard]] Status compare_files(StandbyComparison& c);        // files, pipes, connections

}  // namespace mose::restore
