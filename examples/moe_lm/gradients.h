// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "flexep/communicator.h"
#include "moe_lm/parameter.h"

namespace moe_lm {

/// Sums the gradients of replicated parameters over the ranks, all in one all-reduce: a collective costs a
/// round of waiting, however small it is.
class GradientReducer {
 public:
  /// Collective over `comm`.
  void reduce(flexep::Communicator& comm, const std::vector<Parameter*>& replicated);

 private:
  std::vector<float> bucket_;
};

/// Sum of the squares of all gradients, fp32.
double squared_norm(const std::vector<Parameter*>& parameters);

}  // namespace moe_lm
