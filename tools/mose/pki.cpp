// SPDX-License-Identifier: MIT
// `mose pki`: certificates for the nodes of a fleet, of an authority of its own. It talks to no agent; an authority that
// is there already serves as well (docs/protocol.md says what a certificate must hold).
#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/fd.h"
#include "model/migration.h"
#include "move/authority.h"
#include "move/key_file.h"
#include "move/node_certificate.h"
#include "mose/output.h"
#include "mose/pki_files.h"
#include "mose/session.h"

namespace mose::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kDayS = 24 * 3600;
constexpr int64_t kClockSlackS = 3600;  // clocks of nodes may differ so much
constexpr size_t kPemMax = 1u << 20, kListMax = 8u << 20;
constexpr int kFailed = 1, kRefused = 3;

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

Result<NodeRoles> roles_of(const Command& command) {
  return command.roles.empty() ? Result<NodeRoles>(NodeRoles{}) : parse_roles(command.roles);
}

int done(const Command& command, const json& object, const std::string& text) {
  fmt::print("{}", command.json ? object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n" : text);
  return 0;
}

// Only where there is none at all one is begun: another would forget who stands in this one.
Result<std::string> list_of(const PkiDirectory& place, const move::Authority& authority) {
  const std::string path = place.file("revoked.pem");
  auto list = read_file(path, kListMax);
  if (!list && list.error().code == ENOENT) return authority.new_list();
  if (!list) return list;
  if (auto whole = authority.check_list(*list); !whole) return context(path, whole.error());
  return list;
}

// The key is the first file that is written: one without a certificate was left by an `init` that was broken off, and has signed nothing.
Result<move::Authority> begin_authority(const PkiDirectory& place, int64_t ends_unix_s) {
  const std::string path = place.file("ca.key");
  auto key = move::read_key_file(path);
  if (!key && key.error().code != ENOENT) return std::unexpected(key.error());
  auto authority = move::Authority::create("MOSE fleet", std::time(nullptr) - kClockSlackS, ends_unix_s, key ? &*key : nullptr);
  if (!key) return authority;
  explicit_bzero(key->data(), key->size());
  if (authority) return authority;
  return fail(fmt::format("{} is there, and cannot be gone on with ({}): if there has never been a certificate of it (ca.crt), remove it and try again", path,
                          authority.error().what));
}

// The certificate is the last of the files: without it there is no authority. A list that is there already is kept.
Status make_authority(const PkiDirectory& place, int64_t ends_unix_s) {
  MOSE_ASSIGN(auto authority, begin_authority(place, ends_unix_s));
  MOSE_ASSIGN(auto pair, authority.own_pem());
  MOSE_ASSIGN(auto list, list_of(place, authority));
  std::vector<NewFile> files;
  if (!exists(place.file("ca.key"))) files.push_back({place.file("ca.key"), pair.key, 0600});
  files.push_back({place.file("revoked.pem"), list, 0644});
  files.push_back({place.file("ca.crt"), pair.certificate, 0644});
  return replace_files(files);
}

int init(const Command& command, const PkiDirectory& place) {
  const std::string certificate = place.file("ca.crt"), key = place.file("ca.key"), list = place.file("revoked.pem");
  std::error_code error;
  const bool made = fs::create_directories(place.path, error);
  if (made && !error) fs::permissions(place.path, fs::perms::owner_all, error);
  if (error) return report(command, {kFailed, fmt::format("mkdir {}: {}", place.path, error.message())});
  auto lock = lock_directory(place);
  if (!lock) return report(command, {kFailed, lock.error().what});
  if (exists(certificate)) {
    return report(command, {kRefused, certificate + " exists and is not overwritten: it is the authority of nodes that have been given certificates"});
  }
  const int64_t ends = std::time(nullptr) + command.days * kDayS;
  if (auto written = make_authority(place, ends); !written) return report(command, {kFailed, written.error().what});
  return done(command, {{"authority", certificate}, {"key", key}, {"revoked", list}, {"valid_until_unix_s", ends}},
              fmt::format("{} is the authority, valid until {}\n{} signs certificates: it belongs on no node\n{} lists revoked certificates: it belongs on every node\n",
                          certificate, move::format_unix_time(ends), key, list));
}

Result<move::IssuedCertificate> issue_for(const Command& command, const PkiDirectory& place, NodeRoles roles) {
  MOSE_ASSIGN(auto authority, load_authority(place));
  const int64_t now_s = std::time(nullptr);
  return authority.issue({command.subject, roles, now_s - kClockSlackS, now_s + command.days * kDayS});
}

int told(const Command& command, const PkiDirectory& place, const NodeRoles& roles, const char* what, const std::string& kept = {}) {
  const std::string certificate = place.file(command.subject + ".crt"), key = place.file(command.subject + ".key");
  const std::string authorities = place.file("ca.crt"), list = place.file("revoked.pem");
  const int64_t ends = std::time(nullptr) + command.days * kDayS;
  json object{{"node", command.subject}, {"certificate", certificate}, {"key", key}, {"authorities", authorities},
              {"roles", to_string(roles)}, {"valid_until_unix_s", ends}};
  std::string text = fmt::format("{}: node {} ({}), valid until {}\n", what, command.subject, to_string(roles), move::format_unix_time(ends));
  if (exists(list)) {
    object["revoked"] = list;
    text += fmt::format("to node {}: {}, {}, {} and {}; there in mose.toml, [tls]: certificate, key, authorities, revoked\n", command.subject, certificate, key,
                        authorities, list);
  } else {  // of an authority that is older than lists, or not of ours
    text += fmt::format("to node {}: {}, {} and {}; there in mose.toml, [tls]: certificate, key, authorities\n", command.subject, certificate, key, authorities);
  }
  if (!kept.empty()) {
    object["replaced"] = kept;
    text += fmt::format("the one before it is believed as well until it ends, unless it is revoked: `mose pki revoke {} --dir {}`\n", kept, place.path);
  }
  return done(command, object, text);
}

// The certificate first: what is broken off between the two leaves one without its key, or with the one before, of which rotate()
// makes a pair. An agent that reads in between keeps what it has and looks again.
std::vector<NewFile> files_of(const std::string& stem, const move::IssuedCertificate& pair) {
  return {{stem + ".crt", pair.certificate, 0644}, {stem + ".key", pair.key, 0600}};
}

int issue(const Command& command, const PkiDirectory& place) {
  auto roles = roles_of(command);
  if (!roles) return report(command, {kExitUsage, roles.error().what});
  if (command.subject == "ca") return report(command, {kExitUsage, "a node called ca would have the files of the authority: give it another name"});
  const std::string stem = place.file(command.subject);
  if (exists(stem + ".crt")) return report(command, {kRefused, fmt::format("{}.crt exists and is not overwritten: `mose pki rotate {}` replaces it", stem, command.subject)});
  if (exists(stem + ".key")) return report(command, {kRefused, stem + ".key exists, and no certificate of it: move it away, it is not overwritten"});
  auto pair = issue_for(command, place, *roles);
  Status written = pair ? replace_files(files_of(stem, *pair)) : Status(std::unexpected(pair.error()));
  if (!written) return report(command, {kFailed, written.error().what});
  return told(command, place, *roles, "issued");
}

// By the list of --dir and by one beside the certificate.
Result<bool> is_revoked(const PkiDirectory& place, const std::string& path, const std::string& pem) {
  for (const std::string& list : std::set<std::string>{place.file("revoked.pem"), fs::path(path).parent_path() / "revoked.pem"}) {
    auto lists = read_file(list, kListMax);
    if (!lists && lists.error().code == ENOENT) continue;
    if (!lists) return std::unexpected(lists.error());
    auto stands = move::stands_in(pem, *lists);
    if (!stands) return context(list, stands.error());
    if (*stands) return true;
  }
  return false;
}

std::string state_of(const move::NodeCertificate& certificate, bool revoked) {
  const int64_t now_s = std::time(nullptr);
  if (revoked) return "revoked";
  if (now_s > certificate.ends_unix_s) return "expired";
  return now_s < certificate.begins_unix_s ? "not valid yet" : "valid";
}

// What rotate() replaces.
struct Replaced {
  std::string pem;
  move::NodeCertificate certificate;
};

// Only what is known to be of that node.
std::expected<Replaced, Ended> certificate_of(const Command& command, const PkiDirectory& place) {
  const std::string& node = command.subject;
  const std::string path = place.file(node + ".crt");
  if (node == "ca") {
    return std::unexpected(Ended{kExitUsage, "ca is the authority, not a node: another one is made by `mose pki init --dir` in another directory, and every "
                                               "node must know both (tls.authorities) until all have certificates of it"});
  }
  auto pem = read_file(path, kPemMax);
  if (!pem && pem.error().code == ENOENT) {
    return std::unexpected(Ended{kExitUsage, fmt::format("there is no certificate of node {} in {}: `mose pki issue {}` makes one", node, place.path, node)});
  }
  if (!pem) return std::unexpected(Ended{kFailed, fmt::format("{} cannot be read: {}", path, pem.error().what)});
  auto old = move::parse_certificate(*pem);
  if (!old) {
    return std::unexpected(Ended{kFailed, fmt::format("{}: {}; its roles are not known: move it and its key away and issue a new one, with --roles", path, old.error().what)});
  }
  if (old->is_of(node)) return Replaced{std::move(*pem), std::move(*old)};
  return std::unexpected(Ended{kFailed, fmt::format("{} is of {}, not of node {}: it was put there by somebody else; move it and its key away", path, old->whose(), node)});
}

// The file where a replaced certificate stays, by which it can be revoked. Empty: nobody believes it any more.
std::string place_of_replaced(const Replaced& old, const std::string& stem, const PkiDirectory& place) {
  constexpr size_t kDigits = 8;
  const bool revoked = is_revoked(place, stem + ".crt", old.pem).value_or(false);
  if (revoked || std::time(nullptr) > old.certificate.ends_unix_s) return {};
  return stem + "-" + old.certificate.serial.substr(0, kDigits) + ".crt";
}

Status rotate_pair(const Replaced& old, const std::string& kept, const std::string& stem, const move::IssuedCertificate& pair) {
  std::vector<NewFile> files = files_of(stem, pair);
  if (!kept.empty()) files.insert(files.begin(), {kept, old.pem, 0644});
  return replace_files(files);
}

int rotate(const Command& command, const PkiDirectory& place) {
  const std::string stem = place.file(command.subject);
  auto old = certificate_of(command, place);
  if (!old) return report(command, old.error());
  auto roles = command.roles.empty() ? Result<NodeRoles>(old->certificate.roles) : parse_roles(command.roles);
  if (!roles) return report(command, {kExitUsage, roles.error().what});
  const std::string kept = place_of_replaced(*old, stem, place);
  auto pair = issue_for(command, place, *roles);
  Status written = pair ? rotate_pair(*old, kept, stem, *pair) : Status(std::unexpected(pair.error()));
  if (!written) return report(command, {kFailed, written.error().what});
  return told(command, place, *roles, "replaced", kept);
}

Result<std::string> revoked_as_well(const PkiDirectory& place, const std::string& certificate) {
  MOSE_ASSIGN(auto authority, load_authority(place));
  MOSE_ASSIGN(auto before, list_of(place, authority));
  return authority.revoke(certificate, before);
}

// A node, or a file: by its path, or by its name here or in --dir.
std::string certificate_path(const std::string& subject, const PkiDirectory& place) {
  const bool is_path = subject.find('/') != std::string::npos, is_file = subject.ends_with(".crt");
  if (is_path || (is_file && exists(subject))) return subject;
  return place.file(is_file ? subject : subject + ".crt");
}

int revoke(const Command& command, const PkiDirectory& place) {
  const std::string& subject = command.subject;
  if (subject == "ca" || subject == "ca.crt") return report(command, {kExitUsage, "ca is the authority, not a node: take it out of tls.authorities of every node instead"});
  const std::string path = certificate_path(subject, place), list = place.file("revoked.pem");
  auto pem = read_file(path, kPemMax);
  if (!pem) return report(command, {pem.error().code == ENOENT ? kExitUsage : kFailed, fmt::format("{} cannot be read: {}", path, pem.error().what)});
  auto certificate = move::parse_certificate(*pem);
  auto text = certificate ? revoked_as_well(place, *pem) : Result<std::string>(std::unexpected(certificate.error()));
  Status written = text ? replace_files({{list, *text, 0644}}) : Status(std::unexpected(text.error()));
  if (!written) return report(command, {kFailed, path + ": " + written.error().what});
  return done(command, {{"node", certificate->whose()}, {"serial", certificate->serial}, {"revoked", list}},
              fmt::format("revoked: the certificate of {} with the serial number {}\nto every node: {}; there in mose.toml, [tls]: revoked\n",
                          certificate->whose(), certificate->serial, list));
}

int show_certificates(const Command& command, const PkiDirectory& place) {
  std::vector<std::string> paths;
  std::error_code error;
  if (!command.subject.empty()) {
    paths.push_back(fs::is_regular_file(command.subject, error) ? command.subject : certificate_path(command.subject, place));
  } else {
    for (const auto& item : fs::directory_iterator(place.path, error)) {
      if (item.path().extension() == ".crt") paths.push_back(item.path());
    }
    if (error) return report(command, {kExitUsage, fmt::format("{}: {}", place.path, error.message())});
    std::sort(paths.begin(), paths.end());
  }
  std::vector<std::vector<std::string>> rows{{"FILE", "NODE", "ROLES", "VALID UNTIL", "STATE"}};
  json out = json::array();
  for (const std::string& path : paths) {
    auto pem = read_file(path, kPemMax);
    auto read = pem ? move::parse_certificate(*pem) : Result<move::NodeCertificate>(std::unexpected(pem.error()));
    if (!read) return report(command, {kFailed, path + ": " + read.error().what});
    auto revoked = is_revoked(place, path, *pem);
    if (!revoked) return report(command, {kFailed, revoked.error().what});
    const std::string state = state_of(*read, *revoked);
    const std::string node = fmt::format("{}", fmt::join(read->names, ", "));
    const std::string roles = read->authority ? "authority" : to_string(read->roles);
    rows.push_back({path, node.empty() ? "-" : node, roles, move::format_unix_time(read->ends_unix_s), state});
    out.push_back({{"file", path}, {"names", read->names}, {"authority", read->authority}, {"roles", roles}, {"issuer", read->issuer},
                   {"serial", read->serial}, {"valid_from_unix_s", read->begins_unix_s}, {"valid_until_unix_s", read->ends_unix_s},
                   {"state", state}});
  }
  return done(command, out, format_table(rows));
}

}  // namespace

int run_pki(const Command& command) {
  // Keys pass through it: no core file.
  (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  const PkiDirectory place{command.directory};
  if (command.verb == Verb::pki_init) return init(command, place);
  if (command.verb == Verb::pki_show) return show_certificates(command, place);
  // Without a directory there is nothing to be changed, and each says what it lacks.
  auto lock = lock_directory(place);
  if (!lock && lock.error().code != ENOENT) return report(command, {kFailed, lock.error().what});
  if (command.verb == Verb::pki_issue) return issue(command, place);
  return command.verb == Verb::pki_rotate ? rotate(command, place) : revoke(command, place);
}

}  // namespace mose::cli
