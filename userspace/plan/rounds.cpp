// SPDX-License-Identifier: MIT
#include "plan/rounds.h"

#include <algorithm>

#include "model/page_set.h"

namespace mose::plan {
namespace {

// However slow the link: less is not worth a round's look at every page.
constexpr uint64_t kRestPagesMin = 64;

// Pages that the link carries in that time.
uint64_t carried(uint64_t link_bps, double seconds) {
  return static_cast<uint64_t>(static_cast<double>(link_bps) * seconds / kPageBits);
}

bool shrinks(double after, double before) {
  return after <= before * kShrinkPercent / 100;
}

// By how much another round would shorten the stop.
double saved_seconds(const Outlook& outlook, uint64_t link_bps) {
  return (outlook.left_now - outlook.left_next) * (kPageBits / static_cast<double>(link_bps) + kLeftPageSeconds);
}

// Of those that there may be, for what follows a round that prepares the final scan. Where none would be worth it, none.
unsigned rounds_kept(const RoundFacts& facts) {
  const bool cheap = facts.write_fault_seconds != 0 && facts.write_fault_seconds <= kUnprotectedPageSeconds;
  if (!cheap || facts.throttle_percent != 0) return 0;
  return std::min(facts.rounds_max - std::min(facts.rounds_max, kRoundsBefore), kRoundsKept);
}

// Whether that is worth one.
bool saves_time(const RoundFacts& facts) {
  if (!facts.outlook || facts.throttle_percent != 0 || facts.link_bps == 0) return false;
  if (facts.round < 2 || facts.round >= facts.rounds_max || facts.pages_sent <= kRestPagesMin) return false;
  return saved_seconds(*facts.outlook, facts.link_bps) >= kSavedSeconds &&
         shrinks(static_cast<double>(facts.pages_sent), static_cast<double>(facts.pages_before));
}

}  // namespace

uint64_t rest_pages(uint64_t link_bps) {
  if (link_bps == 0) return kRestPages;
  return std::max(std::min(carried(link_bps, kRestSeconds), kRestPages), kRestPagesMin);
}

uint64_t closing_pages(uint64_t pages_present, uint64_t link_bps) {
  const uint64_t pages = std::max(kClosingPages, pages_present / kClosingPart);
  if (link_bps == 0) return pages;
  return std::max(std::min(pages, carried(link_bps, kClosingSeconds)), rest_pages(link_bps));
}

RoundVerdict after_round(const RoundFacts& facts) {
  if (facts.pages_sent <= rest_pages(facts.link_bps)) return saves_time(facts) ? RoundVerdict::another : RoundVerdict::small;
  // What this round sent was written before the step, at the speed of then: it says nothing of what the step is worth.
  if (facts.slowed_now) return RoundVerdict::another;
  // The model was fitted to a workload that ran faster, and would end rounds that have just begun to shrink: once it is
  // slowed down the sizes alone count.
  const auto outlook = facts.throttle_percent == 0 ? facts.outlook : std::nullopt;
  const bool outrun =
      outlook && facts.link_bps != 0 && outlook->written_per_second * kPageBits >= static_cast<double>(facts.link_bps);
  bool gains = true;
  if (facts.round > 1) {
    const auto sent = static_cast<double>(facts.pages_sent);
    gains = shrinks(sent, static_cast<double>(facts.pages_before));
    // Where the sizes of rounds still shrink the model may see that they are about to stop, never the other way round:
    // it errs by a quarter.
    if (gains && outlook) gains = outlook->left_next < outlook->left_now && outlook->next_pages < sent;
  }
  if (!gains) return outrun ? RoundVerdict::outrun : RoundVerdict::no_gain;
  return facts.round >= facts.rounds_max ? RoundVerdict::used_up : RoundVerdict::another;
}

std::optional<unsigned> slow_down(RoundVerdict verdict, unsigned percent_now) {
  if (verdict != RoundVerdict::no_gain && verdict != RoundVerdict::outrun) return std::nullopt;
  if (percent_now >= kSlowMaxPercent) return std::nullopt;
  return percent_now + kSlowStepPercent;
}

unsigned rounds_of_steps(unsigned percent) {
  return percent / kSlowStepPercent * kRoundsPerSlowStep;
}

unsigned rounds_at_most(unsigned rounds_max, bool auto_converge) {
  return std::max(rounds_max, 1u) + (auto_converge ? rounds_of_steps(kSlowMaxPercent) + 1 : 0);
}

bool prepares_early(const RoundAhead& ahead) {
  if (ahead.round >= ahead.rounds_max || (ahead.pages != 0 && ahead.pages <= kRestPages)) return true;
  return ahead.round >= 2 && ahead.expected && *ahead.expected <= kQuietPages;
}

bool closing_follows(const RoundFacts& facts, RoundVerdict verdict, unsigned rounds_at_most) {
  if (verdict != RoundVerdict::another || facts.round + 1 >= rounds_at_most) return true;
  // Those behind it are rounds at full speed.
  if (const unsigned kept = rounds_kept(facts); kept != 0 && facts.round + 1 + kept >= facts.rounds_max) return true;
  // The first round sends everything, and the forecast of a workload that is slowed down speaks of a faster one.
  if (facts.round < 2 || facts.throttle_percent != 0 || !facts.outlook) return false;
  return facts.outlook->next_pages <= static_cast<double>(closing_pages(facts.pages_present, facts.link_bps));
}

bool goes_on_prepared(const RoundFacts& closing) {
  if (closing.link_bps == 0) return false;
  // The forecast of a workload that is slowed down speaks of a faster one.
  const bool forecast = closing.outlook && closing.throttle_percent == 0;
  const double left = forecast ? closing.outlook->left_now : static_cast<double>(closing.pages_sent);
  return left * kPageBits > static_cast<double>(closing.link_bps) * kRestSeconds;
}

bool shortens_stop(const RoundFacts& last) {
  if (last.round >= last.rounds_max || last.throttle_percent != 0) return false;
  if (!last.outlook || last.link_bps == 0 || last.write_fault_seconds == 0) return false;
  const Outlook& outlook = *last.outlook;
  double saved = saved_seconds(outlook, last.link_bps);
  if (!shrinks(outlook.left_next, outlook.left_now)) saved = std::min(saved, 0.0);
  // What is hot is written again, each of its pages.
  const auto unprotected = static_cast<double>(last.pages_next_protected);
  saved += unprotected * (kUnprotectedPageSeconds - last.write_fault_seconds);
  return saved >= std::max(kPreparedSavedSeconds, kPreparedSavedFaults * outlook.left_next * last.write_fault_seconds);
}

Nanoseconds next_look(const RoundTook& took) {
  const Nanoseconds looking = std::max(took.duration - took.sending, Nanoseconds(0));
  if (took.pages_armed == 0) return looking;
  const auto armed = static_cast<int64_t>(took.pages_armed), read = static_cast<int64_t>(took.pages_read);
  const Nanoseconds reread = read > armed ? looking / read * (read - armed) : Nanoseconds(0);
  return std::min(looking, kRecordedLook + kRecordedPage * armed + reread);
}

RoundVerdict without_another(const RoundFacts& last) {
  return last.pages_sent <= rest_pages(last.link_bps) ? RoundVerdict::small : RoundVerdict::costly;
}

}  // namespace mose::plan
