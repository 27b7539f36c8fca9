// SPDX-License-Identifier: MIT
#include "restore/image_fields.h"

#include <algorithm>

#include "restore/image_format.h"
#include "restore/images.h"

namespace mose::restore {
namespace {

constexpr size_t kFieldsMax = 1u << 18;  // a peer may send 128 MiB of fields of two bytes; mappings are 65530 at most
constexpr unsigned kDepthMax = 8;              // CRIU's messages nest less deep
constexpr unsigned kVarintBytesMax = 10;

std::optional<uint64_t> get_varint(std::string_view& in) {
  uint64_t value = 0;
  for (unsigned i = 0; i < kVarintBytesMax && i < in.size(); ++i) {
    const auto byte = static_cast<uint8_t>(in[i]);
    value |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
    if (!(byte & 0x80)) {
      in.remove_prefix(i + 1);
      return value;
    }
  }
  return std::nullopt;
}

std::optional<uint64_t> get_fixed(std::string_view& in, size_t size) {
  if (in.size() < size) return std::nullopt;
  uint64_t value = 0;
  for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<uint8_t>(in[i]);
  in.remove_prefix(size);
  return value;
}

}  // namespace

Result<ImageSet> ImageSet::load(int dir) {
  MOSE_ASSIGN(std::vector<ImageFile> images, load_images(dir));
  return of(std::make_shared<const std::vector<ImageFile>>(std::move(images)));
}

Result<ImageSet> ImageSet::of(std::shared_ptr<const std::vector<ImageFile>> images) {
  ImageSet out;
  for (const ImageFile& image : *images) {
    if (!out.files_.emplace(image.name, image.bytes).second) return fail("image " + image.name.substr(0, kImageNameMax) + " comes twice");
  }
  out.owners_.push_back(std::move(images));
  return out;
}

void ImageSet::replace(const std::string& name, std::string bytes) {
  auto owner = std::make_shared<const std::vector<ImageFile>>(1, ImageFile{name, std::move(bytes)});
  files_[name] = owner->front().bytes;
  owners_.push_back(std::move(owner));
}

std::optional<std::string_view> ImageSet::bytes(const std::string& name) const {
  auto found = files_.find(name);
  if (found == files_.end()) return std::nullopt;
  return found->second;
}

Result<ImageContent> split_image(const std::string& name, std::string_view in, uint32_t magic, size_t count) {
  const bool inventory = name == "inventory.img";
  const size_t header = inventory ? 4 : 8;
  if (in.size() < header || (!inventory && get_u32(in) != kCommonMagic) || get_u32(in.substr(header - 4)) != magic)
    return fail(name + " is no image of the expected kind");
  in.remove_prefix(header);
  ImageContent out;
  while (!in.empty() && (count == 0 || out.messages.size() < count)) {
    if (in.size() < 4 || get_u32(in) > in.size() - 4) return fail(name + " is cut off");
    out.messages.push_back(in.substr(4, get_u32(in)));
    in.remove_prefix(4 + out.messages.back().size());
  }
  if (count > 0 && out.messages.size() != count) return fail(name + " is cut off");
  out.rest = in;
  return out;
}

Result<ImageContent> ImageSet::content(const std::string& name, uint32_t magic, size_t count) const {
  auto found = files_.find(name);
  if (found == files_.end()) return fail(name + " is missing");
  return split_image(name, found->second, magic, count);
}

Result<std::string_view> ImageSet::message(const std::string& name, uint32_t magic) const {
  MOSE_ASSIGN(ImageContent content, this->content(name, magic, 1));
  if (!content.rest.empty()) return fail(name + " does not hold one message");
  return content.messages[0];
}

Result<ImageFields> ImageFields::parse(std::string_view in) {
  ImageFields out;
  while (!in.empty()) {
    auto tag = get_varint(in);
    if (!tag || *tag >> 3 == 0 || *tag >> 3 > UINT32_MAX) return fail("holds a damaged message");
    Field field{static_cast<uint32_t>(*tag >> 3), static_cast<Kind>(*tag & 7), 0, {}};
    std::optional<uint64_t> value;
    switch (field.kind) {
      case Kind::varint:
        value = get_varint(in);
        break;
      case Kind::fixed64:
        value = get_fixed(in, 8);
        break;
      case Kind::fixed32:
        value = get_fixed(in, 4);
        break;
      case Kind::bytes:
        value = get_varint(in);
        if (value && *value > in.size()) value = std::nullopt;
        if (value) {
          field.bytes = in.substr(0, *value);
          in.remove_prefix(*value);
          value = 0;
        }
        break;
    }
    if (!value) return fail("holds a damaged message");
    field.value = *value;
    if (out.fields_.size() == kFieldsMax) return fail("holds a message of more than " + std::to_string(kFieldsMax) + " fields");
    out.fields_.push_back(field);
  }
  return out;
}

std::vector<uint64_t> ImageFields::take_numbers(uint32_t number) {
  std::vector<uint64_t> out;
  std::erase_if(fields_, [&](const Field& field) {
    if (field.number != number || field.kind == Kind::bytes) return false;
    out.push_back(field.value);
    return true;
  });
  return out;
}

std::vector<std::string_view> ImageFields::take_messages(uint32_t number) {
  std::vector<std::string_view> out;
  std::erase_if(fields_, [&](const Field& field) {
    if (field.number != number || field.kind != Kind::bytes) return false;
    out.push_back(field.bytes);
    return true;
  });
  return out;
}

// The last one counts, as in every reader of the format.
std::optional<uint64_t> ImageFields::take_number(uint32_t number) {
  std::vector<uint64_t> all = take_numbers(number);
  if (all.empty()) return std::nullopt;
  return all.back();
}
std::optional<std::string_view> ImageFields::take_bytes(uint32_t number) {
  std::vector<std::string_view> all = take_messages(number);
  if (all.empty()) return std::nullopt;
  return all.back();
}

std::optional<std::string> ImageFields::difference(const ImageFields& a, const ImageFields& b) {
  return difference(a, b, 0);
}

std::optional<std::string> ImageFields::difference(const ImageFields& a, const ImageFields& b, unsigned depth) {
  for (size_t i = 0; i < std::max(a.fields_.size(), b.fields_.size()); ++i) {
    if (i >= a.fields_.size()) return std::to_string(b.fields_[i].number);
    const Field& x = a.fields_[i];
    if (i >= b.fields_.size()) return std::to_string(x.number);
    const Field& y = b.fields_[i];
    if (x.number != y.number || x.kind != y.kind) return std::to_string(std::min(x.number, y.number));
    if (x.value == y.value && x.bytes == y.bytes) continue;
    std::string path = std::to_string(x.number);
    if (x.kind != Kind::bytes || depth == kDepthMax) return path;
    auto inner_x = parse(x.bytes);
    auto inner_y = parse(y.bytes);
    if (!inner_x || !inner_y) return path;
    auto inner = difference(*inner_x, *inner_y, depth + 1);
    return inner ? path + "." + *inner : path;
  }
  return std::nullopt;
}

}  // namespace mose::restore
