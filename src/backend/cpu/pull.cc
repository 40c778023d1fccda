// SPDX-License-Identifier: Apache-2.0
//
// Combine, data phase: each token's rows are read where the experts left them and summed in registers.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "kernels/cpu/reduce_rows.h"

namespace flexep::cpu {
namespace {

/// Collects what one call of reduce_rows sums.
class RowSums {
 public:
  RowSums(int num_rows, int max_sources_per_row) {
    const auto num_sums = static_cast<std::size_t>(num_rows);
    const auto num_sources = num_sums * static_cast<std::size_t>(max_sources_per_row);
    group_begin_.reserve(num_sums + 1);
    source_begin_.reserve(num_sources + 1);
    sources_.reserve(num_sources);
    group_begin_.push_back(0);
    source_begin_.push_back(0);
  }

  void add_source(const std::byte* row) { sources_.push_back(row); }
  void end_group() { source_begin_.push_back(static_cast<std::int64_t>(sources_.size())); }
  void end_row() { group_begin_.push_back(static_cast<std::int64_t>(source_begin_.size()) - 1); }

  ReduceRows job(DType dtype, std::size_t num_columns, std::byte* out) const {
    return {.dtype = dtype,
            .num_columns = num_columns,
            .group_begin = group_begin_,
            .source_begin = source_begin_,
            .sources = sources_,
            .out = out};
  }

 private:
  std::vector<std::int64_t> group_begin_;
  std::vector<std::int64_t> source_begin_;
  std::vector<const std::byte*> sources_;
};

const std::byte* row_at(const std::byte* rows, std::int32_t row, std::size_t row_bytes) {
  return rows + static_cast<std::size_t>(row) * row_bytes;
}

// The rows of one owner, ascending by column, end with `last_pair`: one row if the owner has reduced them,
// else all.
void add_owner_rows(const PullJob& job, std::size_t first_pair, std::size_t last_pair, std::size_t row_bytes,
                    RowSums& sums) {
  const SendPlan& plan = *job.plan;
  const std::int32_t owner = plan.owner[last_pair];
  const PullSource& source = job.sources[static_cast<std::size_t>(owner)];
  if (source.is_per_token) {
    sums.add_source(row_at(source.x, plan.token_slot[last_pair], row_bytes));
    sums.end_group();
    return;
  }
  for (std::size_t pair = first_pair; pair <= last_pair; ++pair) {
    if (plan.owner[pair] == owner) sums.add_source(row_at(source.x, plan.row[pair], row_bytes));
  }
  sums.end_group();
}

// The order of docs/numerics.md: bias first, then groups by their last column, or every column by itself
// without stage L.
void add_token(const PullJob& job, int token, std::size_t row_bytes, RowSums& sums) {
  const SendPlan& plan = *job.plan;
  for (const std::byte* bias : job.bias) {
    if (bias == nullptr) continue;
    sums.add_source(row_at(bias, token, row_bytes));
    sums.end_group();
  }
  const std::size_t first_pair = plan.pair(token, 0);
  if (job.do_expand && !job.allow_multiple_reduction) {
    for (std::size_t pair = first_pair; pair < plan.pair(token + 1, 0); ++pair) {
      if (!plan.is_routed(pair)) continue;
      const PullSource& source = job.sources[static_cast<std::size_t>(plan.owner[pair])];
      sums.add_source(row_at(source.x, plan.row[pair], row_bytes));
      sums.end_group();
    }
  } else {
    for (const std::int64_t master : plan.masters_of(token))
      add_owner_rows(job, first_pair, static_cast<std::size_t>(master), row_bytes, sums);
  }
  sums.end_row();
}

void pull_payload(const PullJob& job, int begin, int end) {
  const std::size_t row_bytes = job.num_columns * size_of(job.dtype);
  RowSums sums(end - begin, job.plan->num_topk + static_cast<int>(job.bias.size()));
  for (int token = begin; token < end; ++token) add_token(job, token, row_bytes, sums);
  const int num_tokens = std::max(job.num_output_tokens, job.plan->num_tokens);
  reduce_rows(sums.job(job.dtype, job.num_columns, job.x + static_cast<std::size_t>(begin) * row_bytes),
              choose_store_mode(static_cast<std::size_t>(num_tokens) * row_bytes));
}

// Each weight comes from the rank that owns its expert; where there is none it is 0.
void pull_weights_piece(const PullJob& job, int begin, int end) {
  const SendPlan& plan = *job.plan;
  const auto num_topk = static_cast<std::size_t>(plan.num_topk);
  for (std::size_t pair = plan.pair(begin, 0); pair < plan.pair(end, 0); ++pair) {
    std::byte* weight = job.topk_weights + pair * job.weight_bytes;
    if (!plan.is_routed(pair)) {
      std::memset(weight, 0, job.weight_bytes);
      continue;
    }
    const std::size_t index =
        job.do_expand ? static_cast<std::size_t>(plan.row[pair])
                      : static_cast<std::size_t>(plan.token_slot[pair]) * num_topk + pair % num_topk;
    const PullSource& source = job.sources[static_cast<std::size_t>(plan.owner[pair])];
    std::memcpy(weight, source.topk_weights + index * job.weight_bytes, job.weight_bytes);
  }
}

void reduce_tokens_piece(const ReduceTokensJob& job, int begin, int end) {
  const std::size_t row_bytes = job.num_columns * size_of(job.dtype);
  const auto stride = static_cast<std::size_t>(job.num_topk) + 2;
  RowSums sums(end - begin, job.num_topk);
  for (int token = begin; token < end; ++token) {
    for (const std::int32_t row :
         job.metadata.subspan(static_cast<std::size_t>(token) * stride + 2, stride - 2)) {
      if (row >= 0) sums.add_source(row_at(job.x, row, row_bytes));
    }
    sums.end_group();
    sums.end_row();
  }
  reduce_rows(sums.job(job.dtype, job.num_columns, job.out + static_cast<std::size_t>(begin) * row_bytes),
              choose_store_mode(static_cast<std::size_t>(job.num_recv_tokens) * row_bytes));
}

}  // namespace

void CpuBackend::pull(const PullJob& job, int width) {
  for_pieces(pool(width), job.plan->num_tokens, [&](int begin, int end) {
    pull_payload(job, begin, end);
    if (job.topk_weights != nullptr) pull_weights_piece(job, begin, end);
  });
}

void CpuBackend::pull_weights(const PullJob& job, int width) {
  for_pieces(pool(width), job.plan->num_tokens,
             [&](int begin, int end) { pull_weights_piece(job, begin, end); });
}

void CpuBackend::reduce_tokens(const ReduceTokensJob& job, int width) {
  for_pieces(pool(width), job.num_recv_tokens,
             [&](int begin, int end) { reduce_tokens_piece(job, begin, end); });
}

}  // namespace flexep::cpu
