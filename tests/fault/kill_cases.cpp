// SPDX-License-Identifier: MIT
// Kills.
#include "cases.h"

namespace mose::test {

std::vector<FaultCase> kills() {
  using wire::FrameType;
  constexpr Victim S = Victim::source_agent, D = Victim::destination_agent, C = Victim::criu, B = Victim::both_agents, P = Victim::pager,
                   G = Victim::guardian;
  constexpr Direction to = Direction::to_target, from = Direction::from_target;
  constexpr Moment before = Moment::before, after = Moment::after;
  CaseTable t(Kind::kill);
  // CRIU's dump: everything before the images have left. CRIU itself is killed while it waits in a hook only: between
  // the hooks its code runs inside the tasks, and its death there can break them, whatever anybody does.
  t.at_criu("dump", "request", "before", S);
  t.at_criu("dump", "request", "after", C);
  t.at_criu("dump", "pre-dump", "before", S);
  t.at_criu("dump", "pre-dump", "answered", C);
  t.at_criu("dump", "query-ext-files", "before", S);
  t.at_criu("dump", "query-ext-files", "answered", C);
  t.at_criu("dump", "post-dump", "before", S);
  t.at_criu("dump", "post-dump", "before", C);
  t.at_criu("dump", "post-dump", "before", D);
  t.at_criu("dump", "post-dump", "answered", S);
  t.at_criu("dump", "post-dump", "answered", C);
  t.at_criu("dump", "response", "before", S);
  t.at_criu("dump", "response", "before", C);
  // CRIU's restore: READY has not left before the response.
  t.at_criu("restore", "request", "before", D);
  t.at_criu("restore", "pre-restore", "before", C);
  t.at_criu("restore", "pre-restore", "before", S);
  t.at_criu("restore", "setup-namespaces", "before", D);
  t.at_criu("restore", "setup-namespaces", "answered", C);
  t.at_criu("restore", "post-setup-namespaces", "before", C);
  t.at_criu("restore", "post-setup-namespaces", "answered", D);
  t.at_criu("restore", "post-restore", "before", D);
  t.at_criu("restore", "post-restore", "after", C);
  t.at_criu("restore", "post-restore", "before", S);
  t.at_criu("restore", "pre-resume", "before", D);
  t.at_criu("restore", "pre-resume", "before", C);
  t.at_criu("restore", "pre-resume", "before", S);
  t.at_criu("restore", "pre-resume", "after", D);
  t.at_criu("restore", "pre-resume", "after", C);
  t.at_criu("restore", "post-resume", "before", D);
  t.at_criu("restore", "post-resume", "before", C);
  t.at_criu("restore", "post-resume", "answered", D);
  t.at_criu("restore", "response", "before", D);
  // The protocol, up to the commit.
  t.at_frame("Hello", FrameType::hello, to, before, S, Side::source);
  t.at_frame("HelloAnswer", FrameType::hello, from, before, D, Side::source);
  t.at_frame("Prepare", FrameType::prepare, to, after, S, Side::source);
  t.at_frame("Prepare", FrameType::prepare, to, after, D, Side::source);
  t.at_frame("Prepared", FrameType::prepared, from, before, D, Side::source);
  t.at_frame("Prepared", FrameType::prepared, from, after, S, Side::source);
  t.at_frame("Images", FrameType::images, to, before, S, Side::source);
  t.at_frame("Images", FrameType::images, to, before, D, Side::source);
  t.at_frame("Images", FrameType::images, to, after, S, Side::source);
  t.at_frame("Ready", FrameType::ready, from, before, S, Side::source);
  t.at_frame("Ready", FrameType::ready, from, before, D, Side::source);
  t.at_frame("Ready", FrameType::ready, from, after, S, Side::either);
  t.at_frame("Ready", FrameType::ready, from, after, D, Side::either);
  // From the commit record on.
  t.at_frame("Commit", FrameType::commit, to, before, S, Side::destination);
  t.at_frame("Commit", FrameType::commit, to, before, D, Side::destination);
  t.at_frame("Commit", FrameType::commit, to, after, S, Side::destination);
  t.at_frame("Commit", FrameType::commit, to, after, D, Side::destination);
  t.at_frame("Committed", FrameType::committed, from, before, S, Side::destination);
  t.at_frame("Committed", FrameType::committed, from, before, D, Side::destination);
  t.at_frame("Committed", FrameType::committed, from, after, S, Side::destination);
  t.at_frame("Drained", FrameType::drained, to, before, S, Side::destination);
  t.at_frame("Drained", FrameType::drained, to, before, D, Side::destination);
  t.at_frame("Complete", FrameType::complete, from, before, S, Side::destination);
  t.at_frame("Complete", FrameType::complete, from, before, D, Side::destination);
  t.at_frame("Complete", FrameType::complete, from, after, S, Side::destination);
  t.at_frame("Released", FrameType::released, to, before, S, Side::destination);
  t.at_frame("Released", FrameType::released, to, before, D, Side::destination);
  // While it still redirects what comes late.
  t.at_frame("Released", FrameType::released, to, after, S, Side::destination);

  // With a warm standby. An agent that dies ends the migration as ever; what happens to the standby's CRIU costs the standby.
  t.moves({.prefix = "Standby_", .standby = true});
  t.at_criu("dump", "request", "before", S);
  t.at_criu("dump", "pre-dump", "before", S);
  t.at_criu("dump", "pre-dump", "answered", C, Side::destination);
  t.at_criu("dump", "post-dump", "before", S);
  t.at_criu("dump", "post-dump", "before", D);
  t.at_criu("dump", "post-dump", "before", C, Side::destination);
  t.at_criu("restore", "request", "before", D);
  t.at_criu("restore", "setup-namespaces", "answered", C, Side::destination);
  t.at_criu("restore", "post-restore", "before", D);
  t.at_criu("restore", "post-restore", "before", S);
  t.at_criu("restore", "pre-resume", "before", D);
  t.at_criu("restore", "pre-resume", "after", D);
  t.at_criu("restore", "pre-resume", "after", C, Side::destination);
  t.at_criu("restore", "response", "before", D);
  t.at_frame("Standby", FrameType::standby, to, before, S, Side::source);
  t.at_frame("Standby", FrameType::standby, to, after, D, Side::source);
  t.at_frame("Standing", FrameType::standing, from, before, S, Side::source);
  t.at_frame("Standing", FrameType::standing, from, before, D, Side::source);
  t.at_frame("Images", FrameType::images, to, before, D, Side::source);
  t.at_frame("Images", FrameType::images, to, after, S, Side::source);
  t.at_frame("Ready", FrameType::ready, from, before, D, Side::source);
  t.at_frame("Ready", FrameType::ready, from, after, S, Side::either);
  t.at_frame("Commit", FrameType::commit, to, before, D, Side::destination);
  t.at_frame("Commit", FrameType::commit, to, after, D, Side::destination);
  t.at_frame("Committed", FrameType::committed, from, before, S, Side::destination);
  t.at_frame("Complete", FrameType::complete, from, before, D, Side::destination);
  t.at_frame("Standing", FrameType::standing, from, after, P, Side::source);
  t.at_frame("Standing", FrameType::standing, from, after, G, Side::destination);

  // Both at once, as where one switch feeds two racks.
  t.moves({});
  t.at_frame("Prepared", FrameType::prepared, from, before, B, Side::source);
  t.at_frame("Images", FrameType::images, to, before, B, Side::source);
  t.at_frame("Images", FrameType::images, to, after, B, Side::source);
  t.at_frame("Ready", FrameType::ready, from, before, B, Side::source);
  t.at_frame("Ready", FrameType::ready, from, after, B, Side::either);
  t.at_frame("Commit", FrameType::commit, to, before, B, Side::destination);
  t.at_frame("Commit", FrameType::commit, to, after, B, Side::destination);
  t.at_frame("Committed", FrameType::committed, from, before, B, Side::destination);
  t.at_frame("Drained", FrameType::drained, to, before, B, Side::destination);
  t.at_frame("Complete", FrameType::complete, from, before, B, Side::destination);
  t.at_frame("Released", FrameType::released, to, before, B, Side::destination);

  // The pager and its guardian: pages that have come go with it before READY; after the commit another takes its place.
  t.at_frame("Prepared", FrameType::prepared, from, after, P, Side::source);
  t.at_frame("Images", FrameType::images, to, before, P, Side::source);
  t.at_frame("Ready", FrameType::ready, from, after, P, Side::either);
  t.at_frame("Commit", FrameType::commit, to, after, P, Side::destination);
  t.at_frame("Prepared", FrameType::prepared, from, after, G, Side::destination);
  t.at_frame("Images", FrameType::images, to, before, G, Side::destination);
  t.at_frame("Ready", FrameType::ready, from, after, G, Side::destination);
  t.at_frame("Commit", FrameType::commit, to, after, G, Side::destination);

  // What every strategy has of its own is when pages come: all before READY, or most of them after the commit.
  struct {
    const char *prefix, *strategy;
    uint64_t bandwidth_bps;
  } constexpr kStrategies[] = {{"Cold_", "cold", 0}, {"Precopy_", "precopy", 0}, {"Postcopy_", "postcopy", 60'000'000}};
  for (const auto& strategy : kStrategies) {
    t.moves({strategy.prefix, strategy.strategy, strategy.bandwidth_bps, false});
    t.at_criu("dump", "post-dump", "before", S);
    t.at_criu("dump", "post-dump", "before", C);
    t.at_criu("restore", "pre-resume", "before", D);
    t.at_criu("restore", "pre-resume", "after", C);
    t.at_frame("Images", FrameType::images, to, before, D, Side::source);
    t.at_frame("Images", FrameType::images, to, after, S, Side::source);
    t.at_frame("Ready", FrameType::ready, from, before, D, Side::source);
    t.at_frame("Ready", FrameType::ready, from, after, S, Side::either);
    t.at_frame("Commit", FrameType::commit, to, before, S, Side::destination);
    t.at_frame("Commit", FrameType::commit, to, after, D, Side::destination);
    t.at_frame("Committed", FrameType::committed, from, before, S, Side::destination);
    t.at_frame("Committed", FrameType::committed, from, after, D, Side::destination);
    t.at_frame("Complete", FrameType::complete, from, before, D, Side::destination);
  }
  t.at_frame("Committed", FrameType::committed, from, after, S, Side::destination);
  t.at_frame("Committed", FrameType::committed, from, after, B, Side::destination);
  t.at_frame("Committed", FrameType::committed, from, after, P, Side::destination);
  t.at_frame("Committed", FrameType::committed, from, after, G, Side::destination);
  t.at_frame("Complete", FrameType::complete, from, before, S, Side::destination);
  return t.take();
}

}  // namespace mose::test
