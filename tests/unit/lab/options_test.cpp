// SPDX-License-Identifier: MIT
#include "lab/options.h"

#include <gtest/gtest.h>

#include "lab/command.h"

namespace mose::lab {
namespace {

TEST(LabOptions, RunTakesItsOptionsInBothForms) {
  auto line = parse_command_line({"run", "redis", "--mb", "10", "--connections=1", "--repeat", "3", "--baseline", "stock-cold",
                                  "--link", "rate=1gbit", "--json", "out.json", "--keep", "--seed", "9", "--quiet", "1500ms"});
  ASSERT_TRUE(line) << line.error().what;
  EXPECT_EQ(line->words, (std::vector<std::string>{"redis"}));
  EXPECT_EQ(line->megabytes, 10);
  EXPECT_EQ(line->connections, 1u);
  EXPECT_EQ(line->repeat, 3u);
  EXPECT_EQ(line->baselines, (std::vector<std::string>{"stock-cold"}));
  EXPECT_EQ(line->link_rate_mbit, 1000);
  EXPECT_EQ(line->json_file, "out.json");
  EXPECT_EQ(line->seed, 9u);
  EXPECT_EQ(line->quiet, std::chrono::milliseconds(1500));
  EXPECT_TRUE(line->keep);
  EXPECT_EQ(line->lab, "default");
}

TEST(LabOptions, AgentsAreNeededWhereMoseMovesAnything) {
  auto line = parse_command_line({"run", "redis", "--baseline", "stock-cold,naive-wp"});
  ASSERT_TRUE(line) << line.error().what;
  EXPECT_EQ(line->baselines, (std::vector<std::string>{"stock-cold", "naive-wp"}));
  EXPECT_TRUE(needs_agents(*line));
  EXPECT_FALSE(needs_agents(*parse_command_line({"run", "redis", "--baseline", "stock-cold", "--baseline-only"})));
  EXPECT_TRUE(needs_agents(*parse_command_line({"run", "redis", "--baseline", "naive-wp", "--baseline-only"})));
}

TEST(LabOptions, AQuietTimeThatSaysNothingIsRefused) {
  EXPECT_EQ(parse_command_line({"run", "redis"})->quiet, kQuietUsual);
  for (const char* bad : {"0s", "999ms", "11m", "soon", "5"})
    EXPECT_FALSE(parse_command_line({"run", "redis", "--quiet", bad})) << bad;
}

TEST(LabOptions, JsonWithoutAFileIsStandardOutput) {
  auto line = parse_command_line({"run", "redis", "--json", "--keep"});
  ASSERT_TRUE(line) << line.error().what;
  EXPECT_EQ(line->json_file, "-");
  line = parse_command_line({"run", "redis", "--json"});
  ASSERT_TRUE(line);
  EXPECT_EQ(line->json_file, "-");
  line = parse_command_line({"status", "--json", "--name", "x"});
  ASSERT_TRUE(line);
  EXPECT_TRUE(line->json);
  EXPECT_EQ(line->lab, "x");
}

TEST(LabOptions, NodesHaveCertificatesUnlessPlainTextIsSaid) {
  EXPECT_TRUE(parse_command_line({"run", "redis"})->tls);
  EXPECT_TRUE(parse_command_line({"up"})->tls);
  EXPECT_FALSE(parse_command_line({"run", "redis", "--plain"})->tls);
  EXPECT_FALSE(parse_command_line({"up", "--plain"})->tls);
  EXPECT_FALSE(parse_command_line({"down", "--plain"}));
}

TEST(LabOptions, SteeringIsTheNodesOwnUnlessSaid) {
  auto line = parse_command_line({"up"});
  ASSERT_TRUE(line);
  EXPECT_EQ(line->steer, "");
  for (const char* mode : {"tc", "xdp", "xdp-generic"}) {
    line = parse_command_line({"run", "redis", "--steer", mode});
    ASSERT_TRUE(line) << line.error().what;
    EXPECT_EQ(line->steer, mode);
  }
}

TEST(LabOptions, TheTrackerIsTheAgentsChoiceUnlessSaid) {
  EXPECT_EQ(parse_command_line({"run", "redis"})->tracker, "auto");
  for (const char* tracker : {"auto", "wp", "wp-early", "hash", "soft-dirty"}) {
    auto line = parse_command_line({"run", "redis", "--tracker", tracker});
    ASSERT_TRUE(line) << line.error().what;
    EXPECT_EQ(line->tracker, tracker);
  }
}

TEST(LabOptions, NobodyIsSlowedDownUnlessAskedFor) {
  EXPECT_FALSE(parse_command_line({"run", "redis"})->auto_converge);
  EXPECT_EQ(parse_command_line({"run", "redis"})->standby, "auto");
  EXPECT_EQ(parse_command_line({"run", "redis", "--standby", "never"})->standby, "never");
  auto line = parse_command_line({"run", "redis", "--auto-converge", "--strategy", "precopy"});
  ASSERT_TRUE(line) << line.error().what;
  EXPECT_TRUE(line->auto_converge);
}

TEST(LabOptions, AStrategyThatDoesNotExistIsRefusedBeforeThereIsALab) {
  for (const char* strategy : {"auto", "cold", "precopy", "postcopy", "hybrid"}) {
    auto line = parse_command_line({"run", "redis", "--strategy", strategy});
    ASSERT_TRUE(line) << line.error().what;
    EXPECT_EQ(line->strategy, strategy);
  }
  auto line = parse_command_line({"run", "redis", "--strategy", "bogus"});
  ASSERT_FALSE(line);
  EXPECT_NE(line.error().what.find("bogus"), std::string::npos) << line.error().what;
}

TEST(LabOptions, WordsAfterDashesAreTheCommand) {
  auto line = parse_command_line({"exec", "a", "--", "ls", "--name", "x"});
  ASSERT_TRUE(line);
  EXPECT_EQ(line->words, (std::vector<std::string>{"a"}));
  EXPECT_EQ(line->command, (std::vector<std::string>{"ls", "--name", "x"}));
}

TEST(LabOptions, BadInputIsRefusedWithItsName) {
  struct Row {
    std::vector<std::string> args;
    const char* named;
  };
  const Row rows[] = {
      {{}, "command"},
      {{"fly"}, "fly"},
      {{"up", "--mb", "3"}, "--mb"},
      {{"run", "redis", "--mb", "0"}, "--mb"},
      {{"run", "redis", "--mb", "ten"}, "ten"},
      {{"run", "redis", "--repeat", "0"}, "--repeat"},
      {{"run", "redis", "--connections", "-1"}, "--connections"},
      {{"run", "redis", "--baseline", "magic"}, "magic"},
      {{"run", "redis", "--baseline", "stock-cold,magic"}, "magic"},
      {{"run", "redis", "--baseline", "stock-cold,stock-lazy"}, "runs of their own"},
      {{"run", "redis", "--baseline", "naive-wp,naive-wp"}, "twice"},
      {{"run", "redis", "--baseline", ""}, "baseline"},
      {{"run", "redis", "--standby", "maybe"}, "maybe"},
      {{"run", "redis", "--max-bandwidth", "much"}, "--max-bandwidth"},
      {{"run", "redis", "--steer", "nft"}, "nft"},
      {{"down", "--steer", "xdp"}, "--steer"},
      {{"run", "redis", "--tracker", "mmu"}, "mmu"},
      {{"up", "--tracker", "wp"}, "--tracker"},
      {{"up", "--auto-converge"}, "--auto-converge"},
      {{"run", "redis", "--auto-converge", "--strategy", "cold"}, "--auto-converge"},
      {{"run", "redis", "--strategy", "postcopy", "--auto-converge"}, "postcopy"},
      {{"run", "redis", "--link", "rtt=0.01ms"}, "rtt"},
      {{"run", "redis", "--link", "rtt=soon"}, "--link"},
      {{"run", "redis", "--link", "rtt=1ms", "--steer", "xdp"}, "rtt"},
      {{"run", "redis", "--link", "speed=1"}, "speed=1"},
      {{"run", "redis", "--link", "rate=fast"}, "--link"},
      {{"run", "redis", "--repeat"}, "--repeat"},
      {{"run", "redis", "--keep=yes"}, "--keep"},
      {{"up", "--name", "../x"}, "../x"},
      {{"up", "--name", ""}, "name"},
      {{"up", "--name", "-x"}, "-x"},
      {{"up", "--name", "a-name-that-is-much-too-long"}, "too-long"},
  };
  for (const Row& row : rows) {
    auto line = parse_command_line(row.args);
    ASSERT_FALSE(line) << row.named;
    EXPECT_NE(line.error().what.find(row.named), std::string::npos) << line.error().what;
  }
}

TEST(LabOptions, LoadAtARate) {
  auto line = parse_command_line(
      {"run", "redis", "--rate", "20000", "--keys", "zipf:0.9", "--mix", "set:20", "--set-size", "512"});
  ASSERT_TRUE(line) << line.error().what;
  EXPECT_EQ(line->rate, 20000u);
  EXPECT_EQ(line->keys, "zipf:0.9");
  EXPECT_EQ(line->mix, "set:20");
  EXPECT_EQ(line->value_bytes, 512u);
  EXPECT_EQ(parse_command_line({"run", "redis"})->rate, std::nullopt) << "a closed loop";
  for (const std::vector<std::string>& wrong : {std::vector<std::string>{"--rate", "0"},
                                                {"--keys", "zipf"},
                                                {"--mix", "get"},
                                                {"--rate", "1", "--mix", "put"},
                                                {"--rate", "1", "--keys", "x"},
                                                {"--set-size", "3"}}) {
    std::vector<std::string> args = {"run", "redis"};
    args.insert(args.end(), wrong.begin(), wrong.end());
    EXPECT_FALSE(parse_command_line(args)) << wrong[0];
  }
}

TEST(LabCommand, HelpIsDataAndNoFailure) {
  for (const std::vector<std::string>& args : {std::vector<std::string>{"--help"}, {"-h"}, {"help"}, {"up", "--help"}}) {
    testing::internal::CaptureStdout();
    EXPECT_EQ(run_command(args, false), 0);
    EXPECT_NE(testing::internal::GetCapturedStdout().find("lab up"), std::string::npos);
  }
  EXPECT_FALSE(asks_for_help({"exec", "a", "--", "ls", "--help"}));
}

TEST(LabCommand, HelpShowsTheNameWhereItIsTaken) {
  const std::string usage = kUsage;
  for (const std::string verb : {"up", "down", "status", "list", "exec", "restart-agent", "run"}) {
    const std::string start = "mose lab " + verb;
    const size_t at = usage.find(start);
    ASSERT_NE(at, std::string::npos) << start;
    const std::string text = usage.substr(at, usage.find("mose lab ", at + 1) - at);
    EXPECT_EQ(text.find("--name") != std::string::npos, parse_command_line({verb, "--name", "x"}).has_value()) << text;
  }
}

TEST(LabCommand, UsageErrorsAreExitCodeTwo) {
  EXPECT_EQ(run_command({}, false), 2);
  EXPECT_EQ(run_command({"fly"}, false), 2);
  EXPECT_EQ(run_command({"up", "extra"}, false), 2);
  EXPECT_EQ(run_command({"run", "postgres"}, false), 2);
  EXPECT_EQ(run_command({"exec", "a"}, false), 2);
  EXPECT_EQ(run_command({"restart-agent", "c"}, false), 2);
}

}  // namespace
}  // namespace mose::lab
