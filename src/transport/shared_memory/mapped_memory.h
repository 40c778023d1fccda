// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

namespace flexep {

/// Pages of our own, all zero, huge where the system grants it; freed with the last reference. @throws
/// OutOfMemory.
std::shared_ptr<std::byte> map_anonymous(std::size_t num_bytes);

/// The pages behind a file descriptor, shared with everybody who maps them; unmapped with the last reference.
/// The descriptor may be closed afterwards. @throws OutOfMemory.
std::shared_ptr<std::byte> map_shared(int fd, std::size_t num_bytes);

/// Give pages back to the system, of private memory and of memory behind a descriptor (for everybody who has
/// mapped it). They read as zeros when they are touched again.
void discard_anonymous(std::byte* memory, std::size_t num_bytes);
void discard_shared(std::byte* memory, std::size_t num_bytes);

}  // namespace flexep
