// SPDX-License-Identifier: MIT
// `mose pki` as an operator types it: what it makes serves, what it must not do it refuses, and whatever breaks on the way
// leaves what was there, and something that the next command can go on from.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "base/fd.h"
#include "bed.h"
#include "move/node_certificate.h"
#include "move/tls.h"
#include "support/fleet.h"
#include "support/support.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::Pair;

std::string mose_program() { return fs::read_symlink("/proc/self/exe").parent_path() / "mose"; }

size_t entries(const std::string& list_file) {
  const Output shown = run_program({"openssl", "crl", "-in", list_file, "-noout", "-text"});
  EXPECT_EQ(shown.exit_code, 0) << shown.error;
  size_t count = 0;
  for (size_t at = 0; (at = shown.out.find("Serial Number: ", at)) != std::string::npos; ++at) ++count;
  return count;
}

class Pki : public testing::Test {
 protected:
  // A command on this test's directory.
  Output pki(std::vector<std::string> words) const {
    words.insert(words.begin(), {mose_program(), "pki"});
    words.insert(words.end(), {"--dir", directory});
    return run_program(words);
  }
  void must(const std::vector<std::string>& words) const {
    const Output output = pki(words);
    ASSERT_EQ(output.exit_code, 0) << words.front() << ": " << output.error;
  }
  void expect_refused(const std::vector<std::string>& words, int exit_code, const std::string& reason) const {
    const Output output = pki(words);
    EXPECT_EQ(output.exit_code, exit_code) << words.front() << ": " << output.out;
    EXPECT_THAT(output.error, HasSubstr(reason)) << words.front();
  }
  std::string file(const std::string& name) const { return directory + "/" + name; }
  std::string text(const std::string& name) const { return read_file(file(name)).value_or("no " + name); }
  mode_t mode(const std::string& name) const {
    struct stat status{};
    EXPECT_EQ(stat(file(name).c_str(), &status), 0) << name;
    return status.st_mode & 0777;
  }
  move::TlsFiles files(const std::string& node) const { return {file(node + ".crt"), file(node + ".key"), file("ca.crt"), file("revoked.pem")}; }

  const Fleet others;
  const std::string directory = others.path("pki");
};

TEST_F(Pki, MakesCertificatesThatServe) {
  EXPECT_THAT(pki({"init"}).out, HasSubstr(file("revoked.pem") + " lists revoked certificates"));
  EXPECT_EQ(entries(file("revoked.pem")), 0u);
  expect_refused({"init"}, 3, "exists and is not overwritten");
  const Output issued = pki({"issue", "a", "--roles", "source"});
  ASSERT_EQ(issued.exit_code, 0) << issued.error;
  EXPECT_THAT(issued.out, HasSubstr(file("revoked.pem") + "; there in mose.toml, [tls]: certificate, key, authorities, revoked"));
  expect_refused({"issue", "a"}, 3, "`mose pki rotate a` replaces it");
  expect_refused({"issue", "b", "--roles", "admin"}, 2, "admin");
  EXPECT_EQ(mode("a.key"), 0600u);
  EXPECT_EQ(mode("ca.key"), 0600u);
  EXPECT_THAT(pki({"show", "--json"}).out, HasSubstr("\"roles\":\"source\""));

  auto first = move::Tls::load(files("a"));
  ASSERT_TRUE(first) << first.error().what;
  const std::string serial = (*first)->own().serial;
  must({"rotate", "a"});
  auto second = move::Tls::load(files("a"));
  ASSERT_TRUE(second) << second.error().what;
  EXPECT_NE(serial, (*second)->own().serial);
  EXPECT_EQ((*first)->own().serial, (*second)->own().serial) << "who has the old pair reads the new one";
  EXPECT_FALSE((*second)->own().roles.destination) << "roles stay as they were";
}

TEST_F(Pki, RotatesOnlyWhatIsKnownToBeOfThatNode) {
  must({"init"});
  must({"issue", "a"});
  expect_refused({"rotate", "nobody"}, 2, "there is no certificate of node nobody in " + directory);
  expect_refused({"rotate", "ca"}, 2, "ca is the authority, not a node");
  std::ofstream(file("damaged.crt")) << "no certificate";
  expect_refused({"rotate", "damaged"}, 1, "damaged.crt: ");
  fs::copy_file(file("a.crt"), file("other.crt"));
  expect_refused({"rotate", "other"}, 1, "other.crt is of a, not of node other");
  fs::create_directory(file("directory.crt"));
  expect_refused({"rotate", "directory"}, 1, "directory.crt cannot be read: ");
}

// A key that is elsewhere is no authority that is missing, and another in its place would be a lost fleet.
TEST_F(Pki, SaysWhatOfAnAuthorityIsMissing) {
  expect_refused({"issue", "a"}, 1, "there is no authority in " + directory + ": make one with `mose pki init`");
  must({"init"});
  fs::rename(file("ca.key"), others.path("safe"));
  for (const char* verb : {"issue", "revoke"}) {
    if (verb == std::string("revoke")) fs::copy_file(file("ca.crt"), file("a.crt"));
    const Output output = pki({verb, "a"});
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_THAT(output.error, HasSubstr("ca.key is not there, and nothing is signed without it"));
    EXPECT_THAT(output.error, Not(HasSubstr("init")));
  }
  fs::remove(file("a.crt"));
  expect_refused({"init"}, 3, "ca.crt exists and is not overwritten");
  fs::rename(others.path("safe"), file("ca.key"));
  fs::rename(file("ca.crt"), others.path("safe"));
  expect_refused({"issue", "a"}, 1, "ca.crt is not there, and " + file("ca.key") + " is: put it back");
  fs::rename(others.path("safe"), file("ca.crt"));

  ASSERT_EQ(chmod(file("ca.key").c_str(), 0644), 0);
  expect_refused({"issue", "a"}, 1, "the key " + file("ca.key") + " can be read or written by others: chmod 600 " + file("ca.key"));
  ASSERT_EQ(chmod(file("ca.key").c_str(), 0600), 0);
  ASSERT_EQ(chown(file("ca.key").c_str(), 65534, 65534), 0);
  expect_refused({"issue", "a"}, 1, "chown root " + file("ca.key") + " && chmod 600");
  ASSERT_EQ(chown(file("ca.key").c_str(), 0, 0), 0);
  must({"issue", "a"});
}

// ---- what breaks on the way ----------------------------------------------------------------------------------------

// A disk in the place of the test's directory, of which all but so many blocks are taken.
class SmallDisk {
 public:
  explicit SmallDisk(const std::string& at) : at_(at) {
    if (unshare(CLONE_NEWNS) != 0) skip_process("needs a mount namespace of its own");
    fs::create_directory(at);
    EXPECT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    EXPECT_EQ(mount("disk", at.c_str(), "tmpfs", MS_NOSUID, "size=256k,mode=700"), 0);
  }
  ~SmallDisk() { EXPECT_EQ(umount2(at_.c_str(), MNT_DETACH), 0); }
  void leave_free(uint64_t blocks) const {
    fs::remove(filler());
    struct statvfs disk{};
    ASSERT_EQ(statvfs(at_.c_str(), &disk), 0);
    ASSERT_GE(disk.f_bavail, blocks);
    std::ofstream(filler()) << std::string((disk.f_bavail - blocks) * disk.f_bsize, 'x');
    ASSERT_EQ(statvfs(at_.c_str(), &disk), 0);
    ASSERT_EQ(disk.f_bavail, blocks);
  }
  [[nodiscard]] std::string filler() const { return at_ + "/filler"; }

 private:
  const std::string at_;
};

// Names and contents, but the filler's.
std::map<std::string, std::string> contents(const std::string& directory) {
  std::map<std::string, std::string> out;
  for (const auto& item : fs::directory_iterator(directory)) {
    if (item.path().filename() != "filler") out[item.path().filename()] = read_file(item.path()).value_or("");
  }
  return out;
}

TEST_F(Pki, AFullDiskChangesNothingAndStandsInNobodysWayLater) {
  const SmallDisk disk(directory);
  // What fits may be none of its files, or all but the last.
  auto fails_while_full = [&](const std::vector<std::string>& words, uint64_t files_count) {
    const auto before = contents(directory);
    for (uint64_t blocks = 0; blocks < files_count; ++blocks) {
      disk.leave_free(blocks);
      expect_refused(words, 1, "No space left on device");
      EXPECT_EQ(contents(directory), before) << words.front() << " with " << blocks << " blocks";
    }
    fs::remove(disk.filler());
    must(words);
  };
  fails_while_full({"init"}, 3);
  fails_while_full({"issue", "b"}, 2);
  fails_while_full({"rotate", "b"}, 2);
  fails_while_full({"revoke", "b"}, 1);
  must({"issue", "c"});
  fails_while_full({"revoke", "c"}, 1);
  EXPECT_EQ(entries(file("revoked.pem")), 2u);
}

// A machine that stops leaves the first of the files, and others that were never given their names.
TEST_F(Pki, WhatWasBrokenOffIsGoneOnWith) {
  must({"init"});
  must({"issue", "gone"});
  must({"revoke", "gone"});
  const std::string key = text("ca.key"), list = text("revoked.pem");
  fs::remove(file("ca.crt"));
  std::ofstream(file("ca.crt.new")) << "-----BEGIN CERT";
  must({"init"});
  EXPECT_EQ(text("ca.key"), key);
  EXPECT_EQ(text("revoked.pem"), list) << "it is of that key";
  must({"issue", "b", "--roles", "source"});

  fs::rename(file("b.key"), file("b.key.new"));
  expect_refused({"issue", "b"}, 3, "`mose pki rotate b` replaces it");
  must({"rotate", "b"});
  auto tls = move::Tls::load({file("b.crt"), file("b.key"), file("ca.crt")});
  ASSERT_TRUE(tls) << tls.error().what;
  EXPECT_FALSE((*tls)->own().roles.destination);
  EXPECT_FALSE(fs::exists(file("b.key.new")));

  fs::remove(file("b.crt"));
  expect_refused({"issue", "b"}, 3, "b.key exists, and no certificate of it: move it away");
  fs::remove(file("ca.crt"));
  std::ofstream(file("ca.key")) << "";
  expect_refused({"init"}, 1, "ca.key is there, and cannot be gone on with");
  fs::remove(file("ca.key"));
  expect_refused({"init"}, 1, "revoked.pem: the list of revoked certificates is of another authority");
  fs::remove(file("revoked.pem"));
  must({"init"});
}

TEST_F(Pki, RevocationsAtOneTimeForgetNobody) {
  must({"init"});
  const std::vector<std::string> nodes = {"n1", "n2", "n3", "n4", "n5", "n6"};
  for (const std::string& node : nodes) must({"issue", node});
  std::vector<std::jthread> operators;
  for (const std::string& node : nodes) operators.emplace_back([&, node] { EXPECT_EQ(pki({"revoke", node}).exit_code, 0) << node; });
  operators.clear();
  EXPECT_EQ(entries(file("revoked.pem")), nodes.size());
}

// ---- what an agent makes of them ---------------------------------------------------------------------------------

// An agent does not start with files like these; who checks its configuration hears of it before.
TEST_F(Pki, WhatAnAgentCannotUseIsSaidByConfigCheck) {
  must({"init"});
  must({"issue", "a"});
  must({"issue", "b"});
  std::ofstream(file("mose.toml")) << "[node]\nname = \"a\"\n" << tls_section(files("a"));
  auto check = [&] { return run_program({mose_program(), "config", "check", "--config", file("mose.toml")}); };
  const Output good = check();
  ASSERT_EQ(good.exit_code, 0) << good.error;
  EXPECT_THAT(good.out, HasSubstr("revoked = \"" + file("revoked.pem") + "\""));
  const auto whole = contents(directory);
  struct Row {
    const char* file;
    std::optional<std::string> text;  // none: the file is not there
    const char* says;
  };
  const Row rows[] = {
      {"revoked.pem", std::nullopt, "revoked.pem: No such file"},
      {"revoked.pem", "", "revoked.pem holds none in PEM"},
      {"ca.crt", std::nullopt, "ca.crt: No such file"},
      {"a.key", whole.at("b.key"), "a.key is not that of the certificate"},
      {"a.crt", whole.at("a.crt").substr(0, 100), "a.crt: certificate number 1 in it is damaged"},
      {"a.crt", whole.at("b.crt"), "is not that of the certificate"},
  };
  for (const Row& row : rows) {
    fs::remove(file(row.file));
    if (row.text) std::ofstream(file(row.file)) << *row.text;
    fs::permissions(file("a.key"), fs::perms::owner_read);
    const Output output = check();
    EXPECT_EQ(output.exit_code, 2) << row.says;
    EXPECT_EQ(output.out, "");
    EXPECT_THAT(output.error, HasSubstr(row.says));
    std::ofstream(file(row.file), std::ios::trunc) << whole.at(row.file);
  }
  for (const char* end : {".crt", ".key"}) fs::rename(file(std::string("b") + end), file(std::string("a") + end));
  EXPECT_THAT(check().error, HasSubstr("is of b, and this node is called a"));
  const move::TlsFiles expired = others.node("a", {}, -2 * kDayS, -1);
  std::ofstream(file("mose.toml")) << "[node]\nname = \"a\"\n" << tls_section(expired);
  const Output old = check();
  EXPECT_EQ(old.exit_code, 0) << "an agent starts with it, because migrations may wait for it";
  EXPECT_THAT(old.error, HasSubstr("other nodes refuse this one: " + expired.certificate + ": the certificate has expired"));
}

// ---- revoking ------------------------------------------------------------------------------------------------------

TEST_F(Pki, RevokesWhatItsAuthorityHasIssued) {
  must({"init"});
  expect_refused({"revoke", "nobody"}, 2, "nobody.crt cannot be read");
  expect_refused({"revoke", "ca"}, 2, "ca is the authority");
  must({"issue", "gone"});
  const Output revoked = pki({"revoke", "gone"});
  ASSERT_EQ(revoked.exit_code, 0) << revoked.error;
  EXPECT_THAT(revoked.out, HasSubstr(file("revoked.pem") + "; there in mose.toml, [tls]: revoked"));
  expect_refused({"revoke", others.node("x").certificate}, 1, "is of another authority");
  EXPECT_EQ(entries(file("revoked.pem")), 1u);
  must({"issue", "a"});
  auto tls = move::Tls::load(files("a"));
  EXPECT_TRUE(tls) << tls.error().what;
}

// By file in --dir: its state.
std::map<std::string, std::string> states(const std::string& shown_json) {
  std::map<std::string, std::string> out;
  for (const auto& item : nlohmann::json::parse(shown_json)) out[fs::path(item["file"].get<std::string>()).filename()] = item["state"];
  return out;
}

// What a node may no longer do, its certificate before this still says.
TEST_F(Pki, AReplacedCertificateIsKeptAndCanBeRevoked) {
  must({"init"});
  must({"issue", "b"});
  const std::string wide = text("b.crt");
  const Output rotated = pki({"rotate", "b", "--roles", "destination"});
  ASSERT_EQ(rotated.exit_code, 0) << rotated.error;
  const std::string kept = "b-" + move::parse_certificate(wide)->serial.substr(0, 8) + ".crt";
  EXPECT_EQ(text(kept), wide);
  EXPECT_THAT(rotated.out, HasSubstr("believed as well until it ends, unless it is revoked: `mose pki revoke " + file(kept) + " --dir " + directory + "`"));
  EXPECT_THAT(states(pki({"show", "--json"}).out), ElementsAre(Pair(kept, "valid"), Pair("b.crt", "valid"), Pair("ca.crt", "valid")));
  must({"revoke", kept});
  EXPECT_THAT(states(pki({"show", "--json"}).out), ElementsAre(Pair(kept, "revoked"), Pair("b.crt", "valid"), Pair("ca.crt", "valid")));
  for (const std::string& subject : {file(kept), kept}) EXPECT_THAT(states(pki({"show", subject, "--json"}).out), ElementsAre(Pair(kept, "revoked")));
  EXPECT_THAT(pki({"show"}).out, HasSubstr("revoked"));
  // One that nobody believes is not kept.
  must({"revoke", "b"});
  must({"rotate", "b"});
  EXPECT_EQ(contents(directory).size(), 6u) << "ca.crt, ca.key, revoked.pem, b.crt, b.key and the first one";
}

TEST_F(Pki, ACertificateIsNamedByItsNodeItsFileOrItsPath) {
  must({"init"});
  for (const char* node : {"a", "b", "c", "d"}) must({"issue", node});
  fs::rename(file("d.crt"), others.path("d.crt"));
  must({"revoke", "a"});
  must({"revoke", "b.crt"});
  must({"revoke", file("c.crt")});
  const Output here = run_program({"sh", "-c", "cd " + others.path("") + " && " + mose_program() + " pki revoke d.crt --dir " + directory});
  EXPECT_EQ(here.exit_code, 0) << here.error;
  EXPECT_EQ(entries(file("revoked.pem")), 4u);
  expect_refused({"revoke", "e.crt"}, 2, file("e.crt") + " cannot be read");
}

// Each of these was once taken for a list without entries, and forgot who stood in it.
TEST_F(Pki, AListThatIsThereIsNeverBegunAnew) {
  must({"init"});
  for (const char* node : {"b", "c"}) must({"issue", node});
  must({"revoke", "b"});
  const std::string whole = text("revoked.pem");
  for (const std::string& damaged : {std::string(), std::string("\n"), whole.substr(0, whole.size() / 2), whole + whole.substr(0, whole.size() / 2)}) {
    std::ofstream(file("revoked.pem")) << damaged;
    expect_refused({"revoke", "c"}, 1, file("revoked.pem") + ": ");
    EXPECT_EQ(text("revoked.pem"), damaged);
  }
  fs::remove(file("revoked.pem"));
  fs::create_directory(file("revoked.pem"));
  expect_refused({"revoke", "c"}, 1, "revoked.pem");
  fs::remove(file("revoked.pem"));
  std::ofstream(file("revoked.pem")) << whole;
  must({"revoke", "c"});
  EXPECT_EQ(entries(file("revoked.pem")), 2u);
  EXPECT_EQ(mode("revoked.pem"), 0644u);
}

}  // namespace
}  // namespace mose::test
