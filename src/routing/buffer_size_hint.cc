// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>

#include "common/check.h"
#include "common/math.h"
#include "flexep/plan_model.h"
#include "routing/topk_model.h"

namespace flexep {
namespace {

using Int = std::int64_t;

constexpr Int kTokenAlignment = 32;
constexpr Int kBufferAlignment = Int{2} << 20;
constexpr Int kAssumedTopk = 32;
constexpr Int kScaleoutSlack = 1280;  // tokens of staging that each scale-out channel adds to a rank's own

Int align_token(Int num_bytes) {
  return align_up(num_bytes, kTokenAlignment);
}

// A dispatched token: its row, fp8 scales, K ids, K weights, K links and its source index.
Int dispatch_token_bytes(const BufferSizeInputs& in, Int num_topk) {
  const Int element_bytes = in.use_fp8_dispatch ? 1 : 2;
  const Int scale_bytes = in.use_fp8_dispatch ? align_token(4 * ceil_div(in.hidden, Int{32})) : 0;
  return align_token(in.hidden * element_bytes) + scale_bytes + align_token(12 * num_topk + 4);
}

// A combined token: its bf16 row, K weights and K ids.
Int combine_token_bytes(const BufferSizeInputs& in, Int num_topk) {
  return align_token(2 * in.hidden) + align_token(8 * num_topk);
}

/// Tokens that have a slot in the buffer.
struct Slots {
  Int dispatch = 0;
  Int combine = 0;
};

Slots direct_slots(const BufferSizeInputs& in, Int num_topk) {
  const Int num_ranks = in.num_scaleup_ranks;
  const Int n = in.num_max_tokens_per_rank;
  const bool all_nvlink = in.num_nvlink_ranks == 0 || in.num_nvlink_ranks == in.num_scaleup_ranks;
  const bool reduce = in.allow_multiple_reduction;
  return {.dispatch = (all_nvlink ? 0 : 1) * n + num_ranks * n,
          .combine = (all_nvlink ? 0 : num_ranks) * n * (reduce ? 1 : num_topk) +
                     (reduce ? std::min(num_ranks, num_topk) : num_topk) * n};
}

Slots hybrid_slots(const BufferSizeInputs& in, Int num_topk) {
  const Int so = in.num_scaleout_ranks;
  const Int su = in.num_scaleup_ranks;
  const Int n = in.num_max_tokens_per_rank;
  const bool reduce = in.allow_multiple_reduction;
  return {.dispatch = su * so * n + n + so * (n + kScaleoutSlack),
          .combine = (reduce ? std::min(su, num_topk) : num_topk) * so * n +
                     (reduce ? std::min(so, num_topk) : num_topk) * n +
                     (reduce ? 1 : num_topk) * so * (n + kScaleoutSlack)};
}

Int product(Int token_bytes, Int num_slots) {
  constexpr double kMaxBytes = 0x1p62;
  require_argument(static_cast<double>(token_bytes) * static_cast<double>(num_slots) < kMaxBytes,
                   "num_max_tokens_per_rank", "{} slots of {} bytes are more than 2^62 bytes", num_slots,
                   token_bytes);
  return token_bytes * num_slots;
}

// So that slots and bytes of a token fit 63 bits, and a token has a 31-bit global index.
void check(const BufferSizeInputs& in) {
  constexpr Int kMaxIndex = std::numeric_limits<std::int32_t>::max();
  constexpr Int kMaxTopk = 1024;
  const Int num_ranks = check_topology(in.num_scaleout_ranks, in.num_scaleup_ranks);
  require_argument(in.num_nvlink_ranks >= 0, "num_nvlink_ranks",
                   "num_nvlink_ranks is {}, but must not be negative", in.num_nvlink_ranks);
  require_argument(in.num_max_tokens_per_rank > 0 && in.num_max_tokens_per_rank <= kMaxIndex / num_ranks,
                   "num_max_tokens_per_rank", "num_max_tokens_per_rank is {}, outside [1, {}]",
                   in.num_max_tokens_per_rank, kMaxIndex / num_ranks);
  require_argument(in.hidden > 0 && in.hidden <= kMaxIndex && 2 * in.hidden % kTokenAlignment == 0, "hidden",
                   "hidden is {}, but a bf16 row must be a positive multiple of {} bytes", in.hidden,
                   kTokenAlignment);
  require_argument(in.num_topk >= 0 && in.num_topk <= kMaxTopk, "num_topk", "num_topk is {}, outside [0, {}]",
                   in.num_topk, kMaxTopk);
}

}  // namespace

std::int64_t get_buffer_size_hint(const BufferSizeInputs& in) {
  check(in);
  const Int num_topk = in.num_topk == 0 ? kAssumedTopk : in.num_topk;
  const Slots slots = in.num_scaleout_ranks > 1 ? hybrid_slots(in, num_topk) : direct_slots(in, num_topk);
  const Int num_bytes = std::max(product(dispatch_token_bytes(in, num_topk), slots.dispatch),
                                 product(combine_token_bytes(in, num_topk), slots.combine));
  return align_up(num_bytes, kBufferAlignment);
}

}  // namespace flexep
