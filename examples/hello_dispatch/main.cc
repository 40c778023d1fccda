// SPDX-License-Identifier: Apache-2.0
//
// Two ranks, as threads of this process, send their tokens to the ranks that own the tokens' experts and get
// the experts' answers back, summed.

#include <flexep/flexep.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

namespace {

constexpr int kNumExperts = 4;  // rank 0 owns experts 0 and 1, rank 1 owns 2 and 3
constexpr int kNumTokens = 3;
constexpr int kTopk = 2;
constexpr int kHidden = 8;

// A stand-in for a neural network: expert e multiplies by e + 1.
float scale_of(int expert) {
  return static_cast<float>(expert + 1);
}

// Runs this rank's experts on the rows that arrived for each of them.
void run_experts(const flexep::DispatchResult& recv, int first_expert, const flexep::Tensor& out) {
  const auto num_rows = recv.handle.num_recv_tokens_per_expert();
  const auto start_row = recv.handle.expert_start_rows();
  for (std::size_t i = 0; i < num_rows.size(); ++i) {
    const float scale = scale_of(first_expert + static_cast<int>(i));
    for (int row = start_row[i]; row < start_row[i] + num_rows[i]; ++row) {
      const float weight = recv.topk_weights.data<float>()[row];
      for (int column = 0; column < kHidden; ++column) {
        const int at = row * kHidden + column;
        out.data<float>()[at] = weight * scale * recv.x.data<float>()[at];
      }
    }
  }
}

void run_rank(flexep::Communicator& comm) {
  flexep::ElasticBuffer buffer(comm);

  // Token t of every rank is all ones and goes to experts t and t + 1, with weights 0.75 and 0.25.
  const flexep::Tensor x = flexep::Tensor::from_values<float>(std::vector<float>(kNumTokens * kHidden, 1.0f),
                                                              {kNumTokens, kHidden});
  const flexep::Tensor topk_idx = flexep::Tensor::from_values<std::int64_t>(
      std::vector<std::int64_t>{0, 1, 1, 2, 2, 3}, {kNumTokens, kTopk});
  const flexep::Tensor topk_weights = flexep::Tensor::from_values<float>(
      std::vector<float>{0.75f, 0.25f, 0.75f, 0.25f, 0.75f, 0.25f}, {kNumTokens, kTopk});

  // do_expand: one row for each (token, local expert), grouped by expert.
  const flexep::DispatchResult recv = buffer.dispatch({.x = x,
                                                       .topk_idx = topk_idx,
                                                       .topk_weights = topk_weights,
                                                       .num_experts = kNumExperts,
                                                       .do_expand = true});
  const flexep::Tensor y = buffer.empty(recv.x.shape(), recv.x.dtype());
  run_experts(recv, comm.rank() * kNumExperts / comm.num_ranks(), y);
  const flexep::CombineResult out = buffer.combine({.x = y, .handle = recv.handle});

  for (int t = 0; t < kNumTokens; ++t) {
    std::printf("rank %d of %d, token %d: %.2f\n", comm.rank(), comm.num_ranks(), t,
                static_cast<double>(out.x.data<float>()[t * kHidden]));
  }
}

}  // namespace

int main() {
  try {
    flexep::in_process(2, run_rank);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "hello_dispatch: %s\n", error.what());
    return 1;
  }
}
