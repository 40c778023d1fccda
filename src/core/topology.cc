// SPDX-License-Identifier: Apache-2.0
#include "core/topology.h"

#include "common/check.h"

namespace flexep {

Topology resolve_topology(int num_ranks, const CommunicatorOptions& options, const Environment& env) {
  const bool is_given = options.num_scaleup_ranks != 0;
  const char* const name = is_given ? "num_scaleup_ranks" : "FLEXEP_SCALEUP_SIZE";
  const int size = is_given ? options.num_scaleup_ranks : env.scaleup_size.value_or(num_ranks);
  require_argument(size > 0, name, "{} is {}, but a domain has at least 1 rank", name, size);
  require_argument(num_ranks % size == 0, name,
                   "{} is {}, which does not divide the {} ranks: every domain must have as many", name, size,
                   num_ranks);
  return {.num_scaleout_ranks = num_ranks / size, .num_scaleup_ranks = size};
}

}  // namespace flexep
