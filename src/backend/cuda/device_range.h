// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda.h>

#include <cstddef>
#include <vector>

#include "flexep/elastic_buffer.h"
#include "transport/shm/socket.h"

namespace flexep::cuda {

/// A reserved range of addresses that one device reaches, of which the front is backed by memory: it grows in
/// place, and shrinks from its end, so that an address once told stays good while there is memory behind it.
/// Nothing here waits for the device.
class DeviceRange {
 public:
  /// @param memory  what grow() backs it with. @throws CudaError, InvalidArgument where host memory cannot be
  /// had that way.
  /// @param readers  devices of this process that load and store it, perhaps repeated; none = `device`.
  DeviceRange(int device, std::size_t reserved_bytes, ArenaMemory memory = ArenaMemory::kDevice,
              const std::vector<int>& readers = {});
  ~DeviceRange();
  DeviceRange(const DeviceRange&) = delete;
  DeviceRange& operator=(const DeviceRange&) = delete;

  std::byte* begin() const { return begin_; }
  std::size_t reserved_bytes() const { return reserved_bytes_; }
  /// Bytes that have memory behind them.
  std::size_t backed_bytes() const { return backed_bytes_; }
  /// Growth is a multiple of this.
  std::size_t granularity() const { return granularity_; }

  /// Backs `num_bytes` more. @throws OutOfMemory, CudaError.
  void grow(std::size_t num_bytes);
  std::size_t last_growth() const { return pieces_.back().num_bytes; }
  /// The memory of the last growth, for another process.
  FileDescriptor export_last() const;
  /// Backs `num_bytes` more with the memory that another process has exported.
  void grow_with(const FileDescriptor& memory, std::size_t num_bytes);

  /// Bytes of the last growths, as many whole ones as `num_bytes` cover.
  std::size_t whole_growths_within(std::size_t num_bytes) const;
  /// Undoes the last growths, `num_bytes` in all. Nobody uses that memory any more.
  void shrink(std::size_t num_bytes);

 private:
  struct Piece {
    CUmemGenericAllocationHandle memory;
    std::size_t num_bytes;
  };
  void append(const Piece& piece);

  int device_;
  std::vector<CUmemAccessDesc> access_;
  CUmemAllocationProp properties_{};
  std::size_t granularity_ = 0;
  std::byte* begin_ = nullptr;
  std::size_t reserved_bytes_ = 0;
  std::size_t backed_bytes_ = 0;
  std::vector<Piece> pieces_;
};

}  // namespace flexep::cuda
