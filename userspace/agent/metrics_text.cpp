// SPDX-License-Identifier: MIT
#include "agent/metrics_text.h"

#include <fmt/format.h>

#include <cmath>

namespace mose::agent {
namespace {

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

// Bytes of a well-formed character of UTF-8 at the beginning of `text`; 0: there is none.
size_t character_bytes(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  const auto second = static_cast<unsigned char>(text[1]);
  // Longer than need be, surrogates, beyond the last character.
  const unsigned char least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const unsigned char most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (second < least || second > most) return 0;
  for (size_t i = 2; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return 0;
  }
  return length;
}

std::string escaped(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t bytes = character_bytes(text);
    if (bytes == 0) out += "\xef\xbf\xbd";
    else if (text[0] == '\\' || text[0] == '"') out.append("\\").append(text, 0, 1);
    else if (text[0] == '\n') out += "\\n";
    else out.append(text, 0, bytes);
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  return out;
}

}  // namespace

const char* to_string(MetricType type) {
  switch (type) {
    case MetricType::gauge:
      return "gauge";
    case MetricType::counter:
      return "counter";
    case MetricType::histogram:
      return "histogram";
  }
  return "?";
}

void MetricHistogram::add(double value) {
  for (size_t i = 0; i < bounds_.size(); ++i) {
    if (value <= bounds_[i]) ++counts_[i];
  }
  ++count_;
  sum_ += value;
}

void MetricsText::family(const MetricFamily& family) {
  name_ = family.name;
  text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name_, family.help, name_, to_string(family.type));
}

void MetricsText::sample(const MetricLabels& labels, double value) { line("", labels, value); }

void MetricsText::histogram(const MetricHistogram& histogram) {
  for (size_t i = 0; i < histogram.bounds().size(); ++i) {
    line("_bucket", {{"le", number(histogram.bounds()[i])}}, static_cast<double>(histogram.up_to(i)));
  }
  line("_bucket", {{"le", "+Inf"}}, static_cast<double>(histogram.count()));
  line("_sum", {}, histogram.sum());
  line("_count", {}, static_cast<double>(histogram.count()));
}

void MetricsText::line(std::string_view suffix, const MetricLabels& labels, double value) {
  text_.append(name_).append(suffix);
  const char* before = "{";
  for (const auto& [name, text] : labels) {
    text_ += fmt::format("{}{}=\"{}\"", before, name, escaped(text));
    before = ",";
  }
  if (!labels.empty()) text_ += "}";
  text_ += fmt::format(" {}\n", number(value));
}

}  // namespace mose::agent
