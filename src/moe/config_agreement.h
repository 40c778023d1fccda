// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "flexep/communicator.h"
#include "flexep/moe/moe_config.h"

namespace flexep::moe {

/// Collective. @throws CollectiveMismatch, on every rank, naming the first option that ranks do not agree on,
/// or "seed".
void require_agreement(Communicator& comm, const MoeConfig& config, std::uint64_t seed);

}  // namespace flexep::moe
