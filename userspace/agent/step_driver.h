// SPDX-License-Identifier: MIT
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <utility>

#include "agent/event_loop.h"
#include "base/clock.h"

namespace mose::agent {

// Runs one of the pure state machines of plan/ in the loop thread: keeps its state, hands its actions to `execute` in
// order, and calls it again at its deadline. An event that arrives while actions are being handed out waits its turn.
//
// Machine: State (with `deadline`), Event, Action, Step {state, actions}, static step(State, Event, Timestamp) -> Step,
// static Event tick().
template <typename Machine>
class StepDriver {
 public:
  using State = typename Machine::State;
  using Event = typename Machine::Event;
  using Step = typename Machine::Step;
  using Action = typename Machine::Action;

  StepDriver(EventLoop& loop, std::function<void(const Action&)> execute, std::function<void()> changed)
      : loop_(loop), execute_(std::move(execute)), changed_(std::move(changed)) {}
  ~StepDriver() { loop_.cancel(timer_); }
  StepDriver(const StepDriver&) = delete;
  StepDriver& operator=(const StepDriver&) = delete;

  void start(Step first) {
    apply(std::move(first));
    drain();
  }
  void dispatch(Event event) {
    events_.push_back(std::move(event));
    drain();
  }
  [[nodiscard]] const State& state() const { return state_; }

 private:
  void apply(Step step) {
    state_ = std::move(step.state);
    loop_.cancel(timer_);
    timer_ = 0;
    if (state_.deadline) {
      Nanoseconds delay = *state_.deadline - now();
      timer_ = loop_.after(delay.count() > 0 ? delay : Nanoseconds(0), [this] { dispatch(Machine::tick()); });
    }
    changed_();
    busy_ = true;
    for (const Action& action : step.actions) execute_(action);
    busy_ = false;
  }
  void drain() {
    while (!busy_ && !events_.empty()) {
      Event event = std::move(events_.front());
      events_.pop_front();
      apply(Machine::step(state_, event, now()));
    }
  }

  EventLoop& loop_;
  std::function<void(const Action&)> execute_;
  std::function<void()> changed_;
  State state_;
  std::deque<Event> events_;
  EventLoop::TimerId timer_ = 0;
  bool busy_ = false;
};

}  // namespace mose::agent
