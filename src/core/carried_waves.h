// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "core/crossing_plan.h"

namespace flexep {

/// A part of a wave: what one source's wave gives this rank to carry.
struct CarriedWave {
  int wave = 0;
  std::size_t stream = 0;  ///< index in CrossingPlan::carried
  int begin = 0;           ///< in its tokens
  int end = 0;
};
/// In the order in which this rank takes them: by wave, then nearest source first.
std::vector<CarriedWave> list_carried_waves(const std::vector<CarriedTokens>& carried, int num_tokens);

}  // namespace flexep
