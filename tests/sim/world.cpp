// SPDX-License-Identifier: MIT
#include "sim/world.h"

#include <algorithm>

#include "sim/node_journal.h"

namespace mose::sim {

const char* to_string(Tree tree) {
  switch (tree) {
    case Tree::absent:
      return "absent";
    case Tree::running:
      return "running";
    case Tree::held:
      return "held";
    case Tree::frozen:
      return "frozen";
    case Tree::killed:
      return "killed";
    case Tree::lost:
      return "lost";
  }
  return "?";
}

plan::Verdict World::journalled_verdict() {
  const auto now = source_disk.versions();
  if (seen_.cached != now.cached) commit_readable_ = plan::committed(records_of(source_disk.cached()));
  seen_.cached = now.cached;
  if (seen_.durable == now.durable) return verdict_;
  seen_.durable = now.durable;
  const auto durable = records_of(source_disk.durable());
  auto decided = std::find_if(durable.rbegin(), durable.rend(), [](plan::Record r) {
    return r == plan::Record::commit || r == plan::Record::aborted;
  });
  const plan::Verdict before = verdict_;
  if (decided != durable.rend()) verdict_ = *decided == plan::Record::commit ? plan::Verdict::commit : plan::Verdict::abort;
  else if (!durable.empty()) verdict_ = plan::Verdict::undecided;
  taken_back_ = taken_back_ || (before == plan::Verdict::commit && verdict_ == plan::Verdict::abort);
  return verdict_;
}

std::string World::check() {
  bool commit = journalled_verdict() == plan::Verdict::commit;
  if (source == Tree::running && destination == Tree::running) return "two running trees";
  if (destination == Tree::running && !commit) return "the destination runs and the source has no durable commit";
  if (source == Tree::running && commit) return "the source runs after its durable commit";
  if (source == Tree::running && commit_readable_) return "the source runs, and its next agent would find a commit";
  has_run = has_run || destination == Tree::running;
  if (source == Tree::running && has_run && !decided_here) return "the source runs after the destination has run";
  if (source == Tree::running && noted_that_it_ran) return "the source runs, and has written down that the destination has run";
  if (source != Tree::running && source_slowed) return "the source is stopped and what slows it down is still there";
  if (commit && source_dumper) return "committed while CRIU still has the source tree";
  if (commit && source == Tree::held) return "committed while the source tree is not frozen by its cgroup";
  if (source == Tree::killed && !commit) return "the source was killed without a commit";
  if (source == Tree::killed && !complete_once && !given_up) return "the source was killed before its pages were complete";
  if (commit && pages_left > pages_left_max) return "committed while more pages than may be were at the source alone";
  if (destination == Tree::running && memory_first && !pages_complete) return "it runs before its memory is complete";
  if (source_egress && destination_egress) return "both egresses are open";
  return {};
}

std::string World::describe() {
  std::string text = std::string("source ") + to_string(source) + (source_egress ? ", egress open" : ", egress shut") +
                     (source_repair ? ", in repair mode" : "") + (source_slowed ? ", slowed down" : "") + "; destination " + to_string(destination) +
                     (destination_egress ? ", egress open" : ", egress shut") + (prepared ? ", prepared" : "") +
                     (map_out ? ", page map known" : "") + (pages_complete ? ", pages complete" : "") +
                     "; source journal:";
  for (plan::Record r : records_of(source_disk.cached())) text += std::string(" ") + plan::to_string(r);
  text += "; destination journal:";
  for (plan::Record r : records_of(destination_disk.cached())) text += std::string(" ") + plan::to_string(r);
  return text;
}

}  // namespace mose::sim
