// SPDX-License-Identifier: Apache-2.0
#include "routing/waves.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/carried_waves.h"
#include "flexep/error.h"

namespace flexep {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

const OutputFormat kRows{.num_topk = 8, .row_bytes = 14336, .weight_bytes = 4};
const CombineFormat kRowPerToken{.num_topk = 8, .row_bytes = 14336, .weight_bytes = 4};
const CombineFormat kRowPerPair{
    .num_topk = 8, .row_bytes = 14336, .weight_bytes = 4, .is_row_per_token = false};

WaveLimits limits(std::size_t max_staging_bytes, int num_partners) {
  return {
      .max_staging_bytes = max_staging_bytes, .num_partners = num_partners, .num_max_tokens_per_rank = 4096};
}

TEST(WavesTest, StayWithinTheirRoomHoweverManyPartnersThereAre) {
  for (const std::size_t room : {2 << 20, 7'654'321, 64 << 20}) {
    for (const int num_partners : {1, 3, 8, 63, 4095}) {
      EXPECT_LE(plan_dispatch_waves(kRows, limits(room, num_partners)).num_bytes(), room);
      EXPECT_LE(plan_combine_waves(kRowPerToken, limits(room, num_partners)).num_bytes(), room);
      EXPECT_LE(plan_combine_waves(kRowPerPair, limits(room, num_partners)).num_bytes(), room);
    }
  }
}

TEST(WavesTest, MessagesAreLargeWhereThereIsRoom) {
  const Waves waves = plan_dispatch_waves(kRows, limits(64 << 20, 1));
  EXPECT_GE(waves.slot_bytes, 750'000u);
  EXPECT_LE(waves.slot_bytes, 768u << 10);
}

TEST(WavesTest, AsMuchIsUnderWayAsALongCableHolds) {
  constexpr std::size_t kCableBytes = 2'500'000;  // 10 Gbit/s over a delay of a millisecond, there and back
  for (const int num_partners : {1, 3, 63}) {
    for (const Waves& waves : {plan_dispatch_waves(kRows, limits(64 << 20, num_partners)),
                               plan_combine_waves(kRowPerToken, limits(64 << 20, num_partners)),
                               plan_combine_waves(kRowPerPair, limits(64 << 20, num_partners))}) {
      EXPECT_GT(static_cast<std::size_t>(waves.num_own) * waves.own_bytes, kCableBytes);
      EXPECT_GE(waves.num_slots, waves.num_own);
    }
  }
}

TEST(WavesTest, TwoAreUnderWayWhereThereIsLittleRoom) {
  EXPECT_EQ(plan_dispatch_waves(kRows, limits(200'000, 1)).num_own, 2);
  EXPECT_EQ(plan_combine_waves(kRowPerPair, limits(1'000'000, 1)).num_own, 2);
}

TEST(WavesTest, NoWaveHasMoreTokensThanARank) {
  EXPECT_EQ(
      plan_dispatch_waves(kRows, {.max_staging_bytes = 64 << 20, .num_max_tokens_per_rank = 5}).num_tokens,
      5);
}

TEST(WavesTest, RoomForNoTokenIsRefusedWithWhatIsNeeded) {
  EXPECT_THAT([] { plan_combine_waves(kRowPerPair, limits(100'000, 2)); },
              ThrowsMessage<InvalidArgument>(HasSubstr("max_staging_bytes is 100000, but rows")));
}

TEST(WavesTest, CarriedTokensComeByWaveAndThenByStream) {
  std::vector<CarriedTokens> carried(2);
  carried[0].tokens = {0, 3, 4, 11};
  carried[1].tokens = {2, 9};
  std::vector<std::vector<int>> waves;
  for (const CarriedWave& wave : list_carried_waves(carried, 4))
    waves.push_back({wave.wave, static_cast<int>(wave.stream), wave.begin, wave.end});
  EXPECT_THAT(waves, testing::ElementsAre(testing::ElementsAre(0, 0, 0, 2), testing::ElementsAre(0, 1, 0, 1),
                                          testing::ElementsAre(1, 0, 2, 3), testing::ElementsAre(2, 0, 3, 4),
                                          testing::ElementsAre(2, 1, 1, 2)));
}

}  // namespace
}  // namespace flexep
