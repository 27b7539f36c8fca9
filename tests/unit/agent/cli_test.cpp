// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "mose/command_line.h"
#include "mose/control/control.pb.h"
#include "mose/output.h"

namespace mose::cli {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(CommandLine, RunTakesItsCommandAsItIs) {
  auto parsed = parse_command_line({"run", "redis", "--address", "192.0.2.10/24", "--address", "2001:db8::1/64",
                                    "--mount", "/a:/b:copy:ro", "--env", "LANG=C", "--root", "/srv", "--json", "--",
                                    "redis-server", "--save", "", "--help"});
  ASSERT_TRUE(parsed.command) << parsed.error;
  const Command& command = *parsed.command;
  EXPECT_EQ(command.verb, Verb::run);
  EXPECT_EQ(command.subject, "redis");
  EXPECT_THAT(command.addresses, ElementsAre("192.0.2.10/24", "2001:db8::1/64"));
  EXPECT_THAT(command.command, ElementsAre("redis-server", "--save", "", "--help"));
  ASSERT_EQ(command.mounts.size(), 1u);
  EXPECT_TRUE(command.mounts[0].read_only);
  EXPECT_TRUE(command.json);
}

TEST(CommandLine, MigrateTakesItsTargets) {
  auto parsed =
      parse_command_line({"--socket", "/x.sock", "migrate", "redis", "--to", "b", "--strategy", "hybrid",
                          "--max-downtime", "50ms", "--max-total", "5s", "--max-bandwidth", "500mbit", "--detach"});
  ASSERT_TRUE(parsed.command) << parsed.error;
  const Command& command = *parsed.command;
  EXPECT_EQ(command.verb, Verb::migrate);
  EXPECT_EQ(command.socket, "/x.sock");
  EXPECT_EQ(command.node, "b");
  EXPECT_EQ(command.max_downtime, Nanoseconds(50ms));
  EXPECT_EQ(command.max_total, Nanoseconds(5s));
  EXPECT_EQ(command.max_bandwidth_bps, 500'000'000u);
  EXPECT_TRUE(command.detach);
}

TEST(CommandLine, NobodyIsSlowedDownUnlessAskedFor) {
  EXPECT_FALSE(parse_command_line({"migrate", "redis", "--to", "b"}).command->auto_converge);
  for (const char* strategy : {"auto", "precopy", "hybrid"}) {
    auto parsed = parse_command_line({"migrate", "redis", "--to", "b", "--auto-converge", "--strategy", strategy});
    ASSERT_TRUE(parsed.command) << parsed.error;
    EXPECT_TRUE(parsed.command->auto_converge);
  }
}

TEST(CommandLine, CertificatesHaveUsualDaysAndRoles) {
  auto parsed = parse_command_line({"pki", "issue", "b", "--roles", "source,destination"});
  ASSERT_TRUE(parsed.command) << parsed.error;
  EXPECT_EQ(parsed.command->verb, Verb::pki_issue);
  EXPECT_EQ(parsed.command->subject, "b");
  EXPECT_EQ(parsed.command->days, 365u);
  EXPECT_EQ(parsed.command->directory, "/etc/mose/pki");
  EXPECT_THAT(parsed.command->roles, ElementsAre("source", "destination"));
  parsed = parse_command_line({"pki", "init", "--dir", "/srv/pki"});
  ASSERT_TRUE(parsed.command) << parsed.error;
  EXPECT_EQ(parsed.command->days, 3650u);
  EXPECT_EQ(parsed.command->directory, "/srv/pki");
  EXPECT_EQ(parse_command_line({"pki", "rotate", "b", "--days", "7"}).command->days, 7u);
  EXPECT_EQ(parse_command_line({"pki", "issue"}).exit_code, 2);
  EXPECT_EQ(parse_command_line({"pki", "issue", "b", "--days", "0"}).exit_code, 2);
}

TEST(CommandLine, ARecoveryTakesOneOfTwoWishes) {
  auto parsed = parse_command_line({"recover", "3fe1", "--resume-here", "--yes"});
  ASSERT_TRUE(parsed.command) << parsed.error;
  EXPECT_TRUE(parsed.command->resume_here && parsed.command->yes);
  EXPECT_FALSE(parsed.command->give_up || parsed.command->dry_run);
  EXPECT_EQ(parse_command_line({"recover", "3fe1", "--resume-here", "--give-up"}).exit_code, 2);
}

TEST(CommandLine, EventsAreFollowedWithoutAFlagAsWell) {
  EXPECT_TRUE(parse_command_line({"events"}).command);
  EXPECT_TRUE(parse_command_line({"events", "--follow"}).command);
}

// What every migration does for a while is no alarm.
TEST(Output, OfAStatusNamesWhatBecomesOfPackets) {
  auto shown = [](const char* ingress, const char* egress, bool unclaimed) {
    control::v1::MigrationList list;
    auto& item = *list.add_closed();
    item.set_workload("redis");
    item.set_ingress(ingress);
    item.set_egress(egress);
    item.set_since_ms(2200);
    item.set_expires_in_ms(-1);
    item.set_unclaimed(unclaimed);
    return show(list, false);
  };
  EXPECT_THAT(shown("redirect", "shut", false), HasSubstr("packets of redis are redirected to where it runs for 2.2 s"));
  EXPECT_THAT(shown("shut", "hold", false), HasSubstr("packets of redis have nobody here yet for 2.2 s"));
  EXPECT_THAT(shown("hold", "shut", false), HasSubstr("packets of redis wait or are dropped here for 2.2 s"));
  EXPECT_THAT(shown("redirect", "shut", true), HasSubstr("wait or are dropped here for 2.2 s"));
}

struct Usage {
  const char* name;
  std::vector<std::string> arguments;
  const char* error;
};
class CommandLineRefuses : public testing::TestWithParam<Usage> {};

TEST_P(CommandLineRefuses, WithExitCode2AndAReason) {
  auto parsed = parse_command_line(GetParam().arguments);
  EXPECT_FALSE(parsed.command);
  EXPECT_EQ(parsed.exit_code, 2);
  EXPECT_EQ(parsed.out.empty(), std::ranges::find(GetParam().arguments, "--json") == GetParam().arguments.end());
  EXPECT_THAT(parsed.error, HasSubstr(GetParam().error));
  EXPECT_THAT(parsed.error, testing::StartsWith("mose: "));
  EXPECT_EQ(std::ranges::count(parsed.error, '\n'), 1) << "one sentence";
}

INSTANTIATE_TEST_SUITE_P(
    Table, CommandLineRefuses,
    testing::Values(
        Usage{"Nothing", {}, "mose: a command is missing; there are: run, stop, workloads, migrate, "},
        Usage{
            "UnknownVerb", {"move", "x"}, "mose: unknown command \"move\"; there are: run, stop, workloads, migrate, "},
        Usage{"UnknownVerbBehindAnOption", {"--socket", "/s", "move", "--json"}, "mose: unknown command \"move\""},
        Usage{"UnknownVerbOfSteer",
              {"steer", "drop"},
              "mose: steer: unknown command \"drop\"; there are: show, explain, release"},
        Usage{"UnknownOption", {"nodes", "--verbose"}, "--verbose"},
        Usage{"RunWithoutCommand", {"run", "x", "--address", "192.0.2.1/24"}, "a command is missing"},
        Usage{"RunWithoutAddress", {"run", "x", "--", "sh"}, "--address is required"},
        Usage{"RunBadMount",
              {"run", "x", "--address", "192.0.2.1/24", "--mount", "/a", "--", "sh"},
              "\"/a\" is not a mount"},
        Usage{"CommandOfAnotherVerb", {"nodes", "--", "sh"}, "only run takes a command"},
        Usage{"MigrateWithoutNode", {"migrate", "x"}, "--to is required"},
        Usage{"MigrateBadStrategy", {"migrate", "x", "--to", "b", "--strategy", "fast"}, "fast"},
        Usage{"MigrateBadDuration", {"migrate", "x", "--to", "b", "--max-downtime", "50"}, "50"},
        Usage{"MigrateBadBandwidth", {"migrate", "x", "--to", "b", "--max-bandwidth", "5 apples"}, "5 apples"},
        Usage{"MigrateBadSteer", {"migrate", "x", "--to", "b", "--steer", "nft"}, "nft"},
        Usage{"MigrateBadTracker", {"migrate", "x", "--to", "b", "--tracker", "mmu"}, "auto, wp, wp-early, hash or soft-dirty"},
        Usage{"MigrateColdAndSlowedDown",
              {"migrate", "x", "--to", "b", "--strategy", "cold", "--auto-converge"},
              "strategy cold sends nothing while the workload runs"},
        Usage{"MigratePostcopyAndSlowedDown",
              {"migrate", "x", "--to", "b", "--auto-converge", "--strategy", "postcopy"},
              "leave --auto-converge out"},
        Usage{"CheckWithoutNode", {"check", "x"}, "--to"},
        Usage{"CheckWithoutWorkload", {"check", "--to", "b"}, "workload"},
        Usage{"ShowWithoutId", {"show"}, "id is required"},
        Usage{"SteerAlone", {"steer"}, "mose: steer: a command is missing; there are: show, explain, release"}),
    [](const auto& param) { return param.param.name; });

TEST(CommandLine, WithJsonAWrongOneIsAnObjectOnStandardOutput) {
  auto parsed = parse_command_line({"migrate", "x", "--json"});
  EXPECT_EQ(parsed.exit_code, 2);
  EXPECT_EQ(parsed.out, "{\"error\":{\"exit_code\":2,\"reason\":\"--to is required; see mose migrate --help\"}}\n");
  EXPECT_EQ(parsed.error, "mose: --to is required; see mose migrate --help\n");
}

TEST(CommandLine, HelpAndVersionAreDataAndNoFailure) {
  auto help = parse_command_line({"--help"});
  EXPECT_FALSE(help.command);
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, HasSubstr("mose migrate redis --to b"));
  EXPECT_THAT(help.out, HasSubstr("Exit codes: 0 complete"));
  EXPECT_THAT(help.out, testing::Not(HasSubstr("moved, but a target was missed"))) << "there are no targets yet";
  auto version = parse_command_line({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.out, HasSubstr("mose 0."));
}

TEST(CommandLine, TheLabGetsItsWordsUntouched) {
  auto parsed = parse_command_line({"lab", "run", "redis", "--repeat", "5", "--json", "f"});
  ASSERT_TRUE(parsed.command);
  EXPECT_EQ(parsed.command->verb, Verb::lab);
  EXPECT_THAT(parsed.command->lab_arguments, ElementsAre("run", "redis", "--repeat", "5", "--json", "f"));
}

TEST(Output, TablesAlignTheirColumns) {
  EXPECT_EQ(format_table({{"A", "BB"}, {"ccc", "d"}, {"e", ""}}), "A    BB\nccc  d\ne\n");
}

TEST(Output, AReportIsShownForPeopleAndGivenAsItIs) {
  std::string report =
      R"({"migration_id":"00112233445566778899aabbccddeeff","workload":"redis","source_node":"a","destination_node":"b",)"
      R"("strategy":"hybrid","outcome":"complete","reason":"","downtime_ms":41.26,"total_ms":null,"phases_ms":{"freeze":0.4,"dump":null}})";
  std::string shown = show_report(report, false);
  EXPECT_THAT(shown, HasSubstr("hybrid of redis from a to b: complete\n"));
  EXPECT_THAT(shown, HasSubstr("downtime  41.3 ms"));
  EXPECT_THAT(shown, HasSubstr("total     -"));
  EXPECT_THAT(shown, HasSubstr("phases    freeze 0.4 ms"));
  EXPECT_THAT(shown, testing::Not(HasSubstr("slowed")));
  EXPECT_THAT(show_report(report, true), HasSubstr("\"total_ms\":null"));
  EXPECT_EQ(show_history("[]", false), "no migration has finished here\n");
  EXPECT_THAT(show_history("[" + report + "]", false), HasSubstr("00112233  redis"));
}

TEST(Output, AReportWithoutAnEndOrAStrategySaysSo) {
  EXPECT_THAT(show_report(R"({"workload":"redis","source_node":"a","destination_node":"b","strategy":null,"outcome":null})", false),
              HasSubstr("move of redis from a to b: under way\n"));
}

TEST(Output, AReportSaysThatTheWorkloadWasSlowedDown) {
  EXPECT_THAT(show_report(R"({"precopy":{"rounds":7,"throttle_percent":40,"throttled_ms":812.51}})", false),
              HasSubstr("slowed    by up to 40 % in pre-copy (7 rounds), where it stood still for 812.5 ms in all\n"));
  EXPECT_THAT(show_report(R"({"precopy":{"rounds":7,"throttle_percent":null}})", false), testing::Not(HasSubstr("slowed")));
}

}  // namespace
}  // namespace mose::cli
