// SPDX-License-Identifier: MIT
#include "program_bed.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "bed.h"
#include "lab/node.h"
#include "support/support.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kProgramLab = "t-programs";
constexpr int kLabLockSeconds = 60;
constexpr Nanoseconds kProgramCommandBound = std::chrono::minutes(3);
constexpr useconds_t kBetweenMovesUs = 500'000;
constexpr size_t kLogShown = 6000;

std::string tail_of(const std::string& path) {
  auto text = read_file(path);
  if (!text) return text.error().what;
  return text->substr(text->size() - std::min(text->size(), kLogShown));
}

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace

ProgramMoves::ProgramMoves() : turn_(take_turn(kProgramLab)), names_(kProgramLab) {
  need_criu_and_redis();
  auto lock = lab::LabLock::acquire(names_, kLabLockSeconds);
  EXPECT_TRUE(lock) << lock.error().what;
  if (lock) lock_.emplace(std::move(*lock));
  EXPECT_TRUE(lab::down(names_));
}

ProgramMoves::~ProgramMoves() { end(); }

void ProgramMoves::end() {
  if (std::exchange(ended_, true)) return;
  auto clean = lab::down(names_);
  EXPECT_TRUE(clean) << clean.error().what;
  lock_.reset();  // its file goes with it
  EXPECT_THAT(traces(kProgramLab), ::testing::IsEmpty());
}

void ProgramMoves::prepare(const Program& program) {
  for (const std::string& path : program.files.programs) {
    if (::access(path.c_str(), X_OK) != 0) skip_process(path + " is not installed; run tools/get-deps --full");
  }
  program_ = program;
  lab::LabOptions options;
  options.lab = kProgramLab;
  auto state = lab::up(options);
  ASSERT_TRUE(state) << state.error().what;
  state_ = *state;
  for (const char* node : lab::kNodes) {
    auto added = lab::add_to_node_root(names_.node_root(node), program.files);
    ASSERT_TRUE(added) << added.error().what;
  }
}

void ProgramMoves::put_file(const std::string& inside, const std::string& contents) {
  for (const char* node : lab::kNodes) {
    const fs::path path = names_.node_root(node) + inside;
    fs::create_directories(path.parent_path());
    auto file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ASSERT_TRUE(file) << file.error().what;
    ASSERT_TRUE(write_all(file->get(), contents)) << path;
  }
}

void ProgramMoves::put_directory(const std::string& inside, unsigned mode) {
  for (const char* node : lab::kNodes) {
    const std::string path = names_.node_root(node) + inside;
    fs::create_directories(path);
    ASSERT_EQ(::chmod(path.c_str(), mode), 0) << path;
  }
}

void ProgramMoves::share_directory(const std::string& directory, const std::string& inside) {
  put_directory(inside);
  for (const char* node : lab::kNodes) {
    const Fd tree(::open_tree(AT_FDCWD, directory.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    ASSERT_TRUE(tree) << fail_errno("open_tree " + directory).error().what;
    auto place = lab::open_node(state_, node);
    ASSERT_TRUE(place) << place.error().what;
    auto mounted = lab::in_place(place->place, [&]() -> Status {
      if (::move_mount(tree.get(), "", AT_FDCWD, inside.c_str(), MOVE_MOUNT_F_EMPTY_PATH) == 0) return {};
      return fail_errno("mount " + directory + " at " + inside);
    });
    ASSERT_TRUE(mounted) << mounted.error().what;
  }
}

void ProgramMoves::start() {
  std::vector<std::string> words = {"/usr/bin/mose", "run", program_.name, "--address",
                                    std::string(lab::kServiceAddress) + "/" + lab::kPrefixLength};
  for (const std::string& mount : program_.mounts) words.insert(words.end(), {"--mount", mount});
  words.emplace_back("--");
  words.insert(words.end(), program_.command.begin(), program_.command.end());
  auto started = in_node(node_, words);
  ASSERT_EQ(started.exit_code, 0) << started.err;
}

unsigned ProgramMoves::moves_wanted() {
  const char* text = std::getenv("MOSE_PROGRAM_MOVES");
  if (text == nullptr) return kMovesDefault;
  const int wanted = std::atoi(text);
  EXPECT_GT(wanted, 0) << "MOSE_PROGRAM_MOVES is \"" << text << "\"";
  return static_cast<unsigned>(std::max(wanted, 1));
}

Status ProgramMoves::move_once() {
  const std::string to = node_ == "a" ? "b" : "a";
  lab::ProgramResult result = in_node(node_, {"/usr/bin/mose", "migrate", program_.name, "--to", to, "--json"});
  if (result.exit_code != 0) return fail("from " + node_ + " to " + to + ": " + result.err + result.out);
  const Json report = Json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  if (!report.is_object() || report["outcome"] != "complete")
    return fail("no report of a complete move: " + result.out);
  node_ = to;
  downtimes_ms_.push_back(report["downtime_ms"].get<double>());
  standbys_ += report["standby"]["used"] == true ? 1 : 0;
  std::printf("%s to %s: downtime %.1f ms, phases %s, standby %s\n", program_.name.c_str(), to.c_str(),
              downtimes_ms_.back(), report["phases_ms"].dump().c_str(), report["standby"].dump().c_str());
  return {};
}

bool ProgramMoves::move_all(const std::function<Status()>& served) {
  auto step = [&](const std::string& what, Status status) {
    EXPECT_TRUE(status) << what << ": " << status.error().what << "\n" << logs();
    return status.has_value();
  };
  if (!step("before the first move", served())) return false;
  for (unsigned number = 1; number <= moves_wanted(); ++number) {
    const std::string move = "move " + std::to_string(number);
    if (!step(move, move_once()) || !step("after " + move, served())) return false;
    ::usleep(kBetweenMovesUs);
  }
  return true;
}

bool ProgramMoves::move_all(Load& load, uint64_t more) {
  return move_all([&]() -> Status {
    MOSE_TRY(load.wait_for_answers(more));
    std::printf("  longest answer %s\n", load.longest_of_late().c_str());
    return {};
  });
}

void ProgramMoves::tell(uint64_t answers, std::optional<double> longest_ms, size_t errors) const {
  const double worst = downtimes_ms_.empty() ? 0 : *std::max_element(downtimes_ms_.begin(), downtimes_ms_.end());
  char longest[64] = "";
  if (longest_ms) std::snprintf(longest, sizeof longest, ", the longest took %.0f ms", *longest_ms);
  std::printf(
      "| %s | %zu moves, %u by a standby | downtime median %.1f ms, max %.1f ms | %lu answers%s | %zu errors |\n",
      program_.name.c_str(), downtimes_ms_.size(), standbys_, median_of(downtimes_ms_), worst, answers, longest,
      errors);
}

void ProgramMoves::judge(Load& load) const {
  load.stop();
  EXPECT_THAT(load.problems(), ::testing::IsEmpty()) << logs();
  tell(load.answers(), load.longest_ms(), load.problems().size());
}

lab::ProgramResult ProgramMoves::in_node(const std::string& node, std::vector<std::string> words) const {
  auto place = lab::open_node(state_, node);
  EXPECT_TRUE(place) << place.error().what;
  if (!place) return {.exit_code = -1, .out = {}, .err = place.error().what};
  lab::ProgramSpec spec;
  spec.argv = std::move(words);
  spec.place = &place->place;
  spec.cgroup = place->cgroup;
  auto result = lab::run_program(spec, "", kProgramCommandBound);
  return result ? *result : lab::ProgramResult{.exit_code = -1, .out = {}, .err = result.error().what};
}

lab::ProgramResult ProgramMoves::at_client(std::vector<std::string> words) const {
  auto place = lab::Place::of_netns(client_netns());
  EXPECT_TRUE(place) << place.error().what;
  if (!place) return {.exit_code = -1, .out = {}, .err = place.error().what};
  lab::ProgramSpec spec;
  spec.argv = std::move(words);
  spec.place = &*place;
  auto result = lab::run_program(spec, "", kProgramCommandBound);
  return result ? *result : lab::ProgramResult{.exit_code = -1, .out = {}, .err = result.error().what};
}

std::string ProgramMoves::logs() const {
  std::string text;
  for (const char* node : lab::kNodes) {
    text += "-- log of " + program_.name + " at " + node + "\n" +
            tail_of(names_.node_root(node) + "/var/lib/mose/workloads/" + program_.name + "/log/stdout.log") +
            "\n-- log of the agent at " + node + "\n" + tail_of(names_.agent_log(node)) + "\n";
  }
  return text;
}

}  // namespace mose::test
