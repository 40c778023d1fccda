// SPDX-License-Identifier: Apache-2.0
//
// docs/numerics.md, "Dispatchers": how far rounding takes the sums of different dispatchers, and which are
// the same bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "dispatcher_cases.h"

namespace flexep::moe {
namespace {

using testing::all_dispatchers;
using testing::Batch;
using testing::DispatcherKind;
using testing::Grid;
using testing::Matrix;
using testing::Row;
using testing::rows_of;

constexpr int kHidden = 8, kTopk = 4;

MoeConfig wide_config(const Grid& grid, const DispatcherKind& kind) {
  MoeConfig config = testing::config_of(grid, kind);
  config.hidden_size = kHidden;
  config.moe_router_topk = kTopk;
  config.params_dtype = DType::kFloat32;
  return config;
}

// Random numbers of every size, so that sums round.
Batch rounding_batch(int num_ranks) {
  Batch batch{.num_tokens = testing::ragged_tokens(num_ranks), .hidden = {}, .probs = {}, .routing_map = {}};
  const std::size_t total = batch.first_token(num_ranks);
  batch.hidden = testing::random_matrix(total, kHidden, 1);
  for (Row& row : batch.hidden)
    for (double& value : row) value = std::exp(4 * value) * (value < 0 ? -1 : 1);
  batch.probs = batch.routing_map = Matrix(total, Row(8));
  const Matrix scores = testing::random_matrix(total, 8, 2);
  for (std::size_t token = 0; token < total; ++token) {
    for (const std::size_t expert : testing::largest(scores[token], kTopk)) {
      batch.routing_map[token][expert] = 1;
      batch.probs[token][expert] = 1.1 + scores[token][expert];
    }
  }
  return batch;
}

template <typename T>
Tensor tensor_of(const Matrix& matrix, std::int64_t num_columns) {
  Tensor tensor = Tensor::empty({static_cast<std::int64_t>(matrix.size()), num_columns}, kDTypeOf<T>);
  T* out = tensor.data<T>();
  for (const Row& row : matrix)
    for (const double value : row) *out++ = T(static_cast<float>(value));
  return tensor;
}

// What an expert makes of a value: rounded to the type of the rows.
template <typename T>
T scaled(T value, double prob, std::size_t expert, int tp_idx) {
  return T(static_cast<float>(value) * static_cast<float>(prob * testing::scale_of(expert, tp_idx)));
}

struct Sums {
  Tensor output;       // [T, H]
  Tensor grad_hidden;  // [T, H]
};

// Rank's part of the batch forward, and its output backward.
template <typename T>
Sums run(const MoeConfig& config, const Batch& batch, const std::shared_ptr<ExpertParallelGroup>& group) {
  const int rank = group->comm().rank(), tp_idx = rank % config.expert_tensor_parallel_size;
  const int ep_idx = rank / config.expert_tensor_parallel_size;
  const auto first_expert =
      static_cast<std::size_t>(ep_idx) * static_cast<std::size_t>(config.num_local_experts());
  const auto dispatcher = make_token_dispatcher(config, group);
  const Tensor hidden = tensor_of<T>(batch.share(batch.hidden, rank), kHidden);
  const auto local = dispatcher->dispatch_preprocess(
      {.hidden = hidden, .probs = tensor_of<float>(batch.share(batch.probs, rank), 8)},
      testing::map_of(batch, rank));
  const auto grouped = dispatcher->dispatch_postprocess(dispatcher->token_dispatch(local));
  const auto apply_experts = [&](const Tensor& rows) {
    Tensor out = dispatcher->empty_expert_rows();
    testing::for_each_grouped_row(grouped, [&](auto expert, auto row) {
      const double prob = grouped.tokens.probs.template data<float>()[row];
      for (std::int64_t i = row * kHidden; i < (row + 1) * kHidden; ++i)
        out.data<T>()[i] = scaled(rows.data<T>()[i], prob, first_expert + expert, tp_idx);
    });
    return out;
  };
  const Tensor output = dispatcher->combine_postprocess(
      dispatcher->token_combine(dispatcher->combine_preprocess(apply_experts(grouped.tokens.hidden))));
  const auto grads = dispatcher->dispatch_preprocess_backward(
      dispatcher->token_dispatch_backward(dispatcher->dispatch_postprocess_backward(
          {.hidden = apply_experts(grouped.tokens.hidden), .probs = grouped.tokens.probs})));
  return {.output = output, .grad_hidden = grads.hidden};
}

// Forward and backward sum the same rows here. Within 1.03 * n * u * sum |row|, n rows of a token, u the unit
// roundoff.
template <typename T>
void expect_within_bound(const MoeConfig& config, const Batch& batch, int rank, const Tensor& sums,
                         double unit_roundoff, const char* name) {
  const Matrix hidden = rows_of(tensor_of<T>(batch.share(batch.hidden, rank), kHidden));
  const Matrix probs = rows_of(tensor_of<float>(batch.share(batch.probs, rank), 8)), got = rows_of(sums);
  for (std::size_t token = 0; token < hidden.size(); ++token) {
    for (std::size_t i = 0; i < kHidden; ++i) {
      double sum = 0, magnitude = 0, num_rows = 0;
      for (std::size_t expert = 0; expert < 8; ++expert) {
        if (probs[token][expert] == 0) continue;
        for (int tp_idx = 0; tp_idx < config.expert_tensor_parallel_size; ++tp_idx, ++num_rows) {
          const T value(static_cast<float>(hidden[token][i]));
          const auto row =
              static_cast<double>(static_cast<float>(scaled(value, probs[token][expert], expert, tp_idx)));
          sum += row;
          magnitude += std::abs(row);
        }
      }
      EXPECT_NEAR(got[token][i], sum, 1.03 * num_rows * unit_roundoff * magnitude)
          << name << ", rank " << rank << ", token " << token << ", column " << i;
    }
  }
}

class DispatcherNumericsTest : public ::testing::TestWithParam<Grid> {
 protected:
  const int num_ranks = GetParam().tp * GetParam().ep;
  const Batch batch = rounding_batch(num_ranks);

  template <typename T>
  void check_bound(double unit_roundoff) {
    in_process(num_ranks, [&](Communicator& comm) {
      const auto group = std::make_shared<ExpertParallelGroup>(comm);
      for (const DispatcherKind& kind : all_dispatchers()) {
        const MoeConfig config = wide_config(GetParam(), kind);
        const Sums sums = run<T>(config, batch, group);
        expect_within_bound<T>(config, batch, comm.rank(), sums.output, unit_roundoff, kind.name);
        expect_within_bound<T>(config, batch, comm.rank(), sums.grad_hidden, unit_roundoff, kind.name);
      }
    });
  }

  // What two dispatchers make of the batch in bf16, on every rank.
  template <typename Compare>
  void compare(std::size_t a, std::size_t b, Compare&& same) {
    in_process(num_ranks, [&](Communicator& comm) {
      const auto group = std::make_shared<ExpertParallelGroup>(comm);
      const Sums x = run<BFloat16>(wide_config(GetParam(), all_dispatchers()[a]), batch, group);
      const Sums y = run<BFloat16>(wide_config(GetParam(), all_dispatchers()[b]), batch, group);
      EXPECT_TRUE(same(x.output, y.output));
      EXPECT_TRUE(same(x.grad_hidden, y.grad_hidden));
    });
  }
};

TEST_P(DispatcherNumericsTest, Bf16SumsStayWithinTheirBound) {
  check_bound<BFloat16>(0x1p-8);
}

TEST_P(DispatcherNumericsTest, Fp32SumsStayWithinTheirBound) {
  check_bound<float>(0x1p-24);
}

TEST_P(DispatcherNumericsTest, NcclEpAndFusedDeepEpV2AreTheSameBitForBit) {
  compare(4, 6, [](const Tensor& a, const Tensor& b) {
    return a.num_bytes() == b.num_bytes() && std::memcmp(a.data(), b.data(), a.num_bytes()) == 0;
  });
}

TEST_P(DispatcherNumericsTest, DeepEpAddsInTheOrderOfAllGather) {
  compare(0, 2, [](const Tensor& a, const Tensor& b) { return testing::near(rows_of(a), b, 0); });
}

INSTANTIATE_TEST_SUITE_P(Grids, DispatcherNumericsTest, ::testing::Values(Grid{1, 1}, Grid{1, 4}, Grid{2, 2}),
                         [](const auto& grid) {
                           return fmt::format("Tp{}Ep{}", grid.param.tp, grid.param.ep);
                         });

}  // namespace
}  // namespace flexep::moe
