// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/gradients.h"

#include <algorithm>

namespace moe_lm {

void GradientReducer::reduce(flexep::Communicator& comm, const std::vector<Parameter*>& replicated) {
  bucket_.clear();
  for (const Parameter* parameter : replicated) {
    const auto grad = parameter->grad.values<float>();
    bucket_.insert(bucket_.end(), grad.begin(), grad.end());
  }
  comm.all_reduce_sum(bucket_);
  auto sum = bucket_.begin();
  for (const Parameter* parameter : replicated) {
    const auto grad = parameter->grad.values<float>();
    std::copy_n(sum, grad.size(), grad.begin());
    sum += static_cast<std::ptrdiff_t>(grad.size());
  }
}

double squared_norm(const std::vector<Parameter*>& parameters) {
  double sum = 0;
  for (const Parameter* parameter : parameters) {
    for (const float g : parameter->grad.values<float>()) sum += static_cast<double>(g) * g;
  }
  return sum;
}

}  // namespace moe_lm
