// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "core/agreement.h"
#include "core/requests.h"

namespace flexep {

/// What all ranks know of a new buffer.
struct Construction {
  RankContext context;
  std::int64_t max_staging_bytes = 0;  ///< the least of what ranks passed
  std::int64_t id = 0;                 ///< equal on all ranks, different for every buffer of a job
};

/// Checks the configuration and agrees on it. Collective.
/// @param default_num_sms  tells the width of operations for which nobody names one; what it throws, all
/// ranks hear.
/// @throws InvalidArgument, and as Agreement.
Construction agree_on_construction(Transport& transport, Agreement& agreement,
                                   const ElasticBufferConfig& config,
                                   const std::function<int()>& default_num_sms);

}  // namespace flexep
