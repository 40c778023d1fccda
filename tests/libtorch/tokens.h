// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/torch.h>

namespace flexep::testing {

inline constexpr int kNumExperts = 4, kHidden = 4;

/// Tokens of one of two ranks: the second goes to both, the third to one expert only.
struct Tokens {
  explicit Tokens(int rank, int num_tokens = 3, c10::Device device = c10::kCPU)
      : x((torch::arange(num_tokens * kHidden, torch::kDouble).view({num_tokens, kHidden}) + 10 * rank)
              .to(device)),
        topk_idx(torch::tensor({{0, 1}, {1, 2}, {3, -1}}, torch::kLong).slice(0, 0, num_tokens).to(device)),
        weights(torch::tensor({{0.5, 0.25}, {2.0, 1.0}, {3.0, 0.0}}, torch::kDouble)
                    .slice(0, 0, num_tokens)
                    .clone()
                    .to(device)) {
    x.set_requires_grad(true);
    weights.set_requires_grad(true);
  }

  torch::Tensor x, topk_idx, weights;
};

}  // namespace flexep::testing
