// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
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

// What a line includes, with the mark in front of it: `<` or `"`. Empty: nothing.
std::string_view included(std::string_view line) {
  auto skip = [&line](std::string_view word) {
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    bool there = line.starts_with(word);
    if (there) line.remove_prefix(word.size());
    return there;
  };
  if (!skip("#") || !skip("include") || !skip("") || line.empty()) return {};
  const char end = line.front() == '<' ? '>' : line.front() == '"' ? '"' : '\0';
  return end == '\0' ? std::string_view() : line.substr(0, line.find(end, 1));
}

// Headers of the kernel and of the libraries that speak to it: only kernel/ may see them.
bool is_of_the_system(std::string_view header) {
  return header.starts_with("<bpf/") || header.starts_with("<linux/") || header.starts_with("<netlink/") ||
         header.starts_with("<liburing");
}

std::vector<std::string> violations(const std::string& folder, const std::string& name, const std::string& text) {
  std::vector<std::string> found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::string_view what = included(line);
    if (folder != "kernel" && is_of_the_system(what)) {
      found.push_back(fmt::format("{} includes <{}>: only kernel/ may", name, what.substr(1)));
    }
    if (!what.starts_with('"')) continue;
    const std::string header(what.substr(1));
    if (header.find("..") != std::string::npos) {
      found.push_back(fmt::format("{} includes \"{}\": no way around the include roots", name, header));
    }
    std::string other = header.substr(0, header.find('/'));
    if (kMayInclude.contains(other) && !kMayInclude.at(folder).contains(other)) {
      found.push_back(fmt::format("{} includes \"{}\": {}/ may not see {}/", name, header, folder, other));
    }
    if (header.ends_with(".skel.h") && folder != "handover" && folder != "sense" && folder != "kernel") {
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
