// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

#include "flexep/communicator.h"
#include "flexep/env.h"

namespace flexep {

/// The timeout of a new group: what the caller asked for, else FLEXEP_TIMEOUT_SECS, else 300 s. @throws
/// InvalidArgument.
std::chrono::milliseconds resolve_timeout(const CommunicatorOptions& options, const Environment& env);

}  // namespace flexep
