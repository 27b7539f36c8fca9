// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>
#include <vector>

#include "move/openssl.h"

// Files with several certificates or lists in them. All of a file counts or nothing does: one that is damaged, or cut off by a
// copy that broke, must not leave a node with a part of what it was to believe, or to refuse.
namespace mose::move {

inline constexpr size_t kListsMax = 64;  // of one file

// In their order; other things between them (keys, text) are passed over. Empty where there is none. An error says which one cannot
// be read and why, and so does a text with more than `count_max`.
[[nodiscard]] Result<std::vector<X509Ptr>> read_certificates(std::string_view pem, size_t count_max);
[[nodiscard]] Result<std::vector<X509CrlPtr>> read_lists(std::string_view pem, size_t count_max);

// For OpenSSL's readers: no terminal is asked for a pass phrase.
int no_pass_phrase(char*, int, int, void*);

}  // namespace mose::move
