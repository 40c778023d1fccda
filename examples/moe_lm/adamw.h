// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "moe_lm/parameter.h"

namespace moe_lm {

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.98;
  /// Larger than usual: where a gradient is nothing but rounding, the update must be, too. Otherwise runs
  /// with different numbers of ranks, whose sums round differently, drift apart.
  double epsilon = 1e-7;
  /// Matrices shrink by learning_rate * weight_decay a step; biases and gains do not.
  double weight_decay = 0.05;
};

/// Adam with decoupled weight decay (Loshchilov and Hutter, 2019), for fp32 parameters, which must outlive
/// it.
class AdamW {
 public:
  AdamW(std::vector<Parameter*> parameters, const AdamWConfig& config);

  /// One update from the gradients times `grad_scale`.
  void step(double learning_rate, double grad_scale);

 private:
  struct Moments {
    std::vector<float> mean;
    std::vector<float> mean_square;
  };

  std::vector<Parameter*> parameters_;
  std::vector<Moments> moments_;
  AdamWConfig config_;
  std::int64_t num_steps_ = 0;
};

}  // namespace moe_lm
