// SPDX-License-Identifier: Apache-2.0
#include "routing/waves.h"

#include <algorithm>

#include "common/check.h"
#include "common/math.h"

namespace flexep {
namespace {

// A message that takes a network longer than its latency, and of which a cache holds a few.
constexpr std::size_t kTargetMessageBytes = 768 << 10;
// A rank's own that are under way, the one that is packed, or summed, among them. Between asking whether a
// long message may come and having the answer others keep the network busy: 2.5 MB in the two milliseconds of
// 10 Gbit/s over a delay of one. More is no gain: MPI mixes messages that are under way together, so that all
// come late.
constexpr std::size_t kBytesUnderWay = 3'200'000;
// One is packed, or summed, while another one crosses.
constexpr std::size_t kMinOwn = 2;

// The most tokens whose waves fit, each of which takes `token_bytes` of all the room.
int fit_tokens(std::size_t token_bytes, std::size_t message_token_bytes, const WaveLimits& limits) {
  const std::size_t fitting = limits.max_staging_bytes / token_bytes;
  require_argument(fitting > 0, "max_staging_bytes",
                   "max_staging_bytes is {}, but rows that cross domains here need at least {}",
                   limits.max_staging_bytes, token_bytes);
  const std::size_t useful = std::max<std::size_t>(1, kTargetMessageBytes / message_token_bytes);
  const auto most = static_cast<std::size_t>(std::max(1, limits.num_max_tokens_per_rank));
  return static_cast<int>(std::min({fitting, useful, most}));
}

// As many waves more as there is use and room for, each with `num_slots_per_wave` slots.
void add_waves(Waves& waves, int num_slots_per_wave, const WaveLimits& limits) {
  const std::size_t wave_bytes =
      waves.own_bytes + static_cast<std::size_t>(num_slots_per_wave) * waves.slot_bytes;
  const std::size_t fitting = (limits.max_staging_bytes - waves.extra_bytes) / wave_bytes;
  const auto most =
      static_cast<std::size_t>(ceil_div(std::max(1, limits.num_max_tokens_per_rank), waves.num_tokens));
  const std::size_t useful = ceil_div(kBytesUnderWay, waves.own_bytes);
  waves.num_own = static_cast<int>(std::max(kMinOwn, std::min({fitting, most, useful})));
  waves.num_slots = waves.num_own * num_slots_per_wave;
}

}  // namespace

OutputFormat wave_format(const OutputFormat& format) {
  return {.do_expand = false,
          .num_topk = format.num_topk,
          .row_bytes = format.row_bytes,
          .idx_bytes = sizeof(std::int64_t),
          .weight_bytes = format.weight_bytes,
          .num_sf_packs = format.num_sf_packs,
          .sf_is_col_major = false,
          .has_metadata = false};
}

Waves plan_dispatch_waves(const OutputFormat& format, const WaveLimits& limits) {
  // A message is no larger than its tokens would be one by one.
  const std::size_t token_bytes = OutputLayout(wave_format(format), {.num_recv_tokens = 1}).num_bytes();
  const auto fanout = static_cast<std::size_t>(std::min(format.num_topk, limits.num_partners));
  Waves waves{.num_tokens = fit_tokens(kMinOwn * 2 * fanout * token_bytes, token_bytes, limits)};
  waves.slot_bytes = static_cast<std::size_t>(waves.num_tokens) * token_bytes;
  waves.own_bytes = fanout * waves.slot_bytes;
  add_waves(waves, static_cast<int>(fanout), limits);
  return waves;
}

std::size_t CombineFormat::weights_offset(int num_rows) const {
  return align_up(static_cast<std::size_t>(num_rows) * row_bytes, OutputLayout::kAlignment);
}

std::size_t CombineFormat::message_bytes(int num_rows, int num_tokens) const {
  const auto num_weights = static_cast<std::size_t>(num_tokens) * static_cast<std::size_t>(num_topk);
  return weights_offset(num_rows) + align_up(num_weights * weight_bytes, OutputLayout::kAlignment);
}

Waves plan_combine_waves(const CombineFormat& format, const WaveLimits& limits) {
  const int fanout = std::min(format.num_topk, limits.num_partners);
  const int rows_per_message = format.is_row_per_token ? 1 : format.num_topk;
  const int rows_per_token = format.is_row_per_token ? fanout : format.num_topk;
  // Each token may be alone in the messages of all its partners.
  const std::size_t own_bytes =
      static_cast<std::size_t>(rows_per_token) * align_up(format.row_bytes, OutputLayout::kAlignment) +
      static_cast<std::size_t>(fanout) * format.message_bytes(0, 1);
  const std::size_t slot_bytes = format.message_bytes(rows_per_message, 1);
  const int num_slots_per_wave = format.is_row_per_token ? fanout : 1;
  const std::size_t all_bytes =
      kMinOwn * (own_bytes + static_cast<std::size_t>(num_slots_per_wave) * slot_bytes) + format.row_bytes;
  Waves waves{.num_tokens = fit_tokens(all_bytes, slot_bytes, limits)};
  const auto num_tokens = static_cast<std::size_t>(waves.num_tokens);
  waves.own_bytes = num_tokens * own_bytes;
  waves.slot_bytes = num_tokens * slot_bytes;
  waves.extra_bytes = num_tokens * format.row_bytes;
  add_waves(waves, num_slots_per_wave, limits);
  return waves;
}

}  // namespace flexep
