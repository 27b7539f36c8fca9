// SPDX-License-Identifier: MIT
#include "cases.h"

#include <cstdlib>

namespace mose::test {
namespace {

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

bool is_agent(Victim victim) { return victim == Victim::source_agent || victim == Victim::destination_agent || victim == Victim::both_agents; }

}  // namespace

FaultCase& CaseTable::add(const std::string& name, Victim victim, Side expected) {
  FaultCase row;
  row.name = move_.prefix + name + "_" + name_of(victim);
  row.kind = kind_;
  row.victim = victim;
  row.expected = expected;
  // A source that lives goes back without its destination.
  const bool goes_back = victim == Victim::destination_agent && expected == Side::source;
  if (kind_ == Kind::kill && is_agent(victim) && !goes_back) row.way = WayBack::restart;
  row.strategy = move_.strategy;
  row.max_bandwidth_bps = move_.max_bandwidth_bps;
  row.standby = move_.standby;
  return rows_.emplace_back(std::move(row));
}

FaultCase& CaseTable::at_criu(const std::string& role, const std::string& point, const std::string& moment, Victim victim, Side expected) {
  FaultCase& row = add(camel(role) + "_" + camel(point) + "_" + camel(moment), victim, expected);
  row.role = role;
  row.point = point;
  row.moment = moment;
  return row;
}

FaultCase& CaseTable::at_frame(const std::string& name, wire::FrameType type, Direction direction, Moment moment, Victim victim, Side expected) {
  FaultCase& row = add("Frame_" + name + (moment == Moment::before ? "_Before" : "_After"), victim, expected);
  FrameRule rule;
  rule.type = type;
  rule.direction = direction;
  rule.moment = moment;
  // A frame that a dead agent has not sent yet does not arrive.
  const bool unsent = kind_ == Kind::kill && is_agent(victim) && moment == Moment::before;
  if ((kind_ == Kind::cut && victim == Victim::link) || unsent) rule.then = FrameRule::Then::cut;
  if (kind_ == Kind::hang && victim == Victim::link) rule.delay = kHangFor;
  if (kind_ == Kind::error && victim == Victim::link) rule.then = FrameRule::Then::damage;
  row.frame = rule;
  return row;
}

const std::vector<FaultCase>& fault_cases() {
  static const std::vector<FaultCase> cases = [] {
    std::vector<FaultCase> all = kills();
    for (auto part : {hangs, errors, cuts}) {
      std::vector<FaultCase> more = part();
      all.insert(all.end(), more.begin(), more.end());
    }
    if (std::getenv("MOSE_FULL") != nullptr) return all;
    std::vector<FaultCase> sample;
    for (size_t i = 0; i < all.size(); i += kSampled) sample.push_back(std::move(all[i]));
    return sample;
  }();
  return cases;
}

std::vector<FaultCase> fault_cases(Kind kind) {
  std::vector<FaultCase> out;
  for (const FaultCase& row : fault_cases()) {
    if (row.kind == kind) out.push_back(row);
  }
  return out;
}

const char* to_string(Side side) {
  switch (side) {
    case Side::source: return "source";
    case Side::destination: return "destination";
    case Side::either: return "either";
  }
  return "";
}

const char* to_string(Kind kind) {
  switch (kind) {
    case Kind::kill: return "kill";
    case Kind::hang: return "hang";
    case Kind::error: return "error";
    case Kind::cut: return "cut";
  }
  return "";
}

const char* to_string(WayBack way) {
  switch (way) {
    case WayBack::itself: return "itself";
    case WayBack::restart: return "restart";
    case WayBack::operators: return "recover";
  }
  return "";
}

const char* name_of(Victim victim) {
  switch (victim) {
    case Victim::source_agent: return "SourceAgent";
    case Victim::destination_agent: return "DestinationAgent";
    case Victim::both_agents: return "BothAgents";
    case Victim::criu: return "Criu";
    case Victim::pager: return "Pager";
    case Victim::guardian: return "Guardian";
    case Victim::link: return "Link";
    case Victim::source_cable: return "SourceCable";
    case Victim::destination_cable: return "DestinationCable";
  }
  return "";
}

std::ostream& operator<<(std::ostream& out, const FaultCase& row) { return out << row.name; }

}  // namespace mose::test
