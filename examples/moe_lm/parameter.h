// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "flexep/tensor.h"

namespace moe_lm {

/// A trained tensor and the gradient of the loss with respect to it.
struct Parameter {
  std::string name;
  flexep::Tensor value;
  flexep::Tensor grad;  ///< same shape; set (not added to) by a backward pass
};

/// A model's parameters, by what a gradient still needs after a backward pass. They belong to the model.
struct ParameterList {
  std::vector<Parameter*>
      replicated;  ///< on every rank; the gradient is of this rank's samples: sum it over the ranks
  std::vector<Parameter*>
      sharded;  ///< this rank's experts; all ranks' tokens came here: the gradient is complete
};

/// A parameter whose values and gradient are zero.
Parameter make_parameter(std::string name, const flexep::Shape& shape, flexep::DType dtype);

/// Draws the values, uniform with standard deviation `deviation`, as a function of the seed and the
/// parameter's name.
void randomize(const Parameter& parameter, double deviation, std::uint64_t seed);

}  // namespace moe_lm
