// SPDX-License-Identifier: MIT
#include "live_lab.h"

#include <gmock/gmock.h>

#include "lab/stock_end.h"

namespace mose::test {
namespace {

constexpr int kLockSeconds = 60;

}  // namespace

LiveLab::LiveLab(const std::string& lab, Nanoseconds command_bound)
    : lab_(lab), command_bound_(command_bound), turn_(take_turn(lab)), names_(lab) {
  need_criu_and_redis();
  auto lock = lab::LabLock::acquire(names_, kLockSeconds);
  EXPECT_TRUE(lock) << lock.error().what;
  if (lock) lock_.emplace(std::move(*lock));
  auto clean = lab::down(names_);
  EXPECT_TRUE(clean) << clean.error().what;
}

LiveLab::~LiveLab() {
  auto clean = lab::down(names_);
  EXPECT_TRUE(clean) << clean.error().what;
  lock_.reset();  // its file goes with it
  EXPECT_THAT(traces(lab_), testing::IsEmpty());
}

void LiveLab::make_lab(lab::LabOptions options) {
  options.lab = lab_;
  auto made = lab::up(options);
  ASSERT_TRUE(made) << made.error().what;
  state_ = std::move(*made);
}

lab::ProgramResult LiveLab::start_redis(std::vector<std::string> options) {
  std::vector<std::string> words = {"run", "redis", "--address", std::string(lab::kServiceAddress) + "/" + lab::kPrefixLength};
  words.insert(words.end(), options.begin(), options.end());
  words.emplace_back("--");
  for (const std::string& word : lab::redis_command()) words.push_back(word);
  return mose("a", std::move(words));
}

std::string LiveLab::root(const std::string& node) const { return "/proc/" + std::to_string(state_.keepers.at(node).pid) + "/root"; }

std::string LiveLab::agent_log(const std::string& node) const { return read_file(names_.agent_log(node)).value_or(""); }

lab::ProgramResult LiveLab::run(const std::string& node, std::vector<std::string> words) const {
  auto result = run_on(state_, node, std::move(words), command_bound_);
  return result ? *result : lab::ProgramResult{-1, "", result.error().what};
}

lab::ProgramResult LiveLab::mose(const std::string& node, std::vector<std::string> words) const {
  words.insert(words.begin(), "/usr/bin/mose");
  return run(node, std::move(words));
}

}  // namespace mose::test
