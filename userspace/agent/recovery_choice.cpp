// SPDX-License-Identifier: MIT
#include "agent/recovery_choice.h"

#include <fmt/format.h>

namespace mose::agent {
namespace {

using Action = RecoveryAction;
using Says = PeerSays;
using Wish = RecoveryWish;

std::string peer_of(const RecoverySides& sides) { return sides.peer.empty() ? "the other node" : "node " + sides.peer; }

RecoveryChoice refuse_choice(std::string what) { return {.action = Action::refuse, .certain = false, .what = std::move(what)}; }

// What an operator has to find out himself, and how he says it.
std::string facts(const RecoverySides& s) {
  return fmt::format("find out (1) whether {0} runs on {1}, or can still start to (`mose workloads` and `mose status` there; a node that is switched off "
                     "for good cannot), and (2) whether {0} stands here, stopped, as the only one that is left; then "
                     "`mose recover {2} --{3}` lets it run here, or `mose recover {2} --{4}` ends what is here of it",
                     s.workload, peer_of(s), s.id.hex(), kWishResume, kWishGiveUp);
}

std::string only_if(const RecoverySides& s, const std::string& wrong) {
  std::string text = fmt::format("ONLY IF {} IS SWITCHED OFF FOR GOOD, OR CAN NEVER RUN {} AGAIN: {}", peer_of(s), s.workload, wrong);
  if (s.pager_connected) text += fmt::format("; A CONNECTION OF ITS PAGER STANDS HERE: look whether {} is off before you agree", peer_of(s));
  return text;
}

RecoveryChoice resume_by_word(const RecoverySides& s) {
  return {.action = Action::resume,
          .certain = false,
          .what = fmt::format("{} runs on here, as it stood when it was stopped; who comes back and asks hears that it does", s.workload),
          .warning = only_if(s, "else two of it run with one address, and both are worth nothing")};
}

RecoveryChoice end_by_word(const RecoverySides& s) {
  return {.action = Action::end,
          .certain = false,
          .what = fmt::format("the stopped {0} here is killed, with all memory that is only here, and the migration ends as lost; its name and "
                              "addresses are free here", s.workload),
          .warning = only_if(s, "if it runs there without all of its memory it will stand still for ever")};
}

// ---- A source that carries it out

std::string mend_there(const RecoverySides& s) {
  return fmt::format("{} has a journal of it that cannot be read: nobody knows whether {} has run there, and it does not go on before `mose recover {}` there",
                     peer_of(s), s.workload, s.id.hex());
}

std::string what_waits(const RecoverySides& s) {
  if (s.waiting && s.peer_says == Says::unreadable) return fmt::format("migration {} waits at its source: {}; {}", s.id.hex(), s.phase, mend_there(s));
  std::string text = fmt::format("migration {} goes on by itself at its source: {}", s.id.hex(), s.phase);
  if (!s.waiting) return text;
  if (s.peer_says == Says::nothing) {
    text += fmt::format("; {} is there and has nothing of it, not even in its history: it would wait for ever; ", peer_of(s)) + facts(s);
    return text;
  }
  if (has_nothing(s)) {
    text += fmt::format("; {0} has thrown {1} away, which had run there: what is stopped here is older than the answers that clients have had, and "
                        "does not run again; `mose recover {2} --{3}` ends it", peer_of(s), s.workload, s.id.hex(), kWishGiveUp);
    return text;
  }
  if (s.peer_says != Says::unreachable || s.connected) return text;
  const std::string gone = fmt::format("; if {} is switched off for good, `mose recover {} ", peer_of(s), s.id.hex());
  const std::string end = fmt::format("--{}` here ends what is left of it as lost", kWishGiveUp);
  if (s.has_run_there) return text + gone + end;
  return text + gone + fmt::format("--{}` lets {} run on here, and ", kWishResume, s.workload) + end;
}

RecoveryChoice source_under_way(const RecoverySides& s, Wish wish) {
  if (wish == Wish::none) return {.what = what_waits(s)};
  if (s.before_commit) return refuse_choice(fmt::format("the migration is before its commit: `mose cancel {}` leads back to a running {}", s.id.hex(), s.workload));
  if (!s.committed) return refuse_choice("the migration is being aborted or ended already: " + s.phase);
  const bool there = s.peer_says != Says::unreachable && !has_nothing(s);
  if (s.peer_says == Says::unreadable) return refuse_choice(fmt::format("{} is not gone: ", peer_of(s)) + mend_there(s));
  if (there) return refuse_choice(fmt::format("{} is there and has the migration ({}): it goes on by itself", peer_of(s), to_string(s.peer_says)));
  if (s.connected && !has_nothing(s)) return refuse_choice(fmt::format("{} is connected: it is not gone", peer_of(s)));
  if (!s.waiting) return refuse_choice("the migration has everything, and ends by itself: " + s.phase);
  if (wish == Wish::give_up) return end_by_word(s);
  if (s.has_run_there) {
    return refuse_choice(fmt::format("{0} has run on {1}, and clients have had its answers: what is stopped here is older than those. `--{2}` ends it",
                                     s.workload, peer_of(s), kWishGiveUp));
  }
  if (!s.tree_here) return refuse_choice(fmt::format("the stopped {} has ended: there is nothing that could run here; `--{}` ends the rest", s.workload, kWishGiveUp));
  return resume_by_word(s);
}

// ---- A source without its journal

RecoveryChoice source_without_journal(const RecoverySides& s, Wish wish) {
  const char* state = s.journal == OwnJournal::gone ? "gone" : "not readable";
  if (!s.tree_here) return {.action = Action::forget, .what = fmt::format("migration {} is forgotten: its journal is {}, and no process of its workload is here", s.id.hex(), state)};
  const bool runs_there = s.peer_says == Says::committed || s.peer_says == Says::complete || s.peer_says == Says::lost;
  if (wish == Wish::resume && runs_there) return refuse_choice(fmt::format("{} has run {} ({}): it does not run here again", peer_of(s), s.workload, to_string(s.peer_says)));
  if (wish == Wish::give_up && s.peer_says != Says::complete && s.peer_says != Says::lost) return end_by_word(s);
  switch (s.peer_says) {
    case Says::aborted:
      return {.action = Action::resume, .what = fmt::format("{} has never run {} and never will: it runs on here", peer_of(s), s.workload)};
    case Says::undecided:
      return {.action = Action::resume,
              .what = fmt::format("{0} has not run {1}: it is told to throw away what it has, and when it has said so {1} runs on here", peer_of(s), s.workload),
              .abort_there_first = true};
    case Says::complete:
    case Says::lost:
      return {.action = Action::end, .what = fmt::format("{} needs nothing of {} here any more ({}): what is stopped here is killed", peer_of(s), s.workload, to_string(s.peer_says))};
    case Says::committed:
      return refuse_choice(fmt::format("{0} was told to run {1}, and needs the memory that is stopped here; without this node's journal (it is {2}) it cannot be "
                                       "served: put the journal back and run `mose recover {3}` again; `--{4}` ends what is here, and with it those pages",
                                       peer_of(s), s.workload, state, s.id.hex(), kWishGiveUp));
    default:
      break;
  }
  if (wish == Wish::resume) return resume_by_word(s);
  const std::string asked = s.peer_says == Says::unreachable ? "cannot be asked" : s.peer_says == Says::nothing ? "has nothing of it" : "does not tell";
  return refuse_choice(fmt::format("this node's journal of it is {}, and {} {}: nobody knows for sure where {} is to run, and it stays as it is; put the journal "
                                   "back and run this again, or ", state, peer_of(s), asked, s.workload) + facts(s));
}

// ---- A destination

RecoveryChoice destination_under_way(const RecoverySides& s, Wish wish) {
  if (wish == Wish::none && s.waiting && s.peer_says == Says::unreadable) {
    return {.what = fmt::format("{}; its journal of it cannot be read: it says nothing before `mose recover {}` there", s.phase, s.id.hex())};
  }
  if (wish == Wish::none) return {.what = s.phase};
  if (wish == Wish::resume) return refuse_choice("this node is the destination: only the source, or its operator, can say that it is to run here");
  if (!s.waiting) return refuse_choice(fmt::format("only what waits for its verdict is given up; `mose stop {}` ends what runs here", s.workload));
  // That it never ran here is certain; that another one is left is where the source itself says that it has not let go of it.
  const bool kept_there = s.peer_says == Says::undecided || s.peer_says == Says::aborted;
  RecoveryChoice discard{.action = Action::discard,
                         .certain = kept_there,
                         .what = fmt::format("what has arrived of {} is thrown away, and the source hears that it has never run here", s.workload)};
  if (s.peer_says == Says::committed) {
    discard.warning = fmt::format("{} has committed: it resumes {} only if its stopped tree is still whole", peer_of(s), s.workload);
  } else if (!kept_there) {
    discard.warning = fmt::format("if {} is switched off for good, this is the only one that is left", peer_of(s));
  }
  return discard;
}

RecoveryChoice destination_without_journal(const RecoverySides& s, Wish wish) {
  const char* state = s.journal == OwnJournal::gone ? "gone" : "not readable";
  if (!s.tree_here) return {.action = Action::forget, .what = fmt::format("migration {} is forgotten: its journal is {}, and no process of its workload is here", s.id.hex(), state)};
  RecoveryChoice discard{.action = Action::discard, .what = fmt::format("what is here of {} is killed and thrown away", s.workload)};
  if (s.peer_says == Says::aborted || s.peer_says == Says::lost) {
    discard.what = fmt::format("{} has decided without this node: ", peer_of(s)) + discard.what;
    return discard;
  }
  if (wish == Wish::resume) return refuse_choice("without its journal an arrived workload cannot be completed here: put the journal back");
  if (wish == Wish::give_up) {
    discard.certain = false;
    discard.warning = s.tree_frozen ? "it is stopped: either it never ran, or it waits for memory that does not come" : "IT RUNS: it may be the only one that is left";
    return discard;
  }
  return refuse_choice(fmt::format("this node's journal of it is {}, and {} says: {}. What is here of {} ({}) stays as it is: put the journal back and run this again; "
                                   "where the source runs it, or is to, `mose recover {} --{}` throws it away here",
                                   state, peer_of(s), to_string(s.peer_says), s.workload, s.tree_frozen ? "stopped" : "it runs", s.id.hex(), kWishGiveUp));
}

// Its journal decides alone, as at a start of the agent, unless the other one says the contrary.
RecoveryChoice from_journal(const RecoverySides& s) {
  const bool ran = s.peer_says == Says::committed || s.peer_says == Says::complete || s.peer_says == Says::lost;
  const bool at_source = s.role == Role::source;
  if ((at_source && !s.committed && ran) || (!at_source && s.committed && s.peer_says == Says::aborted)) {
    return refuse_choice(fmt::format("the journals contradict each other: this node's says {}, {} says {}; nothing is done. Stop {} where it shall not run",
                                     s.committed ? "commit" : "no commit", peer_of(s), to_string(s.peer_says), s.workload));
  }
  return {.action = Action::go_on,
          .what = fmt::format("migration {} goes on from its journal: {}", s.id.hex(),
                              at_source ? (s.committed ? "forward, it is committed" : "back, it is not committed; the workload runs on here")
                                        : (s.committed ? "forward, it is committed" : "it is thrown away here, or the source is asked"))};
}

}  // namespace

RecoveryChoice choose_recovery(const RecoverySides& s, RecoveryWish wish) {
  const bool source = s.role == Role::source;
  switch (s.journal) {
    case OwnJournal::under_way:
      return source ? source_under_way(s, wish) : destination_under_way(s, wish);
    case OwnJournal::readable:
      if (wish != Wish::none) return refuse_choice(fmt::format("its journal decides: run `mose recover {}` without --{}", s.id.hex(), wish == Wish::resume ? kWishResume : kWishGiveUp));
      return from_journal(s);
    case OwnJournal::unreadable:
      // What nothing here belongs to harms nobody, and its file may be wanted.
      if (s.workload.empty()) return refuse_choice(fmt::format("migration {} stays undecided: its journal cannot be read, and nothing here belongs to it", s.id.hex()));
      [[fallthrough]];
    case OwnJournal::gone:
      return source ? source_without_journal(s, wish) : destination_without_journal(s, wish);
  }
  return {};
}

bool has_nothing(const RecoverySides& s) {
  return s.peer_says == Says::nothing || (s.has_run_there && s.peer_says == Says::aborted);
}

bool goes_on_alone(const RecoverySides& s) {
  if (s.journal != OwnJournal::readable || choose_recovery(s, Wish::none).action != Action::go_on) return false;
  return s.peer_says != Says::unreachable && s.peer_says != Says::too_old && s.peer_says != Says::nothing && s.peer_says != Says::unreadable;
}

bool harmless(RecoveryAction action) { return action == Action::none || action == Action::refuse; }

const char* to_string(RecoveryAction action) {
  switch (action) {
    case Action::none: return "none";
    case Action::go_on: return "go-on";
    case Action::resume: return "resume";
    case Action::end: return "end";
    case Action::discard: return "discard";
    case Action::forget: return "forget";
    case Action::refuse: return "refuse";
  }
  return "?";
}

const char* to_string(PeerSays says) {
  switch (says) {
    case Says::unreachable: return "it cannot be asked";
    case Says::too_old: return "an agent of it that does not tell";
    case Says::nothing: return "nothing of it is known there";
    case Says::unreadable: return "its journal cannot be read";
    case Says::undecided: return "not decided";
    case Says::committed: return "committed";
    case Says::complete: return "complete";
    case Says::lost: return "lost";
    case Says::aborted: return "aborted";
  }
  return "?";
}

}  // namespace mose::agent
