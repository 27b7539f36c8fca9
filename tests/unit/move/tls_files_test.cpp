// SPDX-License-Identifier: MIT
// The files of a node's certificates: what cannot be used is named, and counts as a whole.
#include <gmock/gmock.h>
#include <openssl/pem.h>
#include <sys/stat.h>

#include "move/openssl.h"
#include "move/tls.h"
#include "support/fleet.h"

namespace mose::move {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using test::Fleet;
using test::kDayS;

class TlsFilesOfANode : public testing::Test {
 protected:
  Fleet fleet_;
};

std::string load_error(const TlsFiles& files) {
  auto tls = Tls::load(files);
  return tls ? "no error" : tls.error().what;
}

TEST_F(TlsFilesOfANode, FilesThatCannotBeUsedAreNamed) {
  TlsFiles files = fleet_.node("a");
  ASSERT_EQ(chmod(files.key.c_str(), 0640), 0);
  EXPECT_THAT(load_error(files), HasSubstr("the key " + files.key + " can be read or written by others: chmod 600 " + files.key));
  files = fleet_.node("a");
  TlsFiles wrong = files;
  wrong.key = fleet_.node("b").key;
  EXPECT_THAT(load_error(wrong), HasSubstr("is not that of the certificate " + files.certificate));
  wrong = files;
  wrong.authorities = files.key;
  EXPECT_THAT(load_error(wrong), HasSubstr("hold no certificate in PEM"));
  wrong.authorities = fleet_.path("none");
  EXPECT_THAT(load_error(wrong), HasSubstr(fleet_.path("none")));
  wrong = files;
  wrong.certificate = files.key;
  EXPECT_THAT(load_error(wrong), HasSubstr("the certificate " + files.key));
}

// What would be believed, or shown, without its second part.
TEST_F(TlsFilesOfANode, FilesOfSeveralCertificatesCountAsAWhole) {
  const Fleet others;
  const std::string ours = read_file(fleet_.path("ca.crt")).value(), theirs = read_file(others.path("ca.crt")).value();
  const size_t middle = theirs.size() / 2;
  std::string damaged = theirs;
  damaged[middle] = '!';
  std::string headless = theirs;
  headless[headless.find("BEGIN")] = 'b';
  std::string many;
  for (int i = 0; i < 65; ++i) many += ours;
  struct Row {
    std::string second, says;
  };
  const Row rows[] = {
      {theirs, "no error"},
      {"what others write between them\n" + theirs + "and behind\n", "no error"},
      {damaged, "certificate number 2 in it is damaged: "},
      {theirs.substr(0, middle), "certificate number 2 in it is damaged: "},
      {theirs.substr(0, theirs.size() - 5), "certificate number 2 in it is damaged: "},
      {theirs.substr(0, 12), "certificate number 2 in it is cut off"},
      {headless, "a first line is damaged"},
      {headless + ours, "a first line is damaged"},
      {many, "there are more than "},
  };
  TlsFiles files = fleet_.node("a");
  const std::string own = read_file(files.certificate).value();
  for (const Row& row : rows) {
    fleet_.write("several.crt", ours + row.second, 0644);
    TlsFiles wrong = files;
    wrong.authorities = fleet_.path("several.crt");
    EXPECT_THAT(load_error(wrong), AnyOf("no error", HasSubstr("the authorities " + wrong.authorities + ": ")));
    EXPECT_THAT(load_error(wrong), HasSubstr(row.says)) << row.second;
    fleet_.write("chain.crt", own + row.second, 0644);
    wrong = files;
    wrong.certificate = fleet_.path("chain.crt");
    EXPECT_THAT(load_error(wrong), AnyOf("no error", HasSubstr("the certificate " + wrong.certificate + ": ")));
    EXPECT_THAT(load_error(wrong), HasSubstr(row.says)) << row.second;
  }
}

// The last byte is the signature's.
std::string with_another_signature(const std::string& list_pem) {
  const BioPtr in = bio_of(list_pem), out(BIO_new(BIO_s_mem()));
  const X509CrlPtr list(PEM_read_bio_X509_CRL(in.get(), nullptr, nullptr, nullptr));
  unsigned char* der = nullptr;
  const int size = i2d_X509_CRL(list.get(), &der);
  EXPECT_GT(size, 0);
  der[size - 1] ^= 1;
  EXPECT_GT(PEM_write_bio(out.get(), PEM_STRING_X509_CRL, "", der, size), 0);
  OPENSSL_free(der);
  char* text = nullptr;
  const long text_size = BIO_get_mem_data(out.get(), &text);
  return {text, static_cast<size_t>(text_size)};
}

TEST_F(TlsFilesOfANode, AListThatCannotBeUsedIsNamed) {
  const Fleet others;
  TlsFiles files = fleet_.node("a");
  auto error = [&](const std::string& list) {
    files.revoked = list;
    auto tls = Tls::load(files);
    return tls ? "no error" : tls.error().what;
  };
  EXPECT_THAT(error(fleet_.path("none")), HasSubstr("the list of revoked certificates: "));
  EXPECT_THAT(error(files.certificate), HasSubstr("holds none in PEM"));
  fleet_.write("empty.pem", "", 0644);
  EXPECT_THAT(error(fleet_.path("empty.pem")), HasSubstr("holds none in PEM"));
  const std::string list = read_file(fleet_.revoke(fleet_.node("x"))).value();
  EXPECT_EQ(error(fleet_.path("revoked.pem")), "no error");
  fleet_.write("damaged.pem", with_another_signature(list), 0644);
  EXPECT_THAT(error(fleet_.path("damaged.pem")), HasSubstr("damaged.pem: its signature is not that of its authority, test"));
}

int entries_of(const std::string& list_pem) {
  const BioPtr in = bio_of(list_pem);
  const X509CrlPtr list(PEM_read_bio_X509_CRL(in.get(), nullptr, nullptr, nullptr));
  return list ? sk_X509_REVOKED_num(X509_CRL_get_REVOKED(list.get())) : -1;
}

// Who stands in a list must not be forgotten by the next revocation.
TEST_F(TlsFilesOfANode, AListIsOnlyWrittenAnewWhereAllOfItCanBeRead) {
  const Fleet others;
  const std::string a = read_file(fleet_.node("a").certificate).value(), b = read_file(fleet_.node("b").certificate).value();
  const Authority& authority = fleet_.authority();
  const std::string none = authority.new_list().value();
  EXPECT_TRUE(authority.check_list(none));
  const std::string one = authority.revoke(a, none).value();
  const std::string two = authority.revoke(b, one).value();
  EXPECT_EQ(entries_of(two), 2);
  EXPECT_EQ(entries_of(authority.revoke(b, two).value()), 2) << "it stands there already";
  struct Row {
    std::string list, says;
  };
  const Row rows[] = {
      {"", "holds no list"},
      {"nothing in PEM\n", "holds no list"},
      {one.substr(0, one.size() / 2), "list number 1 in it is damaged"},
      {one + one.substr(0, one.size() / 2), "list number 2 in it is damaged"},
      {one + none, "more than one list"},
      {others.authority().new_list().value(), "of another authority"},
  };
  for (const Row& row : rows) {
    auto revoked = authority.revoke(b, row.list);
    ASSERT_FALSE(revoked) << row.list;
    EXPECT_THAT(revoked.error().what, HasSubstr(row.says));
  }
  EXPECT_FALSE(others.authority().revoke(a, others.authority().new_list().value())) << "of another authority";
}

TEST(NodeCertificates, OfAnUnknownRoleAreRefused) {
  EXPECT_FALSE(parse_roles(std::vector<std::string>{"source", "admin"}));
  EXPECT_FALSE(parse_roles({}));
  EXPECT_EQ(parse_roles(std::vector<std::string>{"destination"}).value(), (NodeRoles{false, true}));
}

TEST(Authorities, RefuseNamesThatWouldBeTwoAndTimesBeyondTheirOwn) {
  const int64_t now_s = std::time(nullptr);
  auto authority = Authority::create("x", now_s, now_s + kDayS);
  ASSERT_TRUE(authority);
  EXPECT_FALSE(authority->issue({"a,DNS:b", {}, now_s, now_s + 10}));
  EXPECT_FALSE(authority->issue({"", {}, now_s, now_s + 10}));
  EXPECT_FALSE(authority->issue({"a", {}, now_s, now_s + 2 * kDayS}));
  auto pem = authority->own_pem().value();
  auto loaded = Authority::load(pem.certificate, pem.key);
  ASSERT_TRUE(loaded) << loaded.error().what;
  auto node = parse_certificate(loaded->issue({"a", {.source = false}, now_s, now_s + 10})->certificate);
  ASSERT_TRUE(node) << node.error().what;
  EXPECT_EQ(node->roles, (NodeRoles{false, true}));
  EXPECT_FALSE(node->authority);
  EXPECT_TRUE(parse_certificate(pem.certificate)->authority);
  EXPECT_FALSE(Authority::load(loaded->issue({"a", {}, now_s, now_s + 10})->certificate, pem.key));
}

}  // namespace
}  // namespace mose::move
