// SPDX-License-Identifier: Apache-2.0
#include "cuda/stress/round.h"

#include <algorithm>
#include <numeric>

#include "conformance/random.h"

namespace flexep::stress {
namespace {

using conformance::Random;

constexpr int kMaxDeviceSleepUs = 300;
constexpr int kMaxHostSleepUs = 500;

int draw_num_tokens(Random& random, bool do_cpu_sync) {
  if (random.one_in(8)) return 0;
  if (random.one_in(4)) return random.in_range(1, 3);
  if (do_cpu_sync && random.one_in(10)) return random.in_range(kNoSyncMaxTokens, kMaxTokens);
  return random.in_range(1, random.one_in(4) ? kNoSyncMaxTokens : 20);
}

/// [T, K], distinct in a row but for -1.
std::vector<std::int64_t> draw_routing(Random& random, const Round& round, int num_tokens) {
  // All tokens to few experts, or to all of them; some of the pairs to none.
  const int num_chosen = random.one_in(4) ? round.num_topk : round.num_experts;
  const int one_in_how_many_is_absent = random.one_of({1, 2, 4, 8, 1000});
  const bool is_absent = random.one_in(30);
  std::vector<std::int64_t> experts(static_cast<std::size_t>(round.num_experts));
  std::iota(experts.begin(), experts.end(), 0);
  std::rotate(experts.begin(), experts.begin() + random.in_range(0, round.num_experts - 1), experts.end());
  std::vector<std::int64_t> ids;
  for (int token = 0; token < num_tokens; ++token) {
    for (int column = 0; column < round.num_topk; ++column) {
      std::swap(experts[static_cast<std::size_t>(column)],
                experts[static_cast<std::size_t>(random.in_range(column, num_chosen - 1))]);
      const bool goes_nowhere =
          is_absent || (one_in_how_many_is_absent > 1 && random.one_in(one_in_how_many_is_absent));
      ids.push_back(goes_nowhere ? -1 : experts[static_cast<std::size_t>(column)]);
    }
  }
  return ids;
}

}  // namespace

float Round::topk_weight(int rank, int token, int column) const {
  return static_cast<float>(1 + column + 16 * (token + 1024 * (rank + 16 * (idx % 32))));
}

Round draw_round(std::uint64_t seed, int idx, int num_ranks) {
  Random random(seed, static_cast<std::uint64_t>(idx));
  Round round{.idx = idx, .buffer_idx = random.in_range(0, kNumBuffers - 1)};
  round.dtype = random.one_of({DType::kBFloat16, DType::kBFloat16, DType::kFloat16, DType::kFloat32});
  round.hidden = random.one_in(20) ? 7168 : random.one_of({8, 24, 128, 256, 512, 1000, 2048});
  round.num_experts = num_ranks * random.one_of({1, 2, 4, 8});
  round.num_topk = random.in_range(1, std::min(kMaxTopk, round.num_experts));
  round.expert_alignment = random.one_of({1, 1, 4, kMaxAlignment});
  round.do_expand = random.one_in(2);
  round.do_zero_padding = round.do_expand && random.one_in(2);
  round.do_cpu_sync = random.one_in(2);
  round.has_weights = random.one_in(2);
  round.repeats_cached = random.one_in(3);
  round.num_rounds_until_combine = random.one_in(2) ? 0 : random.in_range(1, kMaxDelay);
  for (int rank = 0; rank < num_ranks; ++rank)
    round.topk_idx.push_back(draw_routing(random, round, draw_num_tokens(random, round.do_cpu_sync)));
  return round;
}

Manner draw_manner(std::uint64_t seed, int round_idx, int rank) {
  Random random(~seed, static_cast<std::uint64_t>(round_idx) * 1024 + static_cast<std::uint64_t>(rank));
  Manner manner;
  if (random.one_in(10)) manner.host_sleep_us = random.in_range(1, kMaxHostSleepUs);
  if (random.one_in(5)) manner.device_sleep_us = random.in_range(1, kMaxDeviceSleepUs);
  manner.stream_idx = random.in_range(0, 1);
  manner.combine_stream_idx = random.in_range(0, 1);
  manner.num_sms = random.one_of({0, 1, 2, 5, 8, 12});
  manner.is_async = random.one_in(3);
  manner.is_combine_async = random.one_in(3);
  manner.follows_other_stream = random.one_in(4);
  manner.has_arena_input = random.one_in(2);
  manner.expert_output = random.one_of(
      {ExpertOutput::kInPlace, ExpertOutput::kArena, ExpertOutput::kOrdinary, ExpertOutput::kRegistered});
  return manner;
}

}  // namespace flexep::stress
