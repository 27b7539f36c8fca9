// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

// Frames between mosed and the pager: u32 little-endian length, then the message. Shared by both ends.
namespace mose::restore {

[[nodiscard]] std::string pager_frame(const std::string& payload);
// Takes the first whole frame out of `buffer`; nothing when more bytes must come; too long a frame is an error.
[[nodiscard]] Result<std::optional<std::string>> take_pager_frame(std::string& buffer);
// Reads what is there without blocking. An error also at the end of the stream.
[[nodiscard]] Status read_available(int socket, std::string& buffer);
// Writes what goes without blocking and takes it out of `buffer`.
[[nodiscard]] Status write_available(int socket, std::string& buffer);

// A unix stream socket at `path`, which may be longer than a socket address: it is reached by its directory's descriptor.
// Non-blocking. Listening replaces a socket file that is there.
[[nodiscard]] Result<Fd> unix_connect(const std::string& path);
[[nodiscard]] Result<Fd> unix_listen(const std::string& path);

}  // namespace mose::restore
