// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "base/result.h"
#include "kernel/pagemap.h"
#include "model/page_set.h"
#include "sense/settle.h"

namespace mose::sense {

// Protects pages shortly before they are read. One that is protected again after it was read, or that is not to be read at
// all, would count as clean whatever was written before: such pages are read in the end. A huge page is protected as a whole,
// when the first part of it is read: in parts it would be broken up.
class ProtectAhead {
 public:
  // The pages that are read are scattered over `areas`: protected in pieces that are worth a system call each, and an
  // interruption of all threads of the process, with those that are `spared` left out where that is worth it. Only what is `registered`
  // for it: the kernel would protect whatever is for anyone, and who is between vfork and exec has the pages of another process, which
  // have been read already.
  ProtectAhead(pid_t pid, Settle& settle, const Pagemap& pagemap, const PageSet& huge, PageSet planned, const PageSet& spared,
               const PageSet& areas, const PageSet& registered)
      : pid_(pid),
        settle_(settle),
        pagemap_(pagemap),
        huge_(huge),
        planned_(std::move(planned)),
        spared_(spared),
        registered_(registered),
        around_(areas.intersect(registered)) {}

  // Those that are read next.
  Status operator()(const PageSet& next);
  // Why pages cannot be protected after all.
  [[nodiscard]] const std::optional<std::string>& pin() const { return pin_; }
  // Pages that were written and are protected, and whose turn does not come.
  [[nodiscard]] const PageSet& again() const { return again_; }

 private:
  [[nodiscard]] PageSet in_few_calls(const PageSet& due) const;
  [[nodiscard]] Result<PageSet> protect(const PageSet& pages) const;

  pid_t pid_;
  Settle& settle_;
  const Pagemap& pagemap_;
  const PageSet& huge_;
  PageSet planned_;  // of those that are read, the ones whose turn is to come
  const PageSet& spared_;
  const PageSet& registered_;
  PageSet around_;
  std::optional<std::string> pin_;
  PageSet whole_done_, again_;  // whole_done_: of huge_
};

}  // namespace mose::sense
