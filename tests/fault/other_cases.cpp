// SPDX-License-Identifier: MIT
// Hangs, errors and cuts.
#include "cases.h"

namespace mose::test {
namespace {

using wire::FrameType;
constexpr Direction kTo = Direction::to_target, kFrom = Direction::from_target;
constexpr Moment kBefore = Moment::before, kAfter = Moment::after;
constexpr uint64_t kSlowBps = 60'000'000;  // most pages of a post-copy are missing for seconds

}  // namespace

std::vector<FaultCase> hangs() {
  constexpr Victim S = Victim::source_agent, D = Victim::destination_agent, C = Victim::criu, L = Victim::link, P = Victim::pager;
  CaseTable t(Kind::hang);
  // An agent that wakes up must not act on what it believed. While the workload is frozen 250 ms of silence are enough for the
  // source to go back; a source that is itself silent may find both when it wakes up.
  t.at_frame("Prepare", FrameType::prepare, kTo, kAfter, S, Side::destination);
  t.at_frame("Prepared", FrameType::prepared, kFrom, kAfter, S, Side::destination);
  t.at_frame("Images", FrameType::images, kTo, kBefore, S, Side::either);
  t.at_frame("Images", FrameType::images, kTo, kAfter, S, Side::either);
  t.at_frame("Ready", FrameType::ready, kFrom, kBefore, S, Side::either);
  t.at_frame("Ready", FrameType::ready, kFrom, kAfter, S, Side::either);
  t.at_frame("Commit", FrameType::commit, kTo, kBefore, S, Side::destination);
  t.at_frame("Commit", FrameType::commit, kTo, kAfter, S, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kBefore, S, Side::destination);
  t.at_frame("Drained", FrameType::drained, kTo, kAfter, S, Side::destination);
  t.at_frame("Complete", FrameType::complete, kFrom, kBefore, S, Side::destination);
  t.at_frame("Released", FrameType::released, kTo, kAfter, S, Side::destination);
  t.at_frame("Prepare", FrameType::prepare, kTo, kAfter, D, Side::destination);
  t.at_frame("Prepared", FrameType::prepared, kFrom, kAfter, D, Side::either);  // it wakes up late in the freeze, or before it
  t.at_frame("Images", FrameType::images, kTo, kBefore, D, Side::source);
  t.at_frame("Images", FrameType::images, kTo, kAfter, D, Side::source);
  t.at_frame("Ready", FrameType::ready, kFrom, kAfter, D, Side::destination);
  t.at_frame("Commit", FrameType::commit, kTo, kAfter, D, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, D, Side::destination);
  t.at_frame("Drained", FrameType::drained, kTo, kBefore, D, Side::destination);
  t.at_frame("Complete", FrameType::complete, kFrom, kAfter, D, Side::destination);
  t.at_frame("Released", FrameType::released, kTo, kBefore, D, Side::destination);
  // A link that stalls and goes on.
  t.at_frame("Prepare", FrameType::prepare, kTo, kBefore, L, Side::destination);
  t.at_frame("Prepared", FrameType::prepared, kFrom, kBefore, L, Side::destination);
  t.at_frame("Images", FrameType::images, kTo, kBefore, L, Side::source);
  t.at_frame("Ready", FrameType::ready, kFrom, kBefore, L, Side::source);
  t.at_frame("Commit", FrameType::commit, kTo, kBefore, L, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kBefore, L, Side::destination);
  t.at_frame("Drained", FrameType::drained, kTo, kBefore, L, Side::destination);
  t.at_frame("Complete", FrameType::complete, kFrom, kBefore, L, Side::destination);
  // The pager alone: its agent lives and says so.
  t.at_frame("Prepared", FrameType::prepared, kFrom, kAfter, P, Side::destination);
  t.at_frame("Images", FrameType::images, kTo, kBefore, P, Side::destination);
  t.at_frame("Ready", FrameType::ready, kFrom, kAfter, P, Side::destination);
  t.at_frame("Commit", FrameType::commit, kTo, kAfter, P, Side::destination);
  // CRIU does not wake up again: a bound ends it.
  t.at_criu("dump", "pre-dump", "before", C);
  t.at_criu("dump", "pre-dump", "answered", C);
  t.at_criu("dump", "post-dump", "before", C);
  t.at_criu("restore", "pre-restore", "before", C);
  t.at_criu("restore", "setup-namespaces", "answered", C);
  t.at_criu("restore", "pre-resume", "before", C);

  t.moves({.prefix = "Standby_", .standby = true});
  t.at_frame("Standby", FrameType::standby, kTo, kBefore, L, Side::destination);
  t.at_frame("Standing", FrameType::standing, kFrom, kBefore, L, Side::destination);
  t.at_frame("Standby", FrameType::standby, kTo, kAfter, D, Side::destination);
  t.at_frame("Standing", FrameType::standing, kFrom, kAfter, S, Side::destination);
  t.at_frame("Standing", FrameType::standing, kFrom, kAfter, D, Side::either);  // the same
  t.at_frame("Standing", FrameType::standing, kFrom, kAfter, P, Side::destination);
  t.at_frame("Images", FrameType::images, kTo, kAfter, D, Side::source);
  t.at_frame("Ready", FrameType::ready, kFrom, kAfter, D, Side::destination);
  t.at_criu("dump", "post-dump", "before", C, Side::destination);
  t.at_criu("restore", "setup-namespaces", "answered", C, Side::destination);

  t.moves({"Postcopy_", "postcopy", kSlowBps, false});
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, S, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, D, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, P, Side::destination);
  t.at_frame("Complete", FrameType::complete, kFrom, kBefore, L, Side::destination);
  return t.take();
}

std::vector<FaultCase> errors() {
  constexpr Victim S = Victim::source_agent, D = Victim::destination_agent, C = Victim::criu, L = Victim::link;
  CaseTable t(Kind::error);
  // CRIU fails by itself, cleans up and says so.
  t.at_criu("dump", "pre-dump", "answered", C);
  t.at_criu("dump", "query-ext-files", "answered", C);
  t.at_criu("dump", "post-dump", "answered", C);
  t.at_criu("restore", "pre-restore", "answered", C);
  t.at_criu("restore", "setup-namespaces", "answered", C);
  t.at_criu("restore", "post-restore", "answered", C);
  t.at_criu("restore", "pre-resume", "answered", C, Side::destination);  // it is asked too late, and goes on
  // A frame arrives damaged: its reader ends the connection.
  t.at_frame("Prepare", FrameType::prepare, kTo, kBefore, L, Side::source);
  t.at_frame("Prepared", FrameType::prepared, kFrom, kBefore, L, Side::source);
  t.at_frame("Images", FrameType::images, kTo, kBefore, L, Side::source);
  t.at_frame("Ready", FrameType::ready, kFrom, kBefore, L, Side::source);
  t.at_frame("Commit", FrameType::commit, kTo, kBefore, L, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kBefore, L, Side::destination);
  t.at_frame("Drained", FrameType::drained, kTo, kBefore, L, Side::destination);
  t.at_frame("Complete", FrameType::complete, kFrom, kBefore, L, Side::destination);
  t.at_frame("Released", FrameType::released, kTo, kBefore, L, Side::destination);
  // Nothing can be written to any file. Where the commit cannot be recorded the abort cannot either, and what may stand on the disk
  // is not decided upon: the workload stays stopped.
  t.at_frame("Prepared", FrameType::prepared, kFrom, kAfter, S, Side::source);
  t.at_frame("Images", FrameType::images, kTo, kBefore, S, Side::source).way = WayBack::operators;
  t.at_frame("Ready", FrameType::ready, kFrom, kBefore, S, Side::source).way = WayBack::operators;
  t.at_frame("Committed", FrameType::committed, kFrom, kBefore, S, Side::destination);
  t.at_frame("Complete", FrameType::complete, kFrom, kBefore, S, Side::destination);
  t.at_frame("Images", FrameType::images, kTo, kBefore, D, Side::source);
  t.at_frame("Images", FrameType::images, kTo, kAfter, D, Side::source);
  t.at_frame("Commit", FrameType::commit, kTo, kBefore, D, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, D, Side::destination);
  t.at_frame("Complete", FrameType::complete, kFrom, kAfter, D, Side::destination);

  t.moves({.prefix = "Standby_", .standby = true});
  t.at_criu("dump", "pre-dump", "answered", C, Side::destination);
  t.at_criu("dump", "post-dump", "answered", C);  // of the switchover: the standby's dump is broken off instead of answered
  t.at_criu("restore", "setup-namespaces", "answered", C, Side::destination);
  t.at_criu("restore", "pre-resume", "answered", C, Side::destination);
  t.at_frame("Standing", FrameType::standing, kFrom, kBefore, L, Side::source);
  t.at_frame("Images", FrameType::images, kTo, kBefore, D, Side::source);
  t.at_frame("Ready", FrameType::ready, kFrom, kBefore, S, Side::source).way = WayBack::operators;

  t.moves({"Postcopy_", "postcopy", kSlowBps, false});
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, D, Side::destination);
  return t.take();
}

std::vector<FaultCase> cuts() {
  constexpr Victim L = Victim::link, S = Victim::source_cable, D = Victim::destination_cable;
  CaseTable t(Kind::cut);
  t.at_frame("Hello", FrameType::hello, kTo, kBefore, L, Side::source);
  t.at_frame("HelloAnswer", FrameType::hello, kFrom, kBefore, L, Side::source);
  t.at_frame("Prepare", FrameType::prepare, kTo, kBefore, L, Side::source);
  t.at_frame("Prepare", FrameType::prepare, kTo, kAfter, L, Side::source);
  t.at_frame("Prepared", FrameType::prepared, kFrom, kBefore, L, Side::source);
  t.at_frame("Prepared", FrameType::prepared, kFrom, kAfter, L, Side::source);
  t.at_frame("Images", FrameType::images, kTo, kBefore, L, Side::source);
  t.at_frame("Images", FrameType::images, kTo, kAfter, L, Side::source);
  t.at_frame("Ready", FrameType::ready, kFrom, kBefore, L, Side::source);
  t.at_frame("Ready", FrameType::ready, kFrom, kAfter, L, Side::either);
  t.at_frame("Commit", FrameType::commit, kTo, kBefore, L, Side::destination);
  t.at_frame("Commit", FrameType::commit, kTo, kAfter, L, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kBefore, L, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, L, Side::destination);
  t.at_frame("Drained", FrameType::drained, kTo, kBefore, L, Side::destination);
  t.at_frame("Drained", FrameType::drained, kTo, kAfter, L, Side::destination);
  t.at_frame("Complete", FrameType::complete, kFrom, kBefore, L, Side::destination);
  t.at_frame("Complete", FrameType::complete, kFrom, kAfter, L, Side::destination);
  t.at_frame("Released", FrameType::released, kTo, kBefore, L, Side::destination);
  // A cable: no end of any connection is seen, those of pages stand still too, and at the source clients are cut off with the node.
  t.at_frame("Prepare", FrameType::prepare, kTo, kAfter, D, Side::source);  // the pager cannot connect
  t.at_frame("Prepared", FrameType::prepared, kFrom, kAfter, D, Side::destination);
  t.at_frame("Images", FrameType::images, kTo, kAfter, D, Side::source);
  t.at_frame("Ready", FrameType::ready, kFrom, kAfter, D, Side::either);
  t.at_frame("Commit", FrameType::commit, kTo, kAfter, D, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, D, Side::destination);
  t.at_frame("Drained", FrameType::drained, kTo, kAfter, D, Side::destination);
  t.at_frame("Complete", FrameType::complete, kFrom, kAfter, D, Side::destination);
  t.at_frame("Prepared", FrameType::prepared, kFrom, kAfter, S, Side::destination);
  t.at_frame("Images", FrameType::images, kTo, kAfter, S, Side::source);
  t.at_frame("Commit", FrameType::commit, kTo, kBefore, S, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, S, Side::destination);
  t.at_frame("Complete", FrameType::complete, kFrom, kBefore, S, Side::destination);

  t.moves({.prefix = "Standby_", .standby = true});
  // Pre-copy is short after a standby stands, and a refresh shorter than it takes to pull a cable.
  t.at_frame("Standing", FrameType::standing, kFrom, kAfter, D, Side::either);
  t.at_frame("Images", FrameType::images, kTo, kAfter, D, Side::either);
  t.at_frame("Standby", FrameType::standby, kTo, kBefore, L, Side::source);
  t.at_frame("Standby", FrameType::standby, kTo, kAfter, L, Side::source);
  t.at_frame("Standing", FrameType::standing, kFrom, kBefore, L, Side::source);
  t.at_frame("Standing", FrameType::standing, kFrom, kAfter, L, Side::source);
  t.at_frame("Images", FrameType::images, kTo, kAfter, L, Side::source);
  t.at_frame("Ready", FrameType::ready, kFrom, kBefore, L, Side::source);
  t.at_frame("Commit", FrameType::commit, kTo, kBefore, L, Side::destination);

  t.moves({"Postcopy_", "postcopy", kSlowBps, false});
  t.at_frame("Commit", FrameType::commit, kTo, kBefore, L, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, L, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, S, Side::destination);
  t.at_frame("Committed", FrameType::committed, kFrom, kAfter, D, Side::destination);

  t.moves({"Cold_", "cold", 0, false});
  t.at_frame("Images", FrameType::images, kTo, kAfter, L, Side::source);
  t.at_frame("Commit", FrameType::commit, kTo, kBefore, L, Side::destination);
  t.moves({"Precopy_", "precopy", 0, false});
  t.at_frame("Images", FrameType::images, kTo, kAfter, L, Side::source);
  t.at_frame("Commit", FrameType::commit, kTo, kBefore, L, Side::destination);
  return t.take();
}

}  // namespace mose::test
