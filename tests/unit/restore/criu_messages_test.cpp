// SPDX-License-Identifier: MIT
// CRIU's RPC as bytes. The expected bytes are written out: both ends agree on field numbers or on nothing.
#include "restore/criu_messages.h"

#include <gtest/gtest.h>

#include "restore/criu_setup.h"
#include "restore/swrk.h"

namespace mose::restore {
namespace {

using namespace std::string_literals;

TEST(CriuMessages, AHookAnswerIsNotifyWithSuccess) {
  EXPECT_EQ(encode_hook_answer(true), "\x08\x06\x18\x01"s);
  EXPECT_EQ(encode_hook_answer(false), "\x08\x06\x18\x00"s);
}

TEST(CriuMessages, ADumpCarriesEveryOptionUnderItsNumber) {
  std::string bytes = encode_dump({7, 42, "/cg", {"mnt[/data]:data"}, 4});
  std::string options = "\x08\x07"                        // 1 images_dir_fd
                        "\x10\x2a"                        // 2 pid
                        "\x28\x01"                        // 5 tcp_established
                        "\x38\x00"                        // 7 shell_job
                        "\x48\x04"                        // 9 log_level
                        "\x52\x08" "dump.log"             // 10 log_file
                        "\x60\x01"                        // 12 notify_scripts
                        "\x88\x01\x07"                    // 17 work_dir_fd
                        "\x90\x02\x00"                    // 34 manage_cgroups_mode: ignore
                        "\xaa\x02\x0f" "mnt[/data]:data"  // 37 external
                        "\xe2\x02\x03" "/cg"              // 44 freeze_cgroup
                        "\x80\x04\x03"                    // 64 network_lock: skip
                        "\xa8\x04\x01"s;                  // 69 leave_stopped
  std::string expected = "\x08\x01\x12"s + static_cast<char>(options.size()) + options;
  EXPECT_EQ(bytes, expected);
}

TEST(CriuMessages, ARestoreIsLazyAndHasARoot) {
  std::string bytes = encode_restore({7, "/r", {}, true, 1});
  EXPECT_NE(bytes.find("\x6a\x02/r"s), std::string::npos);         // 13 root
  EXPECT_NE(bytes.find("\x80\x03\x01"s), std::string::npos);       // 48 lazy_pages
  EXPECT_NE(bytes.find("\x52\x0brestore.log"s), std::string::npos);
  EXPECT_EQ(bytes.find("\xa8\x04"s), std::string::npos) << "nothing of a dump";
}

TEST(CriuMessages, AHookIsRead) {
  auto message = decode_criu_message("\x08\x06\x10\x01\x2a\x0f\x0a\x0b" "pre-restore" "\x10\x05"s);
  ASSERT_TRUE(message) << message.error().what;
  EXPECT_TRUE(message->is_hook);
  EXPECT_EQ(message->hook, "pre-restore");
  EXPECT_EQ(message->pid, 5);
}

TEST(CriuMessages, ARestoredPidIsRead) {
  auto message = decode_criu_message("\x08\x02\x10\x01\x22\x03\x08\x80\x08"s);
  ASSERT_TRUE(message) << message.error().what;
  EXPECT_FALSE(message->is_hook);
  EXPECT_TRUE(message->success);
  EXPECT_EQ(message->pid, 1024);
}

TEST(CriuMessages, DamagedBytesAreAnError) {
  EXPECT_FALSE(decode_criu_message(""));
  EXPECT_FALSE(decode_criu_message("\x08"));
  EXPECT_FALSE(decode_criu_message("\x08\x06\x10\x01"s)) << "a hook without a name";
  EXPECT_FALSE(decode_criu_message(std::string(100, '\xff')));
}

TEST(CriuVersion, IsReadFromItsOutput) {
  EXPECT_EQ(*parse_criu_version("Version: 4.2.1\nGitID: v4.2.1\n"), "4.2.1");
  EXPECT_EQ(*parse_criu_version("Version: 4.2"), "4.2");
  EXPECT_FALSE(parse_criu_version(""));
  EXPECT_FALSE(parse_criu_version("Version: unknown"));
}

TEST(CriuVersion, HasAnOrder) {
  EXPECT_EQ(*criu_version_number("4.2.1"), 402);
  EXPECT_EQ(*criu_version_number("4.10"), 410);
  EXPECT_EQ(*criu_version_number("5"), 500);
  EXPECT_LT(*criu_version_number("4.1.1"), kCriuVersionMin);
  EXPECT_FALSE(criu_version_number(""));
  EXPECT_FALSE(criu_version_number("4.x"));
  EXPECT_FALSE(criu_version_number("4.100"));
}

TEST(CriuLog, TheLastErrorsTellWhy) {
  EXPECT_EQ(meaningful_log_lines("(00.000001) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: x\n"
                                 "(00.000002) some noise\n"
                                 "(00.000003) Error (criu/a.c:1): first\n"
                                 "(00.000004)      1: Error (criu/b.c:2): second\n"
                                 "(00.000005) Error (criu/cr-restore.c:9): Restoring FAILED.\n"),
            "Error (criu/a.c:1): first; 1: Error (criu/b.c:2): second");
}

TEST(CriuLog, KeepsThreeLines) {
  EXPECT_EQ(meaningful_log_lines("Error (1\nError (2\nError (3\nError (4\n"), "Error (2; Error (3; Error (4");
  EXPECT_EQ(meaningful_log_lines("nothing\n"), "");
  EXPECT_EQ(meaningful_log_lines(""), "");
}

}  // namespace
}  // namespace mose::restore
