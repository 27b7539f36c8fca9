// SPDX-License-Identifier: MIT
#include "sim/world.h"

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
  }
  return "?";
}

plan::Verdict World::journalled_verdict() const {
  for (auto it = source_journal.rbegin(); it != source_journal.rend(); ++it) {
    if (*it == plan::Record::commit) return plan::Verdict::commit;
    if (*it == plan::Record::aborted) return plan::Verdict::abort;
  }
  return plan::Verdict::undecided;
}

std::string World::check() const {
  bool commit = journalled_verdict() == plan::Verdict::commit;
  if (source == Tree::running && destination == Tree::running) return "two running trees";
  if (destination == Tree::running && !commit) return "the destination runs and the source has no durable commit";
  if (source == Tree::running && commit) return "the source runs after its durable commit";
  if (source != Tree::running && source_slowed) return "the source is stopped and what slows it down is still there";
  if (commit && source_dumper) return "committed while CRIU still has the source tree";
  if (commit && source == Tree::held) return "committed while the source tree is not frozen by its cgroup";
  if (source == Tree::killed && !commit) return "the source was killed without a commit";
  if (source == Tree::killed && !pages_complete) return "the source was killed before its pages were complete";
  if (commit && pages_left > pages_left_max) return "committed while more pages than may be were at the source alone";
  if (destination == Tree::running && memory_first && !pages_complete) return "it runs before its memory is complete";
  if (source_egress && destination_egress) return "both egresses are open";
  return {};
}

std::string World::describe() const {
  std::string text = std::string("source ") + to_string(source) + (source_egress ? ", egress open" : ", egress shut") +
                     (source_repair ? ", in repair mode" : "") + (source_slowed ? ", slowed down" : "") + "; destination " + to_string(destination) +
                     (destination_egress ? ", egress open" : ", egress shut") + (prepared ? ", prepared" : "") +
                     (map_out ? ", page map known" : "") + (pages_complete ? ", pages complete" : "") +
                     "; source journal:";
  for (plan::Record r : source_journal) text += std::string(" ") + plan::to_string(r);
  text += "; destination journal:";
  for (plan::Record r : destination_journal) text += std::string(" ") + plan::to_string(r);
  return text;
}

}  // namespace mose::sim
