// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "transport/in_process/in_process_fabric.h"
#include "transport/messages.h"

namespace flexep {

/// Messages of one rank of a world of threads to all its ranks. Bytes go from one thread to the other when
/// both have posted their ends, and lie nowhere in between: whoever counts on buffering hangs here too.
std::shared_ptr<Messages> open_in_process_messages(const std::shared_ptr<InProcessWorld>& world, int rank);

}  // namespace flexep
