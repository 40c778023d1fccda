// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "transport/shm/socket.h"

namespace flexep::cuda {

/// Memory that somebody else has allocated on a device, [begin, begin + num_bytes).
struct DeviceMemory {
  std::byte* begin = nullptr;
  std::size_t num_bytes = 0;
};

/// @throws InvalidArgument that says what it is, unless all of it is memory of the device.
void require_memory_of(const DeviceMemory& memory, int device, int rank);

/// Of memory that threads on other GPUs are to read. @throws InvalidArgument where only its own GPU reaches
/// it.
void require_reachable_by_peers(const DeviceMemory& memory, int rank);

/// How another process can map it: either the one allocation that it lies in, or the pieces of virtual memory
/// that it spans.
struct ShareableMemory {
  struct Piece {
    FileDescriptor file;
    std::size_t num_bytes = 0;
  };

  std::size_t offset = 0;                    ///< of the memory in what is shared
  std::optional<cudaIpcMemHandle_t> handle;  ///< cudaMalloc
  std::vector<Piece> pieces;                 ///< cuMemCreate, by address
  std::size_t num_piece_bytes = 0;           ///< of all of them
};

/// @throws InvalidArgument that says why the memory cannot be shared.
ShareableMemory share(const DeviceMemory& memory, int rank);

}  // namespace flexep::cuda
