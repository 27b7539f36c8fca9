// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace mose::test {

// A strict reader of Prometheus' text exposition format, 0.0.4: what `promtool check metrics` takes without a word, and
// nothing else. HELP, TYPE and the samples of a family stand together and in this order.
struct Exposition {
  using Labels = std::map<std::string, std::string>;
  struct Sample {
    std::string name;  // with _bucket, _sum or _count
    Labels labels;
    double value = 0;
  };
  struct Family {
    std::string help, type;
    std::vector<Sample> samples;
  };
  std::map<std::string, Family> families;

  // Of the one sample of this name that has these labels, and perhaps others; nothing: there is none, or more than one.
  [[nodiscard]] std::optional<double> value(const std::string& name, const Labels& labels = {}) const;
};

// The error names the line.
[[nodiscard]] Result<Exposition> parse_exposition(const std::string& text);

}  // namespace mose::test
