// SPDX-License-Identifier: Apache-2.0
#include "core/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "flexep/communicator.h"
#include "flexep/error.h"

namespace flexep {
namespace {

class ArenaTest : public testing::Test {
 protected:
  // The transport lives as long as the communicator; the arena shares it.
  Communicator comm_ = Communicator::self();
  std::shared_ptr<Arena> arena_ = std::make_shared<Arena>(comm_.transport().split(0, 0));
};

TEST_F(ArenaTest, MemoryGoesBackAndIsReused) {
  const std::byte* first = nullptr;
  for (int round = 0; round < 100; ++round) {
    const Arena::Block a = arena_->reserve(1 << 20);
    const Arena::Block b = arena_->reserve(3 << 20);
    if (round == 0) first = a.data();
    EXPECT_EQ(a.data(), first);
    EXPECT_NE(a.data(), b.data());
  }
  EXPECT_EQ(arena_->num_bytes(), std::size_t{8} << 20);
}

TEST_F(ArenaTest, NeighboursMergeWhateverTheOrderTheyGoBackIn) {
  for (const auto& order : {std::vector<int>{0, 1, 2}, {2, 1, 0}, {1, 0, 2}, {1, 2, 0}, {0, 2, 1}}) {
    std::vector<Arena::Block> blocks;
    for (int i = 0; i < 3; ++i) blocks.push_back(arena_->reserve(1 << 20));
    for (const int i : order) blocks[static_cast<std::size_t>(i)] = {};
    blocks.clear();
    EXPECT_EQ(arena_->reserve_largest().num_bytes(), std::size_t{8} << 20);
  }
}

TEST_F(ArenaTest, GrowsByAChunkThatHoldsTheRequest) {
  const Arena::Block small = arena_->reserve(1);
  const Arena::Block large = arena_->reserve(100 << 20);
  EXPECT_GE(arena_->num_bytes(), std::size_t{108} << 20);
  EXPECT_TRUE(arena_->locate(large.data(), 100 << 20).has_value());
  EXPECT_NE(arena_->locate(large.data(), 1)->segment, arena_->locate(small.data(), 1)->segment);
}

TEST_F(ArenaTest, ForeignMemoryIsNotLocated) {
  const Arena::Block block = arena_->reserve(128);
  int outside = 0;
  EXPECT_FALSE(arena_->locate(&outside, sizeof(outside)).has_value());
  EXPECT_FALSE(arena_->locate(block.data(), std::size_t{1} << 30).has_value());
  EXPECT_EQ(arena_->locate(block.data() + 5, 1)->offset, block.address().offset + 5);
}

TEST_F(ArenaTest, FrontIsCutInGranularSteps) {
  Arena::Block rest = arena_->reserve(1024);
  const std::byte* begin = rest.data();
  const Arena::Block front = rest.take_front(130);
  EXPECT_EQ(front.data(), begin);
  EXPECT_EQ(front.num_bytes(), 256u);
  EXPECT_EQ(rest.data(), begin + 256);
  EXPECT_EQ(rest.num_bytes(), 768u);
  EXPECT_EQ(rest.take_front(0).data(), nullptr);
}

TEST_F(ArenaTest, TensorsOutliveTheArenaAndMayDieOnAnyThread) {
  std::vector<Tensor> tensors;
  for (int i = 0; i < 64; ++i) tensors.push_back(make_tensor(arena_->reserve(4096), {1024}, DType::kInt32));
  for (std::int32_t i = 0; i < 64; ++i) *tensors[static_cast<std::size_t>(i)].data<std::int32_t>() = i;
  arena_.reset();
  for (std::int32_t i = 0; i < 64; ++i)
    EXPECT_EQ(*tensors[static_cast<std::size_t>(i)].data<std::int32_t>(), i);
  std::thread other(
      [half = std::vector<Tensor>(tensors.begin(), tensors.begin() + 32)]() mutable { half.clear(); });
  tensors.clear();
  other.join();
}

TEST_F(ArenaTest, TrimGivesIdleChunksBackAndKeepsUsedOnes) {
  const Tensor used = make_tensor(arena_->reserve(64), {16}, DType::kInt32);
  std::ranges::fill(used.values<std::int32_t>(), 7);
  { const Arena::Block idle = arena_->reserve(100 << 20); }
  const std::size_t before = arena_->num_bytes();
  const std::size_t given_back = arena_->trim();
  EXPECT_GE(given_back, std::size_t{100} << 20);
  EXPECT_EQ(arena_->num_bytes(), before - given_back);
  EXPECT_EQ(arena_->trim(), 0u);
  EXPECT_EQ(used.values<std::int32_t>()[15], 7);
  const Arena::Block again = arena_->reserve(100 << 20);
  EXPECT_TRUE(arena_->locate(again.data(), 100 << 20).has_value());
}

TEST_F(ArenaTest, LimitIsAnErrorThatSaysWhatWouldFit) {
  const auto limited = std::make_shared<Arena>(comm_.transport().split(0, 0), std::size_t{40} << 20);
  const Arena::Block used = limited->reserve(10 << 20);
  { const Arena::Block idle = limited->reserve(9 << 20); }
  // Fits only after the idle chunk has gone and without headroom.
  const Arena::Block large = limited->reserve(25 << 20);
  try {
    limited->reserve(6 << 20);
    FAIL() << "the limit was ignored";
  } catch (const OutOfMemory& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("asked its arena for 6291456 bytes"), std::string::npos) << what;
    EXPECT_NE(what.find("at most 41943040 (max_arena_bytes)"), std::string::npos) << what;
  }
  EXPECT_LE(limited->num_bytes(), std::size_t{40} << 20);
}

}  // namespace
}  // namespace flexep
