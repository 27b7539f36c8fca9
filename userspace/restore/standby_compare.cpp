// SPDX-License-Identifier: MIT
#include "restore/standby_compare.h"

#include "restore/standby_parts.h"

namespace mose::restore {

Result<FieldPair> FieldPair::parse(const std::string& name, std::string_view early, std::string_view final) {
  auto a = ImageFields::parse(early);
  if (!a) return context("early " + name, std::move(a).error());
  auto b = ImageFields::parse(final);
  if (!b) return context(name, std::move(b).error());
  return FieldPair{std::move(*a), std::move(*b)};
}

Status FieldPair::rest_equal(const std::string& what, std::initializer_list<Words> words) const {
  auto field = ImageFields::difference(early, final);
  if (!field) return {};
  for (const Words& known : words) {
    std::string_view number = known.field;
    if (field->starts_with(number) && (field->size() == number.size() || (*field)[number.size()] == '.'))
      return fail(what + " has changed " + known.words + " since the standby was made");
  }
  return fail(what + " has changed since the standby was made (field " + *field + ")");
}

Result<FieldPair> take_pair(FieldPair& from, uint32_t number, const std::string& what) {
  auto early = from.early.take_bytes(number);
  auto final = from.final.take_bytes(number);
  if (early.has_value() != final.has_value()) return fail(what + " is there in only one of the two dumps");
  return FieldPair::parse(what, early.value_or(""), final.value_or(""));
}

namespace {

// Everything that nobody has understood.
Status compare_others(const StandbyComparison& c) {
  for (const auto& [name, bytes] : c.early.files()) {
    if (c.compared.contains(name)) continue;
    auto other = c.final.bytes(name);
    if (!other) return fail("the image " + name + " of the early dump has no counterpart");
    if (*other != bytes) return fail("the image " + name + " is another one since the standby was made");
  }
  for (const auto& [name, bytes] : c.final.files()) {
    if (!c.compared.contains(name) && !c.early.has(name))
      return fail("the image " + name + " is new since the standby was made");
  }
  return {};
}

}  // namespace

Result<StandbyDelta> compare_images(const ImageSet& early, const ImageSet& final, StandbyMemory memory) {
  StandbyDelta delta;
  StandbyComparison c{early, final, memory, delta, {}, {}, {}, {}};
  MOSE_TRY(compare_processes(c));
  MOSE_TRY(compare_descriptors(c));
  MOSE_TRY(compare_memory(c));
  MOSE_TRY(compare_files(c));
  MOSE_TRY(compare_others(c));
  return delta;
}

}  // namespace mose::restore
