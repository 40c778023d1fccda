// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/communicator.h"
#include "flexep/env.h"
#include "transport/transport.h"

namespace flexep {

/// How `num_ranks` ranks that all share memory are to lie in domains: as the caller asks, else as
/// FLEXEP_SCALEUP_SIZE, else in one. @throws InvalidArgument for domains of different sizes.
Topology resolve_topology(int num_ranks, const CommunicatorOptions& options, const Environment& env);

}  // namespace flexep
