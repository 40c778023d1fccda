// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

#include "flexep/communicator.h"
#include "flexep/env.h"

namespace flexep {

/// The timeout of a new group: what the caller asked for, else FLEXEP_TIMEOUT_SECS, else 300 s. @throws
/// InvalidArgument.
std::chrono::milliseconds resolve_timeout(const CommunicatorOptions& options, const Environment& env);

/// How long to wait for ranks that may still come: what the caller asked for, else the group's timeout.
/// @throws InvalidArgument.
std::chrono::milliseconds resolve_patience(std::chrono::milliseconds patience,
                                           std::chrono::milliseconds timeout);

}  // namespace flexep
