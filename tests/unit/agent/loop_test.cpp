// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "agent/event_loop.h"
#include "agent/worker.h"
#include "base/fd.h"

namespace mose::agent {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;

class LoopTest : public testing::Test {
 protected:
  void SetUp() override {
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop);
    loop_ = std::move(*loop);
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    reader_ = Fd(ends[0]);
    writer_ = Fd(ends[1]);
  }
  std::unique_ptr<EventLoop> loop_;
  Fd reader_, writer_;
};

TEST_F(LoopTest, AHandlerMayUnwatchItselfAndOthers) {
  int calls = 0;
  ASSERT_TRUE(loop_->watch(reader_.get(), EPOLLIN, [&](uint32_t) {
    ++calls;
    loop_->unwatch(reader_.get());
    loop_->after(0ms, [&] { loop_->quit(); });
  }));
  EXPECT_FALSE(loop_->watch(reader_.get(), EPOLLIN, [](uint32_t) {})) << "watched already";
  ASSERT_TRUE(write_all(writer_.get(), "x"));
  loop_->run();
  EXPECT_EQ(calls, 1) << "level-triggered and unread: a second call would mean that it is still watched";
  loop_->unwatch(12345);
}

TEST_F(LoopTest, TimersFireInOrderAndCancelledOnesNever) {
  std::vector<int> order;
  loop_->after(20ms, [&] {
    order.push_back(3);
    loop_->quit();
  });
  auto never = loop_->after(5ms, [&] { order.push_back(9); });
  loop_->after(1ms, [&] {
    order.push_back(1);
    loop_->cancel(never);
  });
  loop_->after(1ms, [&] { order.push_back(2); });
  loop_->run();
  EXPECT_THAT(order, ElementsAre(1, 2, 3));
}

TEST_F(LoopTest, APeriodicTimerMayCancelItself) {
  int calls = 0;
  EventLoop::TimerId id = 0;
  id = loop_->every(1ms, [&] {
    if (++calls == 3) {
      loop_->cancel(id);
      loop_->after(5ms, [&] { loop_->quit(); });
    }
  });
  loop_->run();
  EXPECT_EQ(calls, 3);
}

TEST_F(LoopTest, PostsOfAnotherThreadRunInItsOrder) {
  std::vector<int> order;
  std::thread other([&] {
    for (int i = 0; i < 100; ++i) loop_->post([&order, i] { order.push_back(i); });
    loop_->post([&] { loop_->quit(); });
  });
  loop_->run();
  other.join();
  ASSERT_EQ(order.size(), 100u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_F(LoopTest, PostsOfAnOwnerThatHasGoneAreDropped) {
  struct Owner {
    explicit Owner(EventLoop& loop) : post(loop) {}
    OwnPosts post;
  };
  auto stays = std::make_unique<Owner>(*loop_), goes = std::make_unique<Owner>(*loop_);
  std::vector<int> ran;
  loop_->post([&] { goes.reset(); });
  goes->post([&] { ran.push_back(1); });
  stays->post([&] { ran.push_back(2); });
  loop_->post([&] { loop_->quit(); });
  loop_->run();
  EXPECT_THAT(ran, ElementsAre(2));
}

TEST_F(LoopTest, SignalsArriveInTheLoop) {
  int seen = 0;
  ASSERT_TRUE(loop_->on_signals({SIGUSR1}, [&](int number) {
    seen = number;
    loop_->quit();
  }));
  kill(getpid(), SIGUSR1);
  loop_->run();
  EXPECT_EQ(seen, SIGUSR1);
}

TEST_F(LoopTest, ALaneRunsItsJobsInOrderOnOneThreadAndCompletesInTheLoop) {
  std::vector<int> jobs, done;
  std::vector<std::thread::id> threads;
  Lane lane(*loop_, "lane");
  for (int i = 0; i < 10; ++i) {
    lane.run(
        [&, i] {
          jobs.push_back(i);
          threads.push_back(std::this_thread::get_id());
          return i * i;
        },
        [&](int square) {
          EXPECT_TRUE(loop_->in_loop_thread());
          done.push_back(square);
          if (done.size() == 10) loop_->quit();
        });
  }
  loop_->run();
  EXPECT_THAT(done, ElementsAre(0, 1, 4, 9, 16, 25, 36, 49, 64, 81));
  EXPECT_EQ(std::count(threads.begin(), threads.end(), threads[0]), 10);
  EXPECT_NE(threads[0], std::this_thread::get_id());
}

TEST_F(LoopTest, CompletionsOfAnOwnerThatHasGoneAreDropped) {
  std::atomic<bool> ran = false;
  bool completed = false;
  {
    WorkerPool pool(*loop_, 2);
    pool.submit([&] { ran = true; }, [&] { completed = true; });
    while (!ran) std::this_thread::yield();
  }
  loop_->after(5ms, [&] { loop_->quit(); });
  loop_->run();
  EXPECT_FALSE(completed);
}

TEST_F(LoopTest, ALaneThatEndsWaitsForTheJobUnderWayAndDropsTheRest) {
  std::atomic<int> begun = 0, ended = 0;
  {
    Lane lane(*loop_, "lane");
    for (int i = 0; i < 3; ++i) {
      lane.submit([&] {
        ++begun;
        std::this_thread::sleep_for(20ms);
        ++ended;
      });
    }
    while (begun == 0) std::this_thread::yield();
  }
  EXPECT_EQ(begun, 1);
  EXPECT_EQ(ended, 1);
}

}  // namespace
}  // namespace mose::agent
