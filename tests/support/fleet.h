// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/fd.h"
#include "move/authority.h"
#include "move/tls.h"

namespace mose::test {

inline constexpr int64_t kDayS = 24 * 3600;

// An authority of its own and certificates of it, as files in a directory that ends with the test.
class Fleet {
 public:
  Fleet() {
    char pattern[] = "/tmp/mose-fleet-XXXXXX";
    directory_ = mkdtemp(pattern);
    const int64_t now_s = std::time(nullptr);
    auto authority = move::Authority::create("test", now_s - 3 * kDayS, now_s + 100 * kDayS);
    if (authority) authority_ = std::make_unique<move::Authority>(std::move(*authority));
    EXPECT_TRUE(authority_);
    write("ca.crt", authority_->own_pem().value().certificate, 0644);
  }
  ~Fleet() { std::filesystem::remove_all(directory_); }
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;

  // The certificate of `name`, valid from and until so many seconds from now. A second one replaces the first.
  move::TlsFiles node(const std::string& name, NodeRoles roles = {}, int64_t begins = -kDayS, int64_t ends = kDayS) const {
    const int64_t now_s = std::time(nullptr);
    auto issued = authority_->issue({name, roles, now_s + begins, now_s + ends});
    EXPECT_TRUE(issued) << issued.error().what;
    write(name + ".crt", issued->certificate, 0644);
    write(name + ".key", issued->key, 0600);
    return {path(name + ".crt"), path(name + ".key"), path("ca.crt")};
  }
  // Its certificate is in the list from now on, which is written anew; the list's file.
  std::string revoke(const move::TlsFiles& files) const {
    const std::string list = path("revoked.pem");
    auto before = read_file(list);
    if (!before) before = authority_->new_list();
    auto text = authority_->revoke(read_file(files.certificate).value(), before.value());
    EXPECT_TRUE(text) << text.error().what;
    write("revoked.pem", text.value_or(""), 0644);
    return list;
  }
  [[nodiscard]] const move::Authority& authority() const { return *authority_; }
  [[nodiscard]] std::string path(const std::string& name) const { return directory_ + "/" + name; }
  void write(const std::string& name, const std::string& text, mode_t mode) const {
    unlink(path(name).c_str());
    std::ofstream(path(name)) << text;
    EXPECT_EQ(chmod(path(name).c_str(), mode), 0);
  }

 private:
  std::string directory_;
  std::unique_ptr<move::Authority> authority_;
};

// [tls] of a configuration.
inline std::string tls_section(const move::TlsFiles& files) {
  return "[tls]\ncertificate = \"" + files.certificate + "\"\nkey = \"" + files.key + "\"\nauthorities = \"" + files.authorities + "\"\n" +
         (files.revoked.empty() ? "" : "revoked = \"" + files.revoked + "\"\n");
}

}  // namespace mose::test
