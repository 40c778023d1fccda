// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "backend/cuda/rank_places.h"
#include "transport/transport.h"

namespace flexep::cuda {

/// What ranks have told each other, and what this process makes of it.
struct Survey {
  RankPlaces places;
  std::vector<int> devices;  ///< [R]: each rank's GPU, as this process numbers them; -1 = it does not see it
};

/// Asks the driver which GPUs `device` reaches, and all ranks for theirs. Collective. @throws CudaError, as
/// RankPlaces::require_usable.
Survey survey_ranks(Transport& transport, int device);

}  // namespace flexep::cuda
