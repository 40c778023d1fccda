// SPDX-License-Identifier: Apache-2.0
#include "core/carried_waves.h"

#include <algorithm>
#include <functional>

namespace flexep {

std::vector<CarriedWave> list_carried_waves(const std::vector<CarriedTokens>& carried, int num_tokens) {
  std::vector<CarriedWave> waves;
  for (std::size_t stream = 0; stream < carried.size(); ++stream) {
    const auto& tokens = carried[stream].tokens;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const int wave = tokens[i] / num_tokens;
      if (i == 0 || waves.back().wave != wave)
        waves.push_back({wave, stream, static_cast<int>(i), static_cast<int>(i)});
      ++waves.back().end;
    }
  }
  std::ranges::stable_sort(waves, std::less(), &CarriedWave::wave);
  return waves;
}

}  // namespace flexep
