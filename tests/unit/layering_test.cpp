// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "base/fd.h"

namespace mose {
namespace {

namespace fs = std::filesystem;
using Folders = std::set<std::string>;

// base <- model <- kernel <- {sense, move, handover, restore} <- agent; plan sees only base and model.
const std::map<std::string, Folders> kMayInclude = {
    {"base", {"base"}},
    {"model", {"base", "model"}},
    {"plan", {"base", "model", "plan"}},
    {"kernel", {"base", "model", "kernel"}},
    {"sense", {"base", "model", "kernel", "sense"}},
    {"move", {"base", "model", "kernel", "move"}},
    {"handover", {"base", "model", "kernel", "handover"}},
    {"restore", {"base", "model", "kernel", "restore"}},
    {"agent", {"base", "model", "kernel", "plan", "sense", "move", "handover", "restore", "agent"}},
};

// Headers of the kernel and of the libraries that speak to it: only kernel/ may see them.
const std::regex kSystemHeader(R"(^\s*#\s*include\s*<((?:bpf|linux|netlink)/[^>]*|liburing[^>]*)>)");
const std::regex kOwnHeader(R"(^\s*#\s*include\s*"([^"]+)\")");

std::vector<std::string> violations(const std::string& folder, const std::string& name, const std::string& text) {
  std::vector<std::string> found;
  std::istringstream lines(text);
  std::smatch match;
  for (std::string line; std::getline(lines, line);) {
    if (folder != "kernel" && std::regex_search(line, match, kSystemHeader)) {
      found.push_back(fmt::format("{} includes <{}>: only kernel/ may", name, match[1].str()));
    }
    if (!std::regex_search(line, match, kOwnHeader)) continue;
    std::string header = match[1];
    if (header.find("..") != std::string::npos) {
      found.push_back(fmt::format("{} includes \"{}\": no way around the include roots", name, header));
    }
    std::string other = header.substr(0, header.find('/'));
    if (kMayInclude.contains(other) && !kMayInclude.at(folder).contains(other)) {
      found.push_back(fmt::format("{} includes \"{}\": {}/ may not see {}/", name, header, folder, other));
    }
    if (header.ends_with(".skel.h") && folder != "handover" && folder != "sense") {
      found.push_back(fmt::format("{} includes the skeleton {}: its stage owns it", name, header));
    }
  }
  return found;
}

TEST(Layering, EveryFolderIncludesOnlyWhatStandsBelowIt) {
  size_t files = 0;
  for (const auto& [folder, allowed] : kMayInclude) {
    for (const auto& entry : fs::recursive_directory_iterator(fs::path(MOSE_SOURCE_DIR) / "userspace" / folder)) {
      std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cpp" && extension != ".c") continue;
      auto text = read_file(entry.path());
      ASSERT_TRUE(text) << text.error().what;
      ++files;
      for (const std::string& violation : violations(folder, entry.path().filename(), *text)) ADD_FAILURE() << violation;
    }
  }
  EXPECT_GT(files, 20u);
}

TEST(Layering, AForbiddenIncludeIsFound) {
  EXPECT_EQ(violations("restore", "x.cpp", "#include \"move/page_store.h\"\n").size(), 1u);
  EXPECT_EQ(violations("plan", "x.cpp", "#include \"kernel/procfs.h\"\n").size(), 1u);
  EXPECT_EQ(violations("sense", "x.cpp", "#include <linux/userfaultfd.h>\n").size(), 1u);
  EXPECT_EQ(violations("move", "x.cpp", "#include \"../plan/source.h\"\n").size(), 1u);
  EXPECT_EQ(violations("agent", "x.cpp", "#include \"steer_tc.skel.h\"\n").size(), 1u);
  EXPECT_TRUE(violations("kernel", "x.cpp", "#include <linux/userfaultfd.h>\n#include \"model/flow.h\"\n").empty());
}

}  // namespace
}  // namespace mose
