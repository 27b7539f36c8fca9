// SPDX-License-Identifier: MIT
#include "agent/peer_query.h"

#include <fmt/format.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "agent/wire_messages.h"
#include "kernel/socket.h"
#include "mose/wire/wire.pb.h"
#include "move/channel.h"

namespace mose::agent {
namespace {

Result<move::Channel> greeted(const PeerAccess& peers, const JournalMeta& meta, const move::Hello& hello, Nanoseconds bound,
                              move::Hello& theirs) {
  auto socket = peers.connect(meta.peer_address, meta.peer, bound);
  if (!socket) {
    const int code = socket.error().code;
    const bool there = code == EACCES || code == EPROTO || code == EPROTONOSUPPORT;  // it answers, but not as it should
    return fail(fmt::format("node {} cannot be {} ({}){}", meta.peer, there ? "trusted" : "reached", socket.error().what,
                            there ? "" : ": is mosed running there, and is its address right in [peers." + meta.peer + "]?"));
  }
  move::Channel channel(std::move(*socket), move::StreamId{meta.id, meta.epoch});
  auto answer = move::greet(channel, hello, bound);
  const std::string peer = "node " + meta.peer;
  if (!answer && answer.error().what.starts_with(peer + " ")) return std::unexpected(answer.error());  // named already
  if (!answer) return context(peer, answer.error());
  theirs = std::move(*answer);
  if (theirs.node != meta.peer) {
    return fail(fmt::format("{} calls itself \"{}\", not \"{}\": check [peers] in both configurations", meta.peer_address, theirs.node, meta.peer));
  }
  return channel;
}

}  // namespace

Result<PeerLink> connect_to_peer(const PeerAccess& peers, const JournalMeta& meta, move::Hello hello, Nanoseconds bound,
                                 AskRoles ask) {
  hello.purpose = move::Purpose::control;
  move::Hello theirs;
  MOSE_ASSIGN(move::Channel channel, greeted(peers, meta, hello, bound, theirs));
  if (ask == AskRoles::yes) MOSE_TRY(peers.check_destination(meta.peer, channel.peer()));
  auto missing = move::missing_cpu_features(hello, theirs);
  if (!missing.empty()) {
    return fail(fmt::format("node {} lacks CPU features that the workload may use: {}", meta.peer, fmt::join(missing, ", ")));
  }
  PeerLink link;
  MOSE_ASSIGN(link.own_endpoint, local_endpoint(channel.fd()));
  link.socket = channel.release();
  return link;
}

Result<MigrationRecord> ask_record(const PeerAccess& peers, const JournalMeta& meta, move::Hello hello, Nanoseconds bound) {
  hello.purpose = move::Purpose::query;
  move::Hello theirs;
  MOSE_ASSIGN(move::Channel channel, greeted(peers, meta, hello, bound, theirs));
  MOSE_TRY(channel.send(wire::FrameType::query_verdict, std::span<const std::byte>{}));
  MOSE_ASSIGN(move::Frame frame, channel.receive(bound));
  wire::v1::Verdict answer;
  if (frame.type != wire::FrameType::verdict || !answer.ParseFromArray(frame.payload.data(), static_cast<int>(frame.payload.size()))) {
    return fail("node " + meta.peer + " gave no verdict");
  }
  MigrationRecord record;
  if (answer.kind() == wire::v1::Verdict::KIND_COMMIT) record.verdict = plan::Verdict::commit;
  if (answer.kind() == wire::v1::Verdict::KIND_ABORT) record.verdict = plan::Verdict::abort;
  record.tells = answer.tells();
  record.record = answer.record();
  record.unreadable = answer.unreadable();
  record.recorded_unix_ms = answer.recorded_unix_ms();
  record.phase = answer.phase();
  record.outcome = answer.outcome();
  return record;
}

Status ask_to_abort(const PeerAccess& peers, const JournalMeta& meta, const move::Hello& hello, Nanoseconds bound, const std::string& reason) {
  MOSE_ASSIGN(PeerLink link, connect_to_peer(peers, meta, hello, bound, AskRoles::no));
  move::Channel channel(std::move(link.socket), move::StreamId{meta.id, meta.epoch});
  const std::string payload = encode_reason(reason);
  MOSE_TRY(channel.send(wire::FrameType::abort, std::as_bytes(std::span(payload))));
  const Timestamp deadline = now() + bound;
  while (now() < deadline) {
    MOSE_ASSIGN(move::Frame frame, channel.receive(deadline - now()));
    if (frame.type == wire::FrameType::aborted) return {};
    if (frame.type != wire::FrameType::failed) continue;
    const auto* text = reinterpret_cast<const char*>(frame.payload.data());
    return fail(fmt::format("node {}: {}", meta.peer, decode_reason(std::string(text, frame.payload.size()))));
  }
  return fail(fmt::format("node {} has not thrown its copy away within {} s", meta.peer, bound / std::chrono::seconds(1)));
}

std::map<std::string, Status> look_at_peers(const PeerAccess& access, const std::map<std::string, PeerConfig>& peers, const move::Hello& hello,
                                            Nanoseconds bound) {
  std::map<std::string, Status> out;
  for (const auto& [name, peer] : peers) out[name];
  std::vector<std::jthread> asking;
  for (auto& [name, status] : out) {
    asking.emplace_back([&, &name = name, &status = status] {
      JournalMeta nothing;  // the other node keeps none of it: a migration begins with PREPARE
      nothing.id = MigrationId::random();
      nothing.peer = name;
      nothing.peer_address = peers.at(name).address;
      if (auto link = connect_to_peer(access, nothing, hello, bound); !link) status = std::unexpected(link.error());
    });
  }
  asking.clear();
  return out;
}

std::string encode_record(const MigrationRecord& record) {
  constexpr size_t kPhaseMax = 4096;  // a sentence; the frame has a bound
  wire::v1::Verdict out;
  switch (record.verdict) {
    case plan::Verdict::commit:
      out.set_kind(wire::v1::Verdict::KIND_COMMIT);
      break;
    case plan::Verdict::abort:
      out.set_kind(wire::v1::Verdict::KIND_ABORT);
      break;
    case plan::Verdict::undecided:
      out.set_kind(wire::v1::Verdict::KIND_UNDECIDED);
      break;
  }
  out.set_tells(record.tells);
  out.set_record(record.record);
  out.set_unreadable(record.unreadable);
  out.set_recorded_unix_ms(record.recorded_unix_ms);
  out.set_phase(record.phase.substr(0, kPhaseMax));
  out.set_outcome(record.outcome);
  return out.SerializeAsString();
}

std::string to_hex(const std::string& bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (char c : bytes) {
    auto byte = static_cast<uint8_t>(c);
    out.push_back(kDigits[byte >> 4]);
    out.push_back(kDigits[byte & 15]);
  }
  return out;
}

Result<std::string> from_hex(const std::string& text) {
  auto nibble = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
  if (text.size() % 2 != 0) return fail("hex text of odd length");
  std::string out;
  for (size_t i = 0; i < text.size(); i += 2) {
    int high = nibble(text[i]);
    int low = nibble(text[i + 1]);
    if (high < 0 || low < 0) return fail("not hex text");
    out.push_back(static_cast<char>(high * 16 + low));
  }
  return out;
}

}  // namespace mose::agent
