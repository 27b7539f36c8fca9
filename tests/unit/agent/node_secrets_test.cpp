// SPDX-License-Identifier: MIT
#include "agent/node_secrets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/workloads.h"
#include "temp_dir.h"

namespace mose::agent {
namespace {

using ::testing::HasSubstr;

class NodeSecrets : public testing::Test {
 protected:
  NodeSecrets() {
    for (const char* file : {"etc/mose/pki/a.key", "var/lib/mose/history.jsonl", "run/mose/mosed.sock", "srv/data", "etc/passwd"})
      node_.write(file, "x");
    config_.tls.plain_text = false;
    config_.tls.key = node_.path() + "/etc/mose/pki/a.key";
    config_.node.state_dir = node_.path() + "/var/lib/mose";
    config_.node.runtime_dir = node_.path() + "/run/mose";
    spec_.root = node_.path();
  }
  std::vector<std::string> hidden() {
    std::vector<std::string> targets;
    auto done = hide_node_secrets(config_, spec_);
    EXPECT_TRUE(done) << done.error().reason;
    for (const WorkloadMount& mount : spec_.mounts) {
      if (mount.source != kWorkloadLogTarget) continue;
      EXPECT_TRUE(mount.read_only);
      targets.push_back(mount.target);
    }
    return targets;
  }
  std::string refusal() {
    auto done = hide_node_secrets(config_, spec_);
    return done ? "" : done.error().reason;
  }

  test::TempDir node_;
  Config config_;
  WorkloadSpec spec_;
};

TEST_F(NodeSecrets, KeyStateAndSocketsAreHiddenInARootThatHasThem) {
  EXPECT_NE(shown_node_secrets(config_, spec_), "");
  EXPECT_THAT(hidden(), testing::ElementsAre("/etc/mose/pki", "/var/lib/mose", "/run/mose"));
  EXPECT_EQ(shown_node_secrets(config_, spec_), "");
}

TEST_F(NodeSecrets, WhatTheOperatorMountsComesOnTop) {
  spec_.mounts = {{node_.path() + "/srv", "/var/lib/mose/data", MountMode::shared, false}};
  EXPECT_EQ(hidden().size(), 3u);
  EXPECT_EQ(spec_.mounts.back().target, "/var/lib/mose/data");
}

TEST_F(NodeSecrets, ARootOfItsOwnHasNoneOfThem) {
  spec_.root = node_.path() + "/srv";
  EXPECT_THAT(hidden(), testing::IsEmpty());
  EXPECT_EQ(shown_node_secrets(config_, spec_), "");
}

TEST_F(NodeSecrets, OneDirectoryInTheOtherIsHiddenOnce) {
  config_.tls.key = node_.write("var/lib/mose/pki/a.key", "x");
  EXPECT_THAT(hidden(), testing::ElementsAre("/var/lib/mose", "/run/mose"));
}

TEST_F(NodeSecrets, AControlSocketElsewhereIsHiddenAsWell) {
  config_.control.socket = node_.write("run/ours/control.sock", "x");
  EXPECT_THAT(hidden(), testing::Contains("/run/ours"));
}

TEST_F(NodeSecrets, LinksAreFollowed) {
  std::filesystem::create_directory_symlink(node_.path() + "/etc/mose/pki", node_.path() + "/keys");
  config_.tls.key = node_.path() + "/keys/a.key";
  EXPECT_THAT(hidden(), testing::Contains("/etc/mose/pki"));
}

TEST_F(NodeSecrets, WithoutCertificatesThereIsNoKey) {
  config_.tls.plain_text = true;
  EXPECT_THAT(hidden(), testing::ElementsAre("/var/lib/mose", "/run/mose"));
}

TEST_F(NodeSecrets, AMountThatShowsTheKeyIsRefused) {
  for (const char* source : {"/etc", "/etc/mose", "/etc/mose/pki", "/etc/mose/pki/a.key", ""}) {
    spec_.mounts = {{node_.path() + source, "/mnt", MountMode::identical, true}};
    EXPECT_THAT(refusal(), HasSubstr("shows the workload this node's key")) << source;
  }
  spec_.mounts = {{node_.path() + "/srv", "/mnt", MountMode::identical, true}};
  EXPECT_EQ(refusal(), "");
}

TEST_F(NodeSecrets, AMountThatShowsTheAgentsStateOrSocketsIsRefused) {
  for (const char* source : {"/var", "/var/lib", "/var/lib/mose", "/run", "/run/mose"}) {
    spec_.mounts = {{node_.path() + source, "/mnt", MountMode::identical, true}};
    EXPECT_THAT(refusal(), HasSubstr("shows the workload the agent's own")) << source;
  }
}

// What comes brings the mounts that hid another node's.
TEST_F(NodeSecrets, WhatComesIsSeenToShowWhatLiesElsewhereHere) {
  ASSERT_EQ(hidden().size(), 3u);
  const WorkloadSpec from_a_node_alike = spec_;
  EXPECT_EQ(shown_node_secrets(config_, from_a_node_alike), "");
  for (const char* source : {"/etc", "/etc/mose/pki", "/etc/mose/pki/a.key", "/var/lib", "/run/mose"}) {
    spec_ = from_a_node_alike;
    spec_.mounts.push_back({node_.path() + source, "/mnt", MountMode::identical, true});
    EXPECT_NE(shown_node_secrets(config_, spec_), "") << source;
  }
  spec_ = from_a_node_alike;
  config_.tls.key = node_.write("srv/keys/a.key", "x");
  EXPECT_EQ(shown_node_secrets(config_, spec_), node_.path() + "/srv/keys");
}

TEST_F(NodeSecrets, AKeyAmongWhatAWorkloadNeedsIsRefused) {
  config_.tls.key = node_.write("etc/a.key", "x");
  EXPECT_THAT(refusal(), HasSubstr("directories of their own"));
}

}  // namespace
}  // namespace mose::agent
