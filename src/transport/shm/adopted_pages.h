// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstddef>

#include "transport/shm/socket.h"

namespace flexep {

/// Pages of the caller's that are moved onto shared memory where they lie, so that other processes can map
/// them, and back when this object goes: contents and addresses stay. Reading them meanwhile is fine; what is
/// written during a move may be lost. A process that is forked off shares them with its parent while they are
/// adopted.
class AdoptedPages {
 public:
  /// @param fd  shared memory of `num_bytes` bytes; `memory` and `num_bytes` are whole pages.
  /// @throws InvalidArgument for memory that is not the private, anonymous, writable memory of this process
  /// (a mapped file, memory that is shared already, or nothing at all); OutOfMemory.
  AdoptedPages(FileDescriptor fd, std::byte* memory, std::size_t num_bytes);
  ~AdoptedPages();
  AdoptedPages(const AdoptedPages&) = delete;
  AdoptedPages& operator=(const AdoptedPages&) = delete;

  const FileDescriptor& fd() const { return fd_; }
  std::byte* data() const { return memory_; }

 private:
  FileDescriptor fd_;
  std::byte* memory_;
  std::size_t num_bytes_;
  pid_t owner_;
};

}  // namespace flexep
