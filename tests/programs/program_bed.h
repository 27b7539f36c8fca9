// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "lab/child_process.h"
#include "lab/lab.h"
#include "lab/node_root.h"
#include "load.h"

namespace mose::test {

// A real program, as an operator would start it.
struct Program {
  std::string name;                 // of the workload
  lab::RootAdditions files;         // of this machine, put into both nodes; the programs among them must be installed
  std::vector<std::string> mounts;  // of `mose run`
  std::vector<std::string> command;
};

// A lab whose two nodes have the program, which runs at the one and is moved to the other and back, ten times
// (MOSE_PROGRAM_MOVES says otherwise). The lab is made by prepare() and goes with the test, and nothing of it may stay.
class ProgramMoves : public ::testing::Test {
 protected:
  static constexpr unsigned kMovesDefault = 10;

  ProgramMoves();
  ~ProgramMoves() override;

  // Ends the process with 77 where a program is not installed. Then a lab, its agents running, with the program's
  // files.
  void prepare(const Program& program);
  // The same file in both nodes.
  void put_file(const std::string& inside, const std::string& contents);
  void put_directory(const std::string& inside, unsigned mode = 0755);
  // A directory of this machine appears in both nodes, as a network file system would.
  void share_directory(const std::string& directory, const std::string& inside);
  void start();
  // The lab goes, and the program with it; the destructor does it where nobody has before.
  void end();

  // The moves; `served` says before the first, between them and after the last whether clients are still served, and
  // waits for it. False after a fatal failure, which is reported with the logs.
  [[nodiscard]] bool move_all(const std::function<Status()>& served);
  // The same: every client gets `more` answers before the first, between them and after the last.
  [[nodiscard]] bool move_all(Load& load, uint64_t more);
  [[nodiscard]] static unsigned moves_wanted();
  // The end of a test: one line of what was seen. `answers` and `longest_ms` are the clients'; unknown: absent.
  void tell(uint64_t answers, std::optional<double> longest_ms, size_t errors) const;
  // The usual end of one with a Load: no client has a problem, the line is told.
  void judge(Load& load) const;

  [[nodiscard]] std::string client_netns() const { return names_.netns_path("client"); }
  [[nodiscard]] lab::ProgramResult in_node(const std::string& node, std::vector<std::string> words) const;
  [[nodiscard]] lab::ProgramResult at_client(std::vector<std::string> words) const;
  [[nodiscard]] std::string logs() const;

 private:
  Status move_once();

  Fd turn_;
  lab::Names names_;
  std::optional<lab::LabLock> lock_;
  lab::LabState state_;
  Program program_;
  std::string node_ = "a";
  std::vector<double> downtimes_ms_;
  unsigned standbys_ = 0;
  bool ended_ = false;
};

}  // namespace mose::test
