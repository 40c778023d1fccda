// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "common/deadline.h"
#include "transport/shm/shm_fabric.h"
#include "transport/shm/socket.h"

namespace flexep {

/// A connection to every other process of the job, by rank; none to oneself.
/// @throws TimeoutError that names the ranks that did not come, TransportError.
std::vector<FileDescriptor> meet_all(const ShmJob& job, const Deadline& deadline);

}  // namespace flexep
