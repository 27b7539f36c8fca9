// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "restore/image_format.h"
#include "restore/images.h"

namespace mose::restore {

// All images of one dump, read at once; the comparison of two dumps works on these. The views that it gives out live as
// long as the set.
class ImageSet {
 public:
  [[nodiscard]] static Result<ImageSet> load(int dir);
  // As they came from a peer; shared, not copied.
  [[nodiscard]] static Result<ImageSet> of(std::shared_ptr<const std::vector<ImageFile>> images);

  // As if the image had been read so.
  void replace(const std::string& name, std::string bytes);

  [[nodiscard]] bool has(const std::string& name) const { return files_.contains(name); }
  [[nodiscard]] std::optional<std::string_view> bytes(const std::string& name) const;
  // Splits an image that must exist. `count`: exactly so many messages, then raw bytes; 0: messages up to the end.
  [[nodiscard]] Result<ImageContent> content(const std::string& name, uint32_t magic, size_t count = 0) const;
  // One message, no raw bytes.
  [[nodiscard]] Result<std::string_view> message(const std::string& name, uint32_t magic) const;
  [[nodiscard]] const std::map<std::string, std::string_view>& files() const { return files_; }

 private:
  std::vector<std::shared_ptr<const std::vector<ImageFile>>> owners_;
  std::map<std::string, std::string_view> files_;  // into them
};

// The fields of one message, by number, without a schema: what the comparison understands it takes out, and everything
// that is left, named by nobody, must be equal. A schema would hide exactly the fields that nobody thought of.
class ImageFields {
 public:
  ImageFields() = default;
  [[nodiscard]] static Result<ImageFields> parse(std::string_view message);

  // The value of a field that occurs at most once; nothing when it is absent. A field of another kind stays where it
  // is.
  std::optional<uint64_t> take_number(uint32_t number);
  std::optional<std::string_view> take_bytes(uint32_t number);
  std::vector<uint64_t> take_numbers(uint32_t number);
  std::vector<std::string_view> take_messages(uint32_t number);
  [[nodiscard]] bool empty() const { return fields_.empty(); }

  // Where two messages differ first, as numbers of fields from the outside in ("3.15"); nothing: they are equal.
  [[nodiscard]] static std::optional<std::string> difference(const ImageFields& a, const ImageFields& b);

 private:
  enum class Kind : uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };
  struct Field {
    uint32_t number = 0;
    Kind kind = Kind::varint;
    uint64_t value = 0;
    std::string_view bytes;
  };
  static std::optional<std::string> difference(const ImageFields& a, const ImageFields& b, unsigned depth);
  std::vector<Field> fields_;
};

}  // namespace mose::restore
