// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>

#include "base/clock.h"

// When pre-copy ends. Every round sends what was written during the round before; a round more is worth its bandwidth
// only while less is left after it than there would be without it. Pure: what is known is given.
namespace mose::plan {

// A last round of at most 16 MiB leaves about as little again to send: on 1 Gbit/s 130 ms of pre-copy are nothing to
// win. On a slower link so much as takes as long.
inline constexpr uint64_t kRestPages = (16ull << 20) / 4096;
inline constexpr double kRestSeconds = 0.13;
// Unless the workload would stand still for so much less after another round. A page that is left then costs, beside its
// time on the link, some 10 us of both ends: it is read, judged and put in (740 pages of 1 GB cost 4 ms of scan and 10 to 20
// of push and refresh).
inline constexpr double kSavedSeconds = 0.002, kLeftPageSeconds = 10e-6;
// A round that sent more than this share of the round before has met the working set: the next would send it again.
inline constexpr unsigned kShrinkPercent = 70;

// How far a workload is slowed down where that was asked for, in steps: at 80 % it has a fifth of its time left, and more
// than that is a stop, which the freeze does better.
inline constexpr unsigned kSlowStepPercent = 20;
inline constexpr unsigned kSlowMaxPercent = 80;
// The first round of a step sends what was written before it, the second shows what the step was worth.
inline constexpr unsigned kRoundsPerSlowStep = 2;

// What the dirty page model says at the end of a round.
struct Outlook {
  double left_now = 0;            // pages that are left when the workload is frozen now
  double left_next = 0;           // and when it is frozen after another round
  double next_pages = 0;          // what that round would send
  double written_per_second = 0;  // different pages in the next second
};

struct RoundFacts {
  unsigned round = 1;              // from 1
  unsigned rounds_max = 1;         // below 1 counts as 1
  uint64_t pages_sent = 0;         // in this round
  uint64_t pages_before = 0;       // in the round before it; of no meaning after the first
  uint64_t pages_present = 0;      // that the workload has
  uint64_t link_bps = 0;           // what the link has been seen to carry; 0: not known
  std::optional<Outlook> outlook;  // nothing before the second round
  unsigned throttle_percent = 0;   // by which the workload was slowed down in this round; 0: never
  bool slowed_now = false;         // by more than in the round before
  double write_fault_seconds = 0;  // what a write to a protected page takes more than another; 0: not known
  uint64_t pages_next_protected = 0;  // that the final scan has to read, written or not, unless another round protects them
};

enum class RoundVerdict : uint8_t {
  another,
  small,    // so little was sent that about as little is left
  no_gain,  // another round would leave about as much
  outrun,   // as before, and because the workload writes faster than the link carries
  used_up,  // as many rounds as may be
  costly,   // the link is quick with what is left: another round would cost the workload more than it is worth
};
[[nodiscard]] const char* to_string(RoundVerdict verdict);
[[nodiscard]] RoundVerdict after_round(const RoundFacts& facts);

// By how much to slow the workload down instead of ending the rounds with this verdict; nothing: they end.
[[nodiscard]] std::optional<unsigned> slow_down(RoundVerdict verdict, unsigned percent_now);
// The rounds that the steps up to `percent` may add to those that were asked for.
[[nodiscard]] unsigned rounds_of_steps(unsigned percent);

// All rounds that there may be of `rounds_max` that were asked for (below 1 counts as 1): with auto-converge two for each step, and one more
// where those at full speed were used up and the final scan is not prepared.
[[nodiscard]] unsigned rounds_at_most(unsigned rounds_max, bool auto_converge);

// A round of at most so many pages leaves so little that the freeze may follow.
[[nodiscard]] uint64_t rest_pages(uint64_t link_bps);

// Where write faults are dear the final scan is prepared in one round: from then on the workload pays for its writes, so the freeze
// follows. These rules say which round; where faults are cheap every round prepares it, and they are not asked.

// What is known of a round before it.
struct RoundAhead {
  unsigned round = 1;              // from 1
  unsigned rounds_max = 1;         // below 1 counts as 1
  uint64_t pages = 0;              // that the workload has; 0: not known
  std::optional<double> expected;  // that the round will send; nothing: not known
};
// Whether a round prepares it though nothing is known yet of what is hot: there is so little, or hardly anything is written.
inline constexpr double kQuietPages = 1024;
[[nodiscard]] bool prepares_early(const RoundAhead& ahead);

// Where write faults are cheap so many of more rounds than four are kept for those behind the one that prepares it: that one looks at everything and leaves what
// is written meanwhile, they look at what it left.
inline constexpr unsigned kRoundsBefore = 4, kRoundsKept = 4;
// Whether the round behind this one prepares it: it would be the last anyway, or send so little that those behind it would gain nothing.
// At most so many pages, or this part of all of them; and no more than the link carries in kClosingSeconds, for so long the workload
// pays, unless rest_pages() is more.
inline constexpr uint64_t kClosingPages = kRestPages, kClosingPart = 16;
inline constexpr double kClosingSeconds = 0.5;
[[nodiscard]] uint64_t closing_pages(uint64_t pages_present, uint64_t link_bps);
// `rounds_at_most`: not those that may be at the speed of now, but all.
[[nodiscard]] bool closing_follows(const RoundFacts& facts, RoundVerdict verdict, unsigned rounds_at_most);
// After such a round that another could follow, or before the workload is slowed down behind it: whether that is worth what the workload
// pays. Only where the link needs longer than kRestSeconds for what is left.
[[nodiscard]] bool goes_on_prepared(const RoundFacts& closing);
// And whatever such a round or one behind it sent: whether the stop would be shorter by more than this, and by so many times what the
// writes of that round cost the workload. Of much memory a prepared round looks at little. With a third of what they cost a Redis of 4 GB
// at 20 000 GET/s fell behind for 800 ms. The model errs by a quarter: what is left counts as less only where it shrinks as the rounds
// themselves have to.
inline constexpr double kPreparedSavedSeconds = 0.005, kPreparedSavedFaults = 2;
inline constexpr double kUnprotectedPageSeconds = 2e-6;  // of the final scan
[[nodiscard]] bool shortens_stop(const RoundFacts& last);

// How long the round that follows will look at memory, beside sending what it finds.
struct RoundTook {
  Nanoseconds duration{0};
  Nanoseconds sending{0};  // of it, at the link's rate
  uint64_t pages_read = 0;
  uint64_t pages_armed = 0;  // of those: read as a whole for the last time, the kernel keeps a record of each now
};
// A round of protected memory in which nothing has to be sent; measured 5 to 6 ms a gigabyte, and its threads' turns.
inline constexpr Nanoseconds kRecordedLook = std::chrono::milliseconds(10), kRecordedPage{20};
// As long as this one, or as a look at the record where that is new.
[[nodiscard]] Nanoseconds next_look(const RoundTook& took);

// How the rounds end with one that another could have followed.
[[nodiscard]] RoundVerdict without_another(const RoundFacts& last);

}  // namespace mose::plan
