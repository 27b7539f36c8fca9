// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "agent/config.h"
#include "base/clock.h"
#include "base/result.h"
#include "move/tls.h"

namespace mose::agent {

// The certificates of [tls], which are this node's. Not whether they are valid now.
[[nodiscard]] Result<std::shared_ptr<move::Tls>> load_tls(const Config& config);

// How this node speaks with its peers, and what they may do here: certificates of [tls] and roles, or plain text where
// the configuration says so. Any thread.
class PeerAccess {
 public:
  // Fails when neither certificates nor plain_text are configured, when they cannot be used, or when they are not this
  // node's. One that has expired is told and no failure: migrations may be waiting for this agent.
  [[nodiscard]] static Result<PeerAccess> create(const Config& config);

  // Blocking, see move::connect_stream().
  [[nodiscard]] Result<move::StreamSocket> connect(const std::string& endpoint, const std::string& peer, Nanoseconds bound) const;
  // Whether `peer` may send workloads here (and whether they could be taken), and whether workloads of this node may go there. `certificate` is the peer's
  // on the connection in question; null in plain text.
  [[nodiscard]] Status check_source(const std::string& peer, const move::NodeCertificate* certificate) const;
  [[nodiscard]] Status check_destination(const std::string& peer, const move::NodeCertificate* certificate) const;
  // Whether the certificates can be used as their files are now, and are still valid: what is begun anew reads them, a pager or the next
  // agent, while this one goes on with what it has read. Plain text needs none.
  [[nodiscard]] Status check_files() const;
  // Once a day: that this node's certificate has expired, or ends within a month.
  void tell_expiry() const;
  // Null: plain text.
  [[nodiscard]] const std::shared_ptr<move::Tls>& tls() const { return tls_; }

 private:
  PeerAccess(const Config& config, std::shared_ptr<move::Tls> tls) : config_(&config), tls_(std::move(tls)) {}
  [[nodiscard]] NodeRoles roles_of(const std::string& peer, const move::NodeCertificate* certificate) const;

  const Config* config_;
  std::shared_ptr<move::Tls> tls_;
};

}  // namespace mose::agent
