// SPDX-License-Identifier: Apache-2.0
//
// Dispatch, data phase: each row is read once and stored at its final places.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "backend/cpu/cpu_backend.h"
#include "kernels/cpu/scatter_rows.h"

namespace flexep::cpu {
namespace {

// Calls body(pair) for the pairs of `token` that stand for a payload row: every one in the expanded layout,
// one per (token, rank) in the compact one.
template <typename Body>
void for_rows(const PushJob& job, int token, Body body) {
  const SendPlan& plan = *job.plan;
  if (job.do_expand) {
    for (std::size_t pair = plan.pair(token, 0); pair < plan.pair(token + 1, 0); ++pair) {
      if (plan.is_routed(pair)) body(pair);
    }
  } else {
    for (const std::int64_t master : plan.masters_of(token)) body(static_cast<std::size_t>(master));
  }
}

const PushTarget& target_of(const PushJob& job, std::size_t pair) {
  return job.targets[static_cast<std::size_t>(job.plan->owner[pair])];
}

void push_payload(const PushJob& job, int begin, int end) {
  const SendPlan& plan = *job.plan;
  std::vector<std::int64_t> dst_begin;
  std::vector<std::byte*> dsts;
  dst_begin.reserve(static_cast<std::size_t>(end - begin) + 1);
  dsts.reserve(static_cast<std::size_t>(end - begin) * static_cast<std::size_t>(plan.num_topk));
  dst_begin.push_back(0);
  for (int token = begin; token < end; ++token) {
    for_rows(job, token, [&](std::size_t pair) {
      dsts.push_back(target_of(job, pair).x + static_cast<std::size_t>(plan.row[pair]) * job.row_bytes);
    });
    dst_begin.push_back(static_cast<std::int64_t>(dsts.size()));
  }
  const auto total_rows =
      std::accumulate(plan.num_rows_per_rank.begin(), plan.num_rows_per_rank.end(), std::size_t{0});
  scatter_rows({.src = job.x + static_cast<std::size_t>(begin) * job.x_stride,
                .src_stride = job.x_stride,
                .row_bytes = job.row_bytes,
                .dst_begin = dst_begin,
                .dsts = dsts},
               choose_store_mode(total_rows * job.row_bytes));
}

void push_scales(const PushJob& job, int token, const PushTarget& target, std::int64_t row) {
  const std::uint32_t* from = job.sf + token * job.sf_row_stride;
  std::uint32_t* to = target.sf + row * target.sf_row_stride;
  if (job.sf_pack_stride == 1 && target.sf_pack_stride == 1) {
    std::memcpy(to, from, static_cast<std::size_t>(job.num_sf_packs) * sizeof(*to));
    return;
  }
  for (std::int64_t pack = 0; pack < job.num_sf_packs; ++pack) {
    to[pack * target.sf_pack_stride] = from[pack * job.sf_pack_stride];
  }
}

// The pairs of `token` whose experts `owner` owns, as the receiver sees them: local ids and weights, nothing
// elsewhere. Written without a branch on who owns a pair, which is random.
template <typename Id, typename Weight>
void push_compact_pairs(const PushJob& job, int token, int owner, std::size_t slot) {
  const SendPlan& plan = *job.plan;
  const PushTarget& target = job.targets[static_cast<std::size_t>(owner)];
  const auto num_topk = static_cast<std::size_t>(plan.num_topk);
  const std::size_t first_pair = plan.pair(token, 0);
  const std::int32_t* owners = plan.owner.data() + first_pair;
  const std::int64_t* experts = job.topk_idx.data() + first_pair;
  const std::int64_t first_expert = std::int64_t{owner} * job.num_local_experts;
  Id* ids = reinterpret_cast<Id*>(target.topk_idx) + slot * num_topk;
  for (std::size_t k = 0; k < num_topk; ++k) {
    ids[k] = static_cast<Id>(owners[k] == owner ? experts[k] - first_expert : -1);
  }
  if (target.topk_weights == nullptr) return;
  const Weight* from = reinterpret_cast<const Weight*>(job.topk_weights) + first_pair;
  Weight* weights = reinterpret_cast<Weight*>(target.topk_weights) + slot * num_topk;
  for (std::size_t k = 0; k < num_topk; ++k) weights[k] = owners[k] == owner ? from[k] : Weight{0};
}

void push_metadata(const PushJob& job, int token, std::size_t last_pair) {
  const SendPlan& plan = *job.plan;
  const int owner = plan.owner[last_pair];
  const auto num_topk = static_cast<std::size_t>(plan.num_topk);
  const std::size_t first_pair = plan.pair(token, 0);
  std::int32_t* row = job.targets[static_cast<std::size_t>(owner)].metadata +
                      static_cast<std::size_t>(plan.token_slot[last_pair]) * (num_topk + 2);
  const int src_token = job.src_tokens.empty() ? token : job.src_tokens[static_cast<std::size_t>(token)];
  row[0] = job.rank * job.num_max_tokens_per_rank + src_token;
  row[1] = job.rank * plan.num_topk + static_cast<std::int32_t>(last_pair - first_pair);
  for (std::size_t column = 0; column < num_topk; ++column) {
    const std::size_t pair = first_pair + column;
    row[2 + column] = job.do_expand && plan.owner[pair] == owner ? plan.row[pair] : -1;
  }
}

using PushPairs = void (*)(const PushJob& job, int token, int owner, std::size_t slot);

// For the types of ids and weights, of which dispatch knows only the size.
PushPairs push_pairs_for(const PushJob& job) {
  const bool wide_weights = job.weight_bytes == sizeof(double);
  if (job.idx_bytes == sizeof(std::int32_t)) {
    return wide_weights ? push_compact_pairs<std::int32_t, double> : push_compact_pairs<std::int32_t, float>;
  }
  return wide_weights ? push_compact_pairs<std::int64_t, double> : push_compact_pairs<std::int64_t, float>;
}

void push_side_data(const PushJob& job, int begin, int end) {
  const PushPairs push_pairs = push_pairs_for(job);
  const SendPlan& plan = *job.plan;
  for (int token = begin; token < end; ++token) {
    for_rows(job, token, [&](std::size_t pair) {
      const PushTarget& target = target_of(job, pair);
      if (job.num_sf_packs > 0) push_scales(job, token, target, plan.row[pair]);
      if (job.do_expand && target.topk_weights != nullptr) {
        std::memcpy(target.topk_weights + static_cast<std::size_t>(plan.row[pair]) * job.weight_bytes,
                    job.topk_weights + pair * job.weight_bytes, job.weight_bytes);
      }
    });
    for (const std::int64_t master : plan.masters_of(token)) {
      const auto pair = static_cast<std::size_t>(master);
      if (!job.do_expand) {
        push_pairs(job, token, plan.owner[pair], static_cast<std::size_t>(plan.token_slot[pair]));
      }
      if (target_of(job, pair).metadata != nullptr) push_metadata(job, token, pair);
    }
  }
}

}  // namespace

void CpuBackend::push(const PushJob& job, int width) {
  for_pieces(pool(width), job.plan->num_tokens, [&](int begin, int end) {
    push_payload(job, begin, end);
    push_side_data(job, begin, end);
  });
}

}  // namespace flexep::cpu
