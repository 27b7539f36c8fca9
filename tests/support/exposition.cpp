// SPDX-License-Identifier: MIT
#include "support/exposition.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <set>

namespace mose::test {
namespace {

bool is_name(const std::string& text, bool colon) {
  auto letter = [&](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (colon && c == ':'); };
  return !text.empty() && letter(text[0]) && std::ranges::all_of(text, [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

std::optional<double> number_of(const std::string& text) {
  if (text == "+Inf") return std::numeric_limits<double>::infinity();
  if (text == "-Inf") return -std::numeric_limits<double>::infinity();
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  double value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

class Reader {
 public:
  explicit Reader(const std::string& line) : line_(line) {}

  Result<Exposition::Sample> sample() {
    Exposition::Sample out;
    out.name = until("{ ");
    if (!is_name(out.name, true)) return fail("not the name of a sample: " + out.name);
    if (at_ < line_.size() && line_[at_] == '{') MOSE_TRY(labels(out.labels));
    if (at_ >= line_.size() || line_[at_] != ' ') return fail("no blank before the value");
    auto value = number_of(line_.substr(at_ + 1));
    if (!value) return fail("not a number: " + line_.substr(at_ + 1));
    out.value = *value;
    return out;
  }

 private:
  std::string until(const char* ends) {
    const size_t end = std::min(line_.find_first_of(ends, at_), line_.size());
    return line_.substr(std::exchange(at_, end), end - at_);
  }
  Status labels(Exposition::Labels& out) {
    do {
      ++at_;
      const size_t begin = at_;
      at_ = std::min(line_.find('=', at_), line_.size());
      const std::string name = line_.substr(begin, at_ - begin);
      if (!is_name(name, false) || name.starts_with("__")) return fail("not the name of a label: " + name);
      if (line_.compare(at_, 2, "=\"") != 0) return fail("a label's value is not in quotes");
      at_ += 2;
      MOSE_ASSIGN(std::string value, quoted());
      if (!out.emplace(name, value).second) return fail("label twice: " + name);
    } while (at_ < line_.size() && line_[at_] == ',');
    if (at_ >= line_.size() || line_[at_] != '}') return fail("the labels do not end");
    ++at_;
    return {};
  }
  Result<std::string> quoted() {
    std::string out;
    while (at_ < line_.size() && line_[at_] != '"') {
      char c = line_[at_++];
      if (c == '\\') {
        if (at_ >= line_.size()) break;
        const char escape = line_[at_++];
        if (escape != '\\' && escape != '"' && escape != 'n') return fail("an escape that there is not");
        c = escape == 'n' ? '\n' : escape;
      }
      out += c;
    }
    if (at_ >= line_.size()) return fail("a label's value does not end");
    ++at_;
    return out;
  }

  const std::string& line_;
  size_t at_ = 0;
};

// What a family's samples may be called.
Status check_sample(const std::string& family, const Exposition::Family& kind, const Exposition::Sample& sample) {
  if (kind.type != "histogram") {
    return sample.name == family ? Status{} : Status(fail(sample.name + " among the samples of " + family));
  }
  const bool bucket = sample.name == family + "_bucket";
  if (!bucket && sample.name != family + "_sum" && sample.name != family + "_count") return fail(sample.name + " among the samples of " + family);
  if (bucket != sample.labels.contains("le")) return fail("le belongs to buckets, and every bucket has one");
  return {};
}

// Buckets ascend and are cumulative, the last is +Inf and all of them.
Status check_histogram(const std::string& name, const Exposition::Family& family) {
  double bound = -std::numeric_limits<double>::infinity(), seen = 0;
  std::optional<double> count;
  bool sum = false;
  for (const auto& sample : family.samples) {
    if (sample.name == name + "_sum") sum = true;
    if (sample.name == name + "_count") count = sample.value;
    if (sample.name != name + "_bucket") continue;
    const double next = number_of(sample.labels.at("le")).value_or(bound);
    if (next <= bound || sample.value < seen) return fail(name + ": buckets do not ascend");
    bound = next;
    seen = sample.value;
  }
  if (!std::isinf(bound) || !sum || count != seen) return fail(name + ": +Inf, _sum or _count is missing or wrong");
  return {};
}

Status check_family(const std::string& name, const Exposition::Family& family) {
  if (family.help.empty()) return fail(name + " has no HELP");
  if (name.ends_with("_total") != (family.type == "counter")) return fail(name + ": counters, and nothing else, end with _total");
  for (const char* suffix : {"_bucket", "_count", "_sum", "_milliseconds", "_ms", "_kilobytes", "_percent"}) {
    if (name.ends_with(suffix)) return fail(name + " ends with " + suffix);
  }
  return family.type == "histogram" && !family.samples.empty() ? check_histogram(name, family) : Status{};
}

}  // namespace

std::optional<double> Exposition::value(const std::string& name, const Labels& labels) const {
  std::optional<double> found;
  for (const auto& [family, its] : families) {
    for (const Sample& sample : its.samples) {
      const bool fits = sample.name == name && std::ranges::all_of(labels, [&](const auto& label) {
        auto has = sample.labels.find(label.first);
        return has != sample.labels.end() && has->second == label.second;
      });
      if (fits && found) return std::nullopt;
      if (fits) found = sample.value;
    }
  }
  return found;
}

Result<Exposition> parse_exposition(const std::string& text) {
  Exposition out;
  std::string family;
  bool typed = false;
  std::set<std::pair<std::string, Exposition::Labels>> seen;
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    const std::string where = "line " + std::to_string(++number);
    if (end == std::string::npos) return fail(where + " does not end");
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    const bool help = line.starts_with("# HELP "), type = line.starts_with("# TYPE ");
    if (help || type) {
      const std::string rest = line.substr(7);
      const size_t blank = std::min(rest.find(' '), rest.size());
      const std::string name = rest.substr(0, blank), words = rest.substr(std::min(blank + 1, rest.size()));
      if (!is_name(name, true)) return fail(where + ": not the name of a family");
      if (help && !out.families.emplace(name, Exposition::Family{words, {}, {}}).second) return fail(where + ": family twice: " + name);
      if (type && (name != family || typed)) return fail(where + ": TYPE is not behind HELP");
      if (type && words != "gauge" && words != "counter" && words != "histogram") return fail(where + ": unknown type " + words);
      if (type) out.families[name].type = words;
      typed = type;
      family = name;
      continue;
    }
    if (line.starts_with('#') || line.empty()) return fail(where + " is neither HELP nor TYPE nor a sample");
    auto sample = Reader(line).sample();
    if (!sample) return context(where, sample.error());
    if (!typed) return fail(where + ": a sample without TYPE");
    if (auto fits = check_sample(family, out.families[family], *sample); !fits) return context(where, fits.error());
    if (!seen.emplace(sample->name, sample->labels).second) return fail(where + ": the same sample twice");
    out.families[family].samples.push_back(std::move(*sample));
  }
  for (const auto& [name, its] : out.families) MOSE_TRY(check_family(name, its));
  return out;
}

}  // namespace mose::test
