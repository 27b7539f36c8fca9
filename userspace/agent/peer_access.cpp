// SPDX-License-Identifier: MIT
#include "agent/peer_access.h"

#include <fmt/format.h>

#include <ctime>

#include "base/log.h"

namespace mose::agent {
namespace {

constexpr int64_t kWarnBeforeEndS = 30 * 24 * 3600;

// Said at every start: whoever reads the log should not have to ask.
void tell_plain_text(const Config& config) {
  log::warn("tls.plain_text is set: other nodes are believed by their name and nothing is encrypted; whoever reaches the port, "
            "as every workload does, can send workloads here and take them away",
            {{"listen", config.node.listen}});
}

// False: there is nothing that the operator should do.
bool tell_trouble(const move::NodeCertificate& own, const std::string& path) {
  const int64_t now_s = std::time(nullptr);
  if (auto timely = own.check_time(now_s); !timely) {
    log::error("this node's certificate cannot be used: other nodes refuse it", {{"certificate", path}, {"reason", timely.error().what}});
    return true;
  }
  if (own.ends_unix_s - now_s >= kWarnBeforeEndS) return false;
  log::warn("this node's certificate ends soon: issue a new one (mose pki rotate)",
            {{"certificate", path}, {"valid_until", move::format_unix_time(own.ends_unix_s)}});
  return true;
}

void tell_certificate(const move::NodeCertificate& own, const std::string& path) {
  if (tell_trouble(own, path)) return;
  log::info("other nodes are spoken to by TLS", {{"roles", to_string(own.roles)}, {"valid_until", move::format_unix_time(own.ends_unix_s)}});
}

Status check_name(const move::NodeCertificate& own, const Config& config) {
  if (own.is_of(config.node.name)) return {};
  return fail(fmt::format("the certificate {} is of {}, and this node is called {} (node.name): issue one with `mose pki issue {}`", config.tls.certificate,
                          own.whose(), config.node.name, config.node.name));
}

}  // namespace

Result<std::shared_ptr<move::Tls>> load_tls(const Config& config) {
  auto tls = move::Tls::load({config.tls.certificate, config.tls.key, config.tls.authorities, config.tls.revoked});
  if (!tls) return context("[tls]", tls.error());
  if (auto ours = check_name((*tls)->own(), config); !ours) return context("[tls]", ours.error());
  return tls;
}

Result<PeerAccess> PeerAccess::create(const Config& config) {
  MOSE_TRY(check_transport(config));
  if (config.tls.plain_text) {
    tell_plain_text(config);
    return PeerAccess(config, nullptr);
  }
  MOSE_ASSIGN(auto tls, load_tls(config));
  tell_certificate(tls->own(), config.tls.certificate);
  return PeerAccess(config, std::move(tls));
}

Status PeerAccess::check_files() const {
  if (!tls_) return {};
  if (auto usable = tls_->check_files(); !usable) {
    return std::unexpected(Error{0, fmt::format("its certificates cannot be used as they are on the disk ({}); what was read before goes on, but what takes a "
                                                 "workload in reads them anew, and so does the next start of the agent: see mose config check",
                                                 usable.error().what)});
  }
  const move::NodeCertificate own = tls_->own();
  MOSE_TRY(check_name(own, *config_));
  return own.check_time(std::time(nullptr));
}

void PeerAccess::tell_expiry() const {
  if (tls_) (void)tell_trouble(tls_->own(), config_->tls.certificate);
}

Result<move::StreamSocket> PeerAccess::connect(const std::string& endpoint, const std::string& peer, Nanoseconds bound) const {
  return move::connect_stream(endpoint, tls_, peer, bound);
}

NodeRoles PeerAccess::roles_of(const std::string& peer, const move::NodeCertificate* certificate) const {
  // With certificates nobody is without.
  const NodeRoles unknown = tls_ ? NodeRoles{.source = false, .destination = false} : NodeRoles{};
  const NodeRoles certified = certificate != nullptr ? certificate->roles : unknown;
  auto configured = config_->peers.find(peer);
  return configured == config_->peers.end() ? certified : narrowed(certified, configured->second.roles);
}

Status PeerAccess::check_source(const std::string& peer, const move::NodeCertificate* certificate) const {
  const std::string& here = config_->node.name;
  if (!roles_of(peer, certificate).source) {
    return std::unexpected(Error{EACCES, fmt::format("node {} may not send workloads to node {}: the role source is missing in its certificate or in [peers.{}] of {}",
                                  peer, here, peer, here)});
  }
  if (tls_ && !tls_->own().roles.destination) {
    return std::unexpected(Error{EACCES, fmt::format("node {} takes no workloads: its certificate has no role destination", here)});
  }
  auto usable = check_files();
  return usable ? Status() : Status(context(fmt::format("node {} takes no workloads now", here), usable.error()));
}

Status PeerAccess::check_destination(const std::string& peer, const move::NodeCertificate* certificate) const {
  const std::string& here = config_->node.name;
  if (!roles_of(peer, certificate).destination) {
    return std::unexpected(Error{EACCES, fmt::format("node {} may not take workloads of node {}: the role destination is missing in its certificate or in [peers.{}] of {}",
                                  peer, here, peer, here)});
  }
  if (!tls_ || tls_->own().roles.source) return {};
  return std::unexpected(Error{EACCES, fmt::format("node {} may not send workloads away: its certificate has no role source", here)});
}

}  // namespace mose::agent
