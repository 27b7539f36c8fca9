// SPDX-License-Identifier: MIT
#include "cases.h"

#include <algorithm>
#include <cstdlib>

namespace mose::test {
namespace {

using wire::FrameType;

const char* name_of(Victim victim) {
  switch (victim) {
    case Victim::source_agent: return "SourceAgent";
    case Victim::destination_agent: return "DestinationAgent";
    case Victim::criu: return "Criu";
    case Victim::link: return "Link";
  }
  return "";
}

// "post-dump" -> "PostDump": names of tests take no hyphens.
std::string camel(const std::string& text) {
  std::string out;
  bool upper = true;
  for (char c : text) {
    if (c == '-') {
      upper = true;
      continue;
    }
    out += upper && c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    upper = false;
  }
  return out;
}

void at_criu(std::vector<KillCase>& out, const std::string& role, const std::string& point, const std::string& moment,
             Victim victim, Side expected = Side::source) {
  out.push_back({camel(role) + "_" + camel(point) + "_" + camel(moment) + "_" + name_of(victim), victim, expected, false, role, point,
                 moment, std::nullopt});
}

void at_frame(std::vector<KillCase>& out, const std::string& name, FrameType type, Direction direction, Moment moment,
              Victim victim, Side expected) {
  FrameRule rule;
  rule.type = type;
  rule.direction = direction;
  rule.moment = moment;
  // A frame that a dead agent has not sent yet does not arrive.
  if (victim == Victim::link || moment == Moment::before) rule.then = FrameRule::Then::cut;
  out.push_back({"Frame_" + name + (moment == Moment::before ? "_Before_" : "_After_") + name_of(victim), victim, expected, false, "",
                 "", "", rule});
}

// With a warm standby. An agent that dies ends the migration as ever; what happens to the standby's CRIU costs the standby.
std::vector<KillCase> with_standby() {
  constexpr Victim S = Victim::source_agent, D = Victim::destination_agent, C = Victim::criu, L = Victim::link;
  constexpr Direction to = Direction::to_target, from = Direction::from_target;
  constexpr Moment before = Moment::before, after = Moment::after;
  std::vector<KillCase> t;
  at_criu(t, "dump", "request", "before", S);
  at_criu(t, "dump", "pre-dump", "before", S);
  at_criu(t, "dump", "pre-dump", "answered", C, Side::destination);
  at_criu(t, "dump", "post-dump", "before", S);
  at_criu(t, "dump", "post-dump", "before", D);
  at_criu(t, "dump", "post-dump", "before", C, Side::destination);
  at_criu(t, "restore", "request", "before", D);
  at_criu(t, "restore", "setup-namespaces", "answered", C, Side::destination);
  at_criu(t, "restore", "post-restore", "before", D);
  at_criu(t, "restore", "post-restore", "before", S);
  at_criu(t, "restore", "pre-resume", "before", D);
  at_criu(t, "restore", "pre-resume", "after", D);
  at_criu(t, "restore", "pre-resume", "after", C, Side::destination);
  at_criu(t, "restore", "response", "before", D);
  at_frame(t, "Standby", FrameType::standby, to, before, S, Side::source);
  at_frame(t, "Standby", FrameType::standby, to, after, D, Side::source);
  at_frame(t, "Standby", FrameType::standby, to, after, L, Side::source);
  at_frame(t, "Standing", FrameType::standing, from, before, S, Side::source);
  at_frame(t, "Standing", FrameType::standing, from, before, D, Side::source);
  at_frame(t, "Standing", FrameType::standing, from, before, L, Side::source);
  at_frame(t, "Images", FrameType::images, to, before, D, Side::source);
  at_frame(t, "Images", FrameType::images, to, after, S, Side::source);
  at_frame(t, "Images", FrameType::images, to, after, L, Side::source);
  at_frame(t, "Ready", FrameType::ready, from, before, D, Side::source);
  at_frame(t, "Ready", FrameType::ready, from, after, S, Side::either);
  at_frame(t, "Commit", FrameType::commit, to, before, D, Side::destination);
  at_frame(t, "Commit", FrameType::commit, to, before, L, Side::destination);
  at_frame(t, "Commit", FrameType::commit, to, after, D, Side::destination);
  at_frame(t, "Committed", FrameType::committed, from, before, S, Side::destination);
  at_frame(t, "Complete", FrameType::complete, from, before, D, Side::destination);
  for (KillCase& kill : t) {
    kill.name = "Standby_" + kill.name;
    kill.standby = true;
  }
  return t;
}

std::vector<KillCase> make() {
  constexpr Victim S = Victim::source_agent, D = Victim::destination_agent, C = Victim::criu, L = Victim::link;
  constexpr Direction to = Direction::to_target, from = Direction::from_target;
  constexpr Moment before = Moment::before, after = Moment::after;
  std::vector<KillCase> t;
  // CRIU's dump: everything before the images have left. CRIU itself is killed while it waits in a hook only: between
  // the hooks its code runs inside the tasks, and its death there can break them, whatever anybody does.
  at_criu(t, "dump", "request", "before", S);
  at_criu(t, "dump", "request", "after", C);
  at_criu(t, "dump", "pre-dump", "before", S);
  at_criu(t, "dump", "pre-dump", "answered", C);
  at_criu(t, "dump", "query-ext-files", "before", S);
  at_criu(t, "dump", "query-ext-files", "answered", C);
  at_criu(t, "dump", "post-dump", "before", S);
  at_criu(t, "dump", "post-dump", "before", C);
  at_criu(t, "dump", "post-dump", "before", D);
  at_criu(t, "dump", "post-dump", "answered", S);
  at_criu(t, "dump", "post-dump", "answered", C);
  at_criu(t, "dump", "response", "before", S);
  at_criu(t, "dump", "response", "before", C);
  // CRIU's restore: READY has not left before the response.
  at_criu(t, "restore", "request", "before", D);
  at_criu(t, "restore", "pre-restore", "before", C);
  at_criu(t, "restore", "pre-restore", "before", S);
  at_criu(t, "restore", "setup-namespaces", "before", D);
  at_criu(t, "restore", "setup-namespaces", "answered", C);
  at_criu(t, "restore", "post-setup-namespaces", "before", C);
  at_criu(t, "restore", "post-setup-namespaces", "answered", D);
  at_criu(t, "restore", "post-restore", "before", D);
  at_criu(t, "restore", "post-restore", "after", C);
  at_criu(t, "restore", "post-restore", "before", S);
  at_criu(t, "restore", "pre-resume", "before", D);
  at_criu(t, "restore", "pre-resume", "before", C);
  at_criu(t, "restore", "pre-resume", "before", S);
  at_criu(t, "restore", "pre-resume", "after", D);
  at_criu(t, "restore", "pre-resume", "after", C);
  at_criu(t, "restore", "post-resume", "before", D);
  at_criu(t, "restore", "post-resume", "before", C);
  at_criu(t, "restore", "post-resume", "answered", D);
  at_criu(t, "restore", "response", "before", D);
  // The protocol, up to the commit.
  at_frame(t, "Hello", FrameType::hello, to, before, S, Side::source);
  at_frame(t, "HelloAnswer", FrameType::hello, from, before, D, Side::source);
  at_frame(t, "Prepare", FrameType::prepare, to, after, S, Side::source);
  at_frame(t, "Prepare", FrameType::prepare, to, after, D, Side::source);
  at_frame(t, "Prepared", FrameType::prepared, from, before, D, Side::source);
  at_frame(t, "Prepared", FrameType::prepared, from, after, S, Side::source);
  at_frame(t, "Images", FrameType::images, to, before, S, Side::source);
  at_frame(t, "Images", FrameType::images, to, before, D, Side::source);
  at_frame(t, "Images", FrameType::images, to, after, S, Side::source);
  at_frame(t, "Images", FrameType::images, to, after, L, Side::source);
  at_frame(t, "Ready", FrameType::ready, from, before, S, Side::source);
  at_frame(t, "Ready", FrameType::ready, from, before, D, Side::source);
  at_frame(t, "Ready", FrameType::ready, from, before, L, Side::source);
  at_frame(t, "Ready", FrameType::ready, from, after, S, Side::either);
  at_frame(t, "Ready", FrameType::ready, from, after, D, Side::either);
  // From the commit record on.
  at_frame(t, "Commit", FrameType::commit, to, before, S, Side::destination);
  at_frame(t, "Commit", FrameType::commit, to, before, D, Side::destination);
  at_frame(t, "Commit", FrameType::commit, to, before, L, Side::destination);
  at_frame(t, "Commit", FrameType::commit, to, after, S, Side::destination);
  at_frame(t, "Commit", FrameType::commit, to, after, D, Side::destination);
  at_frame(t, "Committed", FrameType::committed, from, before, S, Side::destination);
  at_frame(t, "Committed", FrameType::committed, from, before, D, Side::destination);
  at_frame(t, "Committed", FrameType::committed, from, before, L, Side::destination);
  at_frame(t, "Committed", FrameType::committed, from, after, S, Side::destination);
  at_frame(t, "Drained", FrameType::drained, to, before, S, Side::destination);
  at_frame(t, "Drained", FrameType::drained, to, before, D, Side::destination);
  at_frame(t, "Drained", FrameType::drained, to, before, L, Side::destination);
  at_frame(t, "Complete", FrameType::complete, from, before, S, Side::destination);
  at_frame(t, "Complete", FrameType::complete, from, before, D, Side::destination);
  at_frame(t, "Complete", FrameType::complete, from, after, S, Side::destination);
  at_frame(t, "Released", FrameType::released, to, before, S, Side::destination);
  at_frame(t, "Released", FrameType::released, to, before, D, Side::destination);
  // While it still redirects what comes late.
  at_frame(t, "Released", FrameType::released, to, after, S, Side::destination);
  std::vector<KillCase> more = with_standby();
  t.insert(t.end(), more.begin(), more.end());
  return t;
}

}  // namespace

const std::vector<KillCase>& kill_cases() {
  static const std::vector<KillCase> cases = [] {
    std::vector<KillCase> all = make();
    if (std::getenv("MOSE_FULL") != nullptr) return all;
    std::vector<KillCase> sample;
    for (size_t i = 0; i < all.size(); i += 2) sample.push_back(std::move(all[i]));
    return sample;
  }();
  return cases;
}

const char* to_string(Side side) {
  switch (side) {
    case Side::source: return "source";
    case Side::destination: return "destination";
    case Side::either: return "either";
  }
  return "";
}

std::ostream& operator<<(std::ostream& out, const KillCase& kill) { return out << kill.name; }

}  // namespace mose::test
