// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Prometheus' text exposition format, version 0.0.4: families of samples, each with its HELP and TYPE once and before them.
namespace mose::agent {

enum class MetricType : uint8_t { gauge, counter, histogram };
[[nodiscard]] const char* to_string(MetricType type);

struct MetricFamily {
  const char* name;  // with its unit last; a counter ends with _total
  MetricType type;
  const char* help;  // a sentence
};

using MetricLabels = std::vector<std::pair<std::string_view, std::string>>;

// What has been seen, by upper bounds. Bounds ascend; what lies above the last one is counted too.
class MetricHistogram {
 public:
  explicit MetricHistogram(std::span<const double> bounds) : bounds_(bounds), counts_(bounds.size()) {}  // borrowed
  void add(double value);
  [[nodiscard]] std::span<const double> bounds() const { return bounds_; }
  // Of values up to bounds()[index], those below included.
  [[nodiscard]] uint64_t up_to(size_t index) const { return counts_[index]; }
  [[nodiscard]] uint64_t count() const { return count_; }
  [[nodiscard]] double sum() const { return sum_; }

 private:
  std::span<const double> bounds_;
  std::vector<uint64_t> counts_;
  uint64_t count_ = 0;
  double sum_ = 0;
};

class MetricsText {
 public:
  // Ends the family before it. Each family once.
  void family(const MetricFamily& family);
  // Of the family begun last. Values of labels may be any bytes: what is not UTF-8 is replaced.
  void sample(const MetricLabels& labels, double value);
  void sample(double value) { sample({}, value); }
  void histogram(const MetricHistogram& histogram);
  [[nodiscard]] std::string take() { return std::move(text_); }

 private:
  void line(std::string_view suffix, const MetricLabels& labels, double value);

  std::string name_, text_;
};

}  // namespace mose::agent
