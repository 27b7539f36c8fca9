// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "kernel/cgroup.h"
#include "kernel/launch.h"
#include "kernel/process.h"
#include "restore/criu_setup.h"
#include "restore/swrk.h"

namespace mose::test {

// Two places on this machine between which a workload is moved: each with its own root, data and log directories,
// namespaces and cgroup. Lives in a mount namespace of the test's own; the cgroups are removed at the end.
struct PlaceOptions {
  bool root_read_only = true;
  bool root_is_filesystem = false;  // the root is a whole filesystem, else a directory of a larger one
};

class CriuBed {
 public:
  struct Node {
    std::string name, root, data, log, images;
    Fd net, ipc, uts;
    Cgroup cgroup, aside;  // aside: where CRIU goes when the tree must stand alone in its group
    ProcessHandle first;   // pid 1 of the workload, while it is here
  };

  // Skips the test process (77) when the machine cannot do it.
  explicit CriuBed(const PlaceOptions& options);
  ~CriuBed();

  const restore::CriuSetup& criu() const { return setup_; }
  Node a, b;

  [[nodiscard]] Status start(Node& node, const std::vector<std::string>& command);
  [[nodiscard]] std::string log_text(const Node& node) const;
  // Waits until the log has `count` ticks more than now; an error when it says BAD or stands still.
  [[nodiscard]] Status wait_ticks(const Node& node, unsigned count) const;
  [[nodiscard]] unsigned ticks(const Node& node) const;

  // Mount point, options and filesystem of each mount that the workload sees.
  [[nodiscard]] std::string mounts(const Node& node) const;

  restore::Swrk::Place source_place(const Node& node) const;
  restore::Swrk::Place destination_place(const Node& node) const;
  static restore::Swrk::DumpRequest dump_request(const Node& node, int images_dir);

 private:
  void prepare(Node& node, const char* name);
  Fd turn_;  // see run_lock.h
  std::string base_, cgroup_base_;
  PlaceOptions options_;
  restore::CriuSetup setup_;
  mutable Fd time_fd_;
};

[[nodiscard]] Status copy_tree(const std::string& from, const std::string& to);

}  // namespace mose::test
