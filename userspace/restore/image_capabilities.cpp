// SPDX-License-Identifier: MIT
#include "restore/image_capabilities.h"

#include <string>

#include "criu_images.pb.h"
#include "restore/image_format.h"

namespace mose::restore {
namespace {

constexpr int kWords = 2;  // of 32 bits
constexpr unsigned kWordBits = 32;

}  // namespace

Result<uint64_t> permitted_capabilities(const std::vector<ImageFile>& images) {
  uint64_t out = 0;
  for (const ImageFile& image : images) {
    // CRIU would read it instead, as an image of its first versions.
    if (image.name.starts_with("creds-")) return fail(image.name + " is of a CRIU that is too old");
    if (!image.name.starts_with("core-")) continue;
    MOSE_ASSIGN(ImageContent content, split_image(image.name, image.bytes, kMagicCore));
    for (std::string_view message : content.messages) {
      criu::Core core;
      if (!core.ParseFromArray(message.data(), static_cast<int>(message.size()))) return fail(image.name + " holds a damaged message");
      const auto& words = core.thread().credentials().permitted();
      if (words.size() > kWords) return fail(image.name + " has capabilities beyond the kernel's");
      for (int i = 0; i < words.size(); ++i) out |= static_cast<uint64_t>(words[i]) << (static_cast<unsigned>(i) * kWordBits);
    }
  }
  return out;
}

}  // namespace mose::restore
