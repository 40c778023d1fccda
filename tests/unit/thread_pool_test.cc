// SPDX-License-Identifier: Apache-2.0
#include "common/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace flexep {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, EveryItemIsVisitedOnceAndSeenByTheCaller) {
  ThreadPool pool(GetParam());
  for (const std::int64_t num_items : {0, 1, 2, 7, 100, 1001}) {
    for (const std::int64_t grain : {1, 3, 64, 5000}) {
      std::vector<int> num_visits(static_cast<std::size_t>(num_items));
      pool.parallel_for(num_items, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) ++num_visits[static_cast<std::size_t>(i)];
      });
      EXPECT_EQ(num_visits, std::vector<int>(num_visits.size(), 1)) << num_items << " items, grain " << grain;
    }
  }
}

TEST_P(ThreadPoolTest, PiecesAreAtMostTheGrainWhenThereIsSomebodyToShareWith) {
  ThreadPool pool(GetParam());
  std::vector<std::int64_t> piece_sizes(10);
  pool.parallel_for(95, 10, [&](std::int64_t begin, std::int64_t end) {
    piece_sizes[static_cast<std::size_t>(begin / 10)] = end - begin;
  });
  EXPECT_EQ(piece_sizes[0], GetParam() == 1 ? 95 : 10);
  EXPECT_EQ(piece_sizes[9], GetParam() == 1 ? 0 : 5);
}

TEST_P(ThreadPoolTest, WorkersThatFellAsleepComeBack) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::vector<int> done(64);
    pool.parallel_for(64, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) done[static_cast<std::size_t>(i)] = 1;
    });
    EXPECT_EQ(done[63], 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadPoolTest, ::testing::Values(1, 2, 5));

TEST(ThreadPoolTest, APoolOfOneWorksOnTheCallingThread) {
  ThreadPool pool(1);
  std::thread::id worker;
  pool.parallel_for(1000, 1, [&](std::int64_t, std::int64_t) { worker = std::this_thread::get_id(); });
  EXPECT_EQ(worker, std::this_thread::get_id());
  EXPECT_EQ(pool.num_threads(), 1);
}

TEST(ThreadPoolTest, ABodyMayRunOnSeveralThreadsAtOnce) {
  ThreadPool pool(2);
  std::atomic<int> num_inside{0};
  // Each of the two pieces waits for the other one: this ends only if they run side by side.
  pool.parallel_for(2, 1, [&](std::int64_t, std::int64_t) {
    num_inside.fetch_add(1);
    while (num_inside.load() < 2) std::this_thread::yield();
  });
  EXPECT_EQ(num_inside.load(), 2);
}

}  // namespace
}  // namespace flexep
