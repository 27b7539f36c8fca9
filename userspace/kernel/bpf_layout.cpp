// SPDX-License-Identifier: MIT
#include "kernel/bpf_layout.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>

#include "kernel/bpf_info.h"
#include "kernel/bpf_object.h"

namespace mose::bpf {
namespace {

constexpr unsigned kDepthMax = 16;  // of structures in structures

struct FreeBtf {
  void operator()(btf* types) const { btf__free(types); }
};

// One field somewhere in a value: whose types, which of them, where.
struct Place {
  const btf* types = nullptr;
  uint32_t type = 0;
  uint32_t offset = 0;

  [[nodiscard]] const btf_type* kind() const { return btf__type_by_id(types, type); }
  // Without names and qualifiers; the one variable of read-only data stands for all of it.
  [[nodiscard]] Place plain() const {
    Place out = *this;
    for (const btf_type* at = out.kind(); at != nullptr; at = out.kind()) {
      if (btf_is_mod(at) || btf_is_typedef(at) || btf_is_var(at)) {
        out.type = at->type;
      } else {
        break;
      }
    }
    return out;
  }
  [[nodiscard]] uint32_t size() const {
    const int64_t bytes = btf__resolve_size(types, type);
    return bytes > 0 ? static_cast<uint32_t>(bytes) : 0;
  }
};

struct Field {
  std::string_view name;
  Place place;
};

// Of a structure, or of a data section, whose variables are its fields. Empty: it is neither.
std::vector<Field> fields_of(const Place& whole) {
  std::vector<Field> fields;
  const btf_type* type = whole.kind();
  if (btf_is_composite(type)) {
    const btf_member* member = btf_members(type);
    for (uint32_t i = 0; i < btf_vlen(type); ++i, ++member) {
      fields.push_back({btf__name_by_offset(whole.types, member->name_off),
                        {whole.types, member->type, whole.offset + btf_member_bit_offset(type, i) / 8}});
    }
  } else if (btf_is_datasec(type)) {
    const btf_var_secinfo* item = btf_var_secinfos(type);
    for (uint32_t i = 0; i < btf_vlen(type); ++i, ++item) {
      const btf_type* variable = btf__type_by_id(whole.types, item->type);
      fields.push_back({btf__name_by_offset(whole.types, variable->name_off),
                        {whole.types, item->type, whole.offset + item->offset}});
    }
  }
  return fields;
}

bool is_record(const btf_type* type) {
  return btf_is_composite(type) || btf_is_datasec(type);
}

bool is_lock(const Place& place) {
  return btf_is_struct(place.kind()) &&
         std::string_view(btf__name_by_offset(place.types, place.kind()->name_off)) == "bpf_spin_lock";
}

bool is_number(const btf_type* type) {
  return btf_is_int(type) || btf_is_any_enum(type);
}

}  // namespace

class LayoutComparison {
 public:
  Status compare(const Place& from_as_named, const Place& to_as_named, const std::string& path, unsigned depth) {
    const Place from = from_as_named.plain(), to = to_as_named.plain();
    const btf_type *old_kind = from.kind(), *new_kind = to.kind();
    auto bad = [&](std::string_view why) { return fail("field " + path + " " + std::string(why)); };
    if (old_kind == nullptr || new_kind == nullptr || depth > kDepthMax) return bad("cannot be read");
    if (is_lock(from) && is_lock(to)) return {};  // never copied
    if (is_record(old_kind) && is_record(new_kind)) return compare_fields(from, to, path, depth);
    if (btf_is_array(old_kind) && btf_is_array(new_kind)) return compare_elements(from, to, path, depth);
    if (!is_number(old_kind) || !is_number(new_kind)) return bad("is of another kind");
    if (to.size() < from.size()) return bad("has become narrower");
    // Little-endian, unsigned: a number that has become wider keeps its value.
    if (to.size() != from.size()) same_ = false;
    take({from.offset, to.offset, from.size()});
    return {};
  }

  LayoutConversion finish(uint32_t from_size, uint32_t to_size) {
    LayoutConversion out;
    same_ = same_ && from_size == to_size && dropped_.empty() &&
            std::all_of(pieces_.begin(), pieces_.end(), [](const auto& piece) { return piece.from == piece.to; });
    out.pieces_ = std::move(pieces_);
    out.dropped_ = std::move(dropped_);
    out.same_ = same_;
    return out;
  }

 private:
  static bool is_padding(std::string_view name) { return name.starts_with("pad"); }

  Status compare_fields(const Place& from, const Place& to, const std::string& path, unsigned depth) {
    const std::vector<Field> before = fields_of(from), after = fields_of(to);
    auto in = [](const std::vector<Field>& fields, std::string_view name) {
      return std::find_if(fields.begin(), fields.end(), [&](const Field& field) { return field.name == name; });
    };
    for (const Field& field : before) {
      if (!is_padding(field.name) && in(after, field.name) == after.end()) drop(path, field.name);
    }
    for (const Field& field : after) {
      if (is_padding(field.name)) continue;
      auto found = in(before, field.name);
      if (found == before.end()) {
        same_ = false;
        continue;
      }
      MOSE_TRY(compare(found->place, field.place,
                       path.empty() ? std::string(field.name) : path + "." + std::string(field.name), depth + 1));
    }
    return {};
  }

  Status compare_elements(const Place& from, const Place& to, const std::string& path, unsigned depth) {
    const struct btf_array *before = btf_array(from.kind()), *after = btf_array(to.kind());
    Place old_element{from.types, before->type, from.offset}, new_element{to.types, after->type, to.offset};
    const uint32_t old_size = old_element.size(), new_size = new_element.size();
    if (before->nelems > after->nelems) drop(path, "the last elements");
    if (before->nelems != after->nelems) same_ = false;
    for (uint32_t i = 0; i < std::min(before->nelems, after->nelems); ++i) {
      MOSE_TRY(compare(old_element, new_element, path, depth + 1));
      old_element.offset += old_size;
      new_element.offset += new_size;
    }
    return {};
  }

  void drop(const std::string& path, std::string_view name) {
    if (!dropped_.empty()) dropped_ += ", ";
    dropped_ += path + (path.empty() ? "" : ".") + std::string(name);
  }

  void take(LayoutConversion::Piece piece) {
    if (!pieces_.empty()) {
      auto& last = pieces_.back();
      if (last.from + last.size == piece.from && last.to + last.size == piece.to) {
        last.size += piece.size;
        return;
      }
    }
    pieces_.push_back(piece);
  }

  std::vector<LayoutConversion::Piece> pieces_;
  std::string dropped_;
  bool same_ = true;
};

Result<MapShape> map_shape(int map) {
  MOSE_ASSIGN(bpf_map_info info, map_info(map));
  return MapShape{info.type, info.key_size, info.value_size, info.max_entries, info.map_flags};
}

Result<LayoutConversion> LayoutConversion::between(int from_map, int to_map) {
  std::unique_ptr<btf, FreeBtf> types[2];
  bpf_map_info infos[2];
  const int maps[2] = {from_map, to_map};
  for (int i = 0; i < 2; ++i) {
    MOSE_ASSIGN(infos[i], map_info(maps[i]));
    types[i].reset(infos[i].btf_id == 0 ? nullptr : btf__load_from_kernel_by_id(infos[i].btf_id));
    if (!types[i] || infos[i].btf_value_type_id == 0)
      return fail(std::string("map ") + infos[i].name + " has no type information");
  }
  LayoutComparison comparison;
  auto compared = comparison.compare({types[0].get(), infos[0].btf_value_type_id, 0},
                                     {types[1].get(), infos[1].btf_value_type_id, 0}, "", 0);
  if (!compared) return context(std::string("map ") + infos[0].name, compared.error());
  return comparison.finish(infos[0].value_size, infos[1].value_size);
}

void LayoutConversion::convert(std::span<const std::byte> from, std::span<std::byte> to) const {
  std::fill(to.begin(), to.end(), std::byte{0});
  for (const Piece& piece : pieces_) {
    if (piece.from + piece.size > from.size() || piece.to + piece.size > to.size()) continue;
    std::copy_n(from.begin() + piece.from, piece.size, to.begin() + piece.to);
  }
}

Status copy_values(int from, int to, const LayoutConversion& conversion) {
  MOSE_ASSIGN(MapShape before, map_shape(from));
  MOSE_ASSIGN(MapShape after, map_shape(to));
  if (before.key_size != after.key_size || is_per_cpu(before.type) != is_per_cpu(after.type)) {
    return fail("the keys of a map have changed");
  }
  MOSE_ASSIGN(unsigned cpus, possible_cpus());
  if (!is_per_cpu(before.type)) cpus = 1;
  auto slot = [](uint32_t size, bool rounded) { return rounded ? (size + 7) / 8 * 8 : size; };
  const uint32_t old_size = slot(before.value_size, is_per_cpu(before.type));
  const uint32_t new_size = slot(after.value_size, is_per_cpu(after.type));
  MOSE_ASSIGN(MapDump dump, map_dump(from));
  std::vector<std::byte> value(static_cast<size_t>(new_size) * cpus);
  for (size_t i = 0; i < dump.count; ++i) {
    for (unsigned cpu = 0; cpu < cpus; ++cpu) {
      conversion.convert(std::span(dump.values).subspan((i * cpus + cpu) * old_size, before.value_size),
                         std::span(value).subspan(static_cast<size_t>(cpu) * new_size, after.value_size));
    }
    MOSE_TRY(map_update_patiently(to, dump.keys.data() + i * before.key_size, value.data()));
  }
  return {};
}

}  // namespace mose::bpf
