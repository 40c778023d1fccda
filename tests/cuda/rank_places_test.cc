// SPDX-License-Identifier: Apache-2.0
//
// Which ranks reach each other, from what they have told: decided without a GPU.
#include "backend/cuda/rank_places.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "flexep/error.h"

namespace flexep::cuda {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint64_t kGpuBytes = 80;

/// Ranks of the GPUs with these numbers: processes, unless are_threads.
std::vector<RankPlace> ranks_on(const std::vector<int>& gpus, bool are_threads = false) {
  std::vector<RankPlace> places;
  for (const int gpu : gpus) {
    RankPlace place{.gpu_bytes = kGpuBytes};
    place.process[0] = are_threads ? 7 : static_cast<std::uint32_t>(places.size());
    place.gpu[0] = static_cast<char>(gpu);
    places.push_back(place);
  }
  return places;
}

/// Every pair of different GPUs has `between`.
std::vector<Reach> reach_of(const std::vector<RankPlace>& places, Reach between = Reach::kPeerAccess) {
  std::vector<Reach> reach;
  for (const RankPlace& from : places) {
    for (const RankPlace& to : places) reach.push_back(from.is_on_gpu_of(to) ? Reach::kSameGpu : between);
  }
  return reach;
}

std::string refusal_of(const RankPlaces& places) {
  try {
    places.require_usable();
  } catch (const InvalidArgument& error) {
    EXPECT_EQ(error.argument(), "device");
    return error.what();
  }
  return "";
}

TEST(RankPlacesTest, GpusWithPeerAccessAreUsable) {
  for (const bool are_threads : {false, true}) {
    const auto places = ranks_on({0, 0, 1, 2}, are_threads);
    const RankPlaces ranks(places, reach_of(places));
    EXPECT_EQ(refusal_of(ranks), "");
    EXPECT_EQ(ranks.are_threads(), are_threads);
  }
}

TEST(RankPlacesTest, GpusThatAProcessDoesNotSeeAreTried) {
  const auto places = ranks_on({0, 1});
  EXPECT_EQ(refusal_of(RankPlaces(places, reach_of(places, Reach::kNotVisible))), "");
}

TEST(RankPlacesTest, ThePairWithoutPeerAccessIsNamed) {
  const auto places = ranks_on({0, 1, 2, 2});
  auto reach = reach_of(places);
  reach[4 * 1 + 3] = Reach::kNoPeerAccess;
  const std::string refusal = refusal_of(RankPlaces(places, reach));
  EXPECT_THAT(refusal, HasSubstr("rank 1 (GPU-01000000-0000-0000-0000-000000000000) cannot reach"));
  EXPECT_THAT(refusal, HasSubstr("rank 3 (GPU-02000000-"));
}

TEST(RankPlacesTest, ThreadsBesideProcessesAreRefused) {
  auto places = ranks_on({0, 0, 0});
  places[2].process = places[1].process;
  EXPECT_THAT(refusal_of(RankPlaces(places, reach_of(places))), HasSubstr("threads of one process"));
}

TEST(RankPlacesTest, RanksOfOneGpuShareItsMemoryAndNoLink) {
  const auto places = ranks_on({0, 0, 0, 0});
  const RankPlaces ranks(places, reach_of(places));
  EXPECT_EQ(ranks.num_ranks_on_gpu_of(2), 4);
  EXPECT_EQ(ranks.reserved_bytes(2), kGpuBytes / 2);
  EXPECT_THAT(ranks.across_link(2), IsEmpty());
}

TEST(RankPlacesTest, OtherGpusAreAcrossALink) {
  const auto places = ranks_on({0, 1, 1, 2});
  const RankPlaces ranks(places, reach_of(places));
  EXPECT_THAT(ranks.across_link(1), ElementsAre(1, 0, 0, 1));
  EXPECT_THAT(ranks.across_link(3), ElementsAre(1, 1, 1, 0));
  EXPECT_EQ(ranks.num_ranks_on_gpu_of(0), 1);
  EXPECT_EQ(ranks.num_ranks_on_gpu_of(1), 2);
  EXPECT_EQ(ranks.reserved_bytes(0), kGpuBytes);
}

}  // namespace
}  // namespace flexep::cuda
