// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "move/authority.h"

// The directory of `mose pki`: an authority (ca.crt, ca.key), its list of revoked certificates (revoked.pem) and a pair for
// each node. A lost key of an authority is a lost fleet, and a lost list believes again who was revoked: whatever breaks, what was there
// is there.
namespace mose::cli {

struct PkiDirectory {
  std::string path;
  [[nodiscard]] std::string file(const std::string& name) const { return path + "/" + name; }
};

struct NewFile {
  std::string path;
  std::string_view text;
  unsigned mode = 0;
};

// Each takes the place of what was there, in this order, and only when all of them are on the disk: a full one changes nothing. What
// breaks after that (the machine, a rename) leaves the first of them new and the others as they were.
[[nodiscard]] Status replace_files(const std::vector<NewFile>& files);

// Until its end nobody else changes files there; waits for who does. Who adds to a list must see what another has added.
[[nodiscard]] Result<Fd> lock_directory(const PkiDirectory& directory);

// To sign with. The error says what is missing, and what to do.
[[nodiscard]] Result<move::Authority> load_authority(const PkiDirectory& directory);

}  // namespace mose::cli
