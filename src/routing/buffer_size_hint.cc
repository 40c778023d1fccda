// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "common/check.h"
#include "common/math.h"
#include "flexep/plan_model.h"

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

Int direct_bytes(const BufferSizeInputs& in, Int num_topk) {
  const Int num_ranks = in.num_scaleup_ranks;
  const Int n = in.num_max_tokens_per_rank;
  const bool all_nvlink = in.num_nvlink_ranks == 0 || in.num_nvlink_ranks == in.num_scaleup_ranks;
  const bool reduce = in.allow_multiple_reduction;
  const Int dispatch_slots = (all_nvlink ? 0 : 1) * n + num_ranks * n;
  const Int combine_slots = (all_nvlink ? 0 : num_ranks) * n * (reduce ? 1 : num_topk) +
                            (reduce ? std::min(num_ranks, num_topk) : num_topk) * n;
  return std::max(dispatch_token_bytes(in, num_topk) * dispatch_slots,
                  combine_token_bytes(in, num_topk) * combine_slots);
}

Int hybrid_bytes(const BufferSizeInputs& in, Int num_topk) {
  const Int so = in.num_scaleout_ranks;
  const Int su = in.num_scaleup_ranks;
  const Int n = in.num_max_tokens_per_rank;
  const bool reduce = in.allow_multiple_reduction;
  const Int dispatch_slots = su * so * n + n + so * (n + kScaleoutSlack);
  const Int combine_slots = (reduce ? std::min(su, num_topk) : num_topk) * so * n +
                            (reduce ? std::min(so, num_topk) : num_topk) * n +
                            (reduce ? 1 : num_topk) * so * (n + kScaleoutSlack);
  return std::max(dispatch_token_bytes(in, num_topk) * dispatch_slots,
                  combine_token_bytes(in, num_topk) * combine_slots);
}

}  // namespace

std::int64_t get_buffer_size_hint(const BufferSizeInputs& in) {
  require_argument(in.num_scaleout_ranks > 0 && in.num_scaleup_ranks > 0 && in.num_nvlink_ranks >= 0,
                   "num_scaleup_ranks", "a topology of {} x {} ranks is empty", in.num_scaleout_ranks,
                   in.num_scaleup_ranks);
  require_argument(in.num_max_tokens_per_rank > 0, "num_max_tokens_per_rank",
                   "num_max_tokens_per_rank is {}, but must be positive", in.num_max_tokens_per_rank);
  require_argument(in.hidden > 0 && 2 * in.hidden % kTokenAlignment == 0, "hidden",
                   "hidden is {}, but a bf16 row must be a positive multiple of {} bytes", in.hidden,
                   kTokenAlignment);
  const Int num_topk = in.num_topk == 0 ? kAssumedTopk : in.num_topk;
  const Int num_bytes = in.num_scaleout_ranks > 1 ? hybrid_bytes(in, num_topk) : direct_bytes(in, num_topk);
  return align_up(num_bytes, kBufferAlignment);
}

}  // namespace flexep
