// SPDX-License-Identifier: Apache-2.0
//
// The free pieces of a GPU's arena, with fences of the test's own: what is a point of a CUDA stream there is
// a number here.
#include "backend/cuda/free_list.h"

#include <gtest/gtest.h>

#include <vector>

namespace flexep::cuda {
namespace {

struct Point {
  int stream;
  int number;
  bool covers(const Point& other) const { return stream == other.stream && number >= other.number; }
};

using Pieces = FreeList<Point>;

std::shared_ptr<const Point> point(int stream, int number) {
  return std::make_shared<const Point>(Point{stream, number});
}

/// {stream, number} of each fence.
std::vector<std::pair<int, int>> fences_of(const Pieces::Piece& piece) {
  std::vector<std::pair<int, int>> fences;
  for (const auto& fence : piece.fences) fences.emplace_back(fence->stream, fence->number);
  return fences;
}

using Fences = std::vector<std::pair<int, int>>;

TEST(FreeListTest, NeighboursBecomeOnePiece) {
  Pieces pieces;
  pieces.give({0, 128, {}});
  pieces.give({256, 128, {}});
  EXPECT_FALSE(pieces.take(384));
  pieces.give({128, 128, {}});
  const auto taken = pieces.take(384);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->offset, 0u);
  EXPECT_FALSE(pieces.take(1));
}

TEST(FreeListTest, WhatIsLeftOfAPieceStaysBehindItsFences) {
  Pieces pieces;
  pieces.give({0, 512, {point(1, 5)}});
  EXPECT_EQ(fences_of(*pieces.take(128)), (Fences{{1, 5}}));
  const auto rest = pieces.take_largest();
  ASSERT_TRUE(rest);
  EXPECT_EQ(rest->offset, 128u);
  EXPECT_EQ(rest->num_bytes, 384u);
  EXPECT_EQ(fences_of(*rest), (Fences{{1, 5}}));
}

TEST(FreeListTest, OfTheFencesOfAStreamTheLastIsKept) {
  Pieces pieces;
  pieces.give({0, 128, {point(1, 5), point(2, 1)}});
  pieces.give({128, 128, {point(1, 7)}});
  pieces.give({256, 128, {point(1, 6), point(2, 3)}});
  auto fences = fences_of(*pieces.take(384));
  std::ranges::sort(fences);
  EXPECT_EQ(fences, (Fences{{1, 7}, {2, 3}}));
}

TEST(FreeListTest, TellsWhatIsFreeAtTheEnd) {
  Pieces pieces;
  EXPECT_EQ(pieces.bytes_before(256), 0u);
  pieces.give({128, 128, {}});
  EXPECT_EQ(pieces.bytes_before(256), 128u);
  EXPECT_EQ(pieces.bytes_before(512), 0u);
}

TEST(FreeListTest, GivesUpItsEnd) {
  Pieces pieces;
  pieces.give({128, 512, {point(1, 5)}});
  const auto taken = pieces.take_end(384);
  EXPECT_EQ(taken.offset, 256u);
  EXPECT_EQ(taken.num_bytes, 384u);
  EXPECT_EQ(fences_of(taken), (Fences{{1, 5}}));
  EXPECT_EQ(pieces.bytes_before(256), 128u);
  EXPECT_EQ(pieces.take_end(128).offset, 128u);
  EXPECT_FALSE(pieces.take_largest());
}

}  // namespace
}  // namespace flexep::cuda
