// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/shareable_memory.h"

#include <fmt/format.h>

#include <string>

#include "backend/cuda/check_cuda.h"
#include "backend/cuda/driver_api.h"
#include "common/check.h"

namespace flexep::cuda {
namespace {

CUdeviceptr address_of(const std::byte* memory) {
  return reinterpret_cast<CUdeviceptr>(memory);
}

/// The allocation, or the mapped piece of virtual memory, that the address lies in.
DeviceMemory allocation_at(const std::byte* address) {
  CUdeviceptr begin = 0;
  std::size_t num_bytes = 0;
  check(driver().address_range(&begin, &num_bytes, address_of(address)), "find an allocation");
  return {reinterpret_cast<std::byte*>(begin), num_bytes};
}

/// A mapped piece of virtual memory; keeps it.
class VirtualMemory {
 public:
  explicit VirtualMemory(const std::byte* address) {
    if (driver().retain(&handle_, const_cast<std::byte*>(address)) != CUDA_SUCCESS) handle_ = 0;
  }
  ~VirtualMemory() {
    if (handle_ != 0) driver().release(handle_);
  }
  VirtualMemory(const VirtualMemory&) = delete;
  VirtualMemory& operator=(const VirtualMemory&) = delete;

  explicit operator bool() const { return handle_ != 0; }
  /// Nothing when it was not made to be shared.
  FileDescriptor export_file() const {
    int fd = -1;
    const CUresult result = driver().export_handle(&fd, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    return result == CUDA_SUCCESS ? FileDescriptor(fd) : FileDescriptor();
  }

 private:
  CUmemGenericAllocationHandle handle_ = 0;
};

bool is_from_malloc(const std::byte* address) {
  int is_capable = 0;
  return driver().pointer_attribute(&is_capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
                                    address_of(address)) == CUDA_SUCCESS &&
         is_capable != 0;
}

bool is_from_pool(const std::byte* address) {
  CUmemoryPool pool = nullptr;
  return driver().pointer_attribute(&pool, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, address_of(address)) ==
             CUDA_SUCCESS &&
         pool != nullptr;
}

/// What the address is, for people.
std::string kind_of(const std::byte* address) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, address) != cudaSuccess) cudaGetLastError();
  switch (attributes.type) {
    case cudaMemoryTypeUnregistered:
      return "no memory of CUDA";
    case cudaMemoryTypeHost:
      return "host memory";
    case cudaMemoryTypeManaged:
      return "managed memory";
    case cudaMemoryTypeDevice:
      break;
  }
  return fmt::format("memory of cuda:{}", attributes.device);
}

std::string name_of(const DeviceMemory& memory, int rank) {
  return fmt::format("memory [{}, {}) on rank {}", fmt::ptr(memory.begin),
                     fmt::ptr(memory.begin + memory.num_bytes), rank);
}

ShareableMemory share_allocation(const DeviceMemory& memory, int rank) {
  const DeviceMemory allocation = allocation_at(memory.begin);
  ShareableMemory shared;
  shared.offset = static_cast<std::size_t>(memory.begin - allocation.begin);
  require_argument(shared.offset + memory.num_bytes <= allocation.num_bytes, "memory",
                   "{} cannot be shared with other processes: it is of several allocations",
                   name_of(memory, rank));
  check(cudaIpcGetMemHandle(&shared.handle.emplace(), allocation.begin), "share memory with other processes");
  return shared;
}

ShareableMemory share_pieces(const DeviceMemory& memory, int rank) {
  ShareableMemory shared;
  shared.offset = static_cast<std::size_t>(memory.begin - allocation_at(memory.begin).begin);
  for (const std::byte* next = memory.begin; next < memory.begin + memory.num_bytes;) {
    const DeviceMemory piece = allocation_at(next);
    const VirtualMemory memory_of_piece(next);
    FileDescriptor file = memory_of_piece ? memory_of_piece.export_file() : FileDescriptor();
    require_argument(static_cast<bool>(file), "memory",
                     "{} cannot be shared with other processes: it was allocated without a handle for that "
                     "(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)",
                     name_of(memory, rank));
    shared.num_piece_bytes += piece.num_bytes;
    shared.pieces.push_back({std::move(file), piece.num_bytes});
    next = piece.begin + piece.num_bytes;
  }
  return shared;
}

}  // namespace

void require_memory_of(const DeviceMemory& memory, int device, int rank) {
  require_argument(memory.begin != nullptr && memory.num_bytes > 0, "memory", "memory on rank {} is none",
                   rank);
  const std::byte* const end = memory.begin + memory.num_bytes;
  for (const std::byte* next = memory.begin; next < end;) {
    const std::string kind = kind_of(next);
    require_argument(kind == fmt::format("memory of cuda:{}", device), "memory",
                     "{} is {} at {}, but only memory of cuda:{} can be registered", name_of(memory, rank),
                     kind, fmt::ptr(next), device);
    const DeviceMemory allocation = allocation_at(next);
    next = allocation.begin + allocation.num_bytes;
  }
}

void require_reachable_by_peers(const DeviceMemory& memory, int rank) {
  require_argument(is_from_malloc(memory.begin), "memory",
                   "{} is reached by its own GPU alone, but there are ranks on others: use cudaMalloc",
                   name_of(memory, rank));
}

ShareableMemory share(const DeviceMemory& memory, int rank) {
  if (is_from_malloc(memory.begin)) return share_allocation(memory, rank);
  require_argument(!is_from_pool(memory.begin), "memory",
                   "{} cannot be shared with other processes: it is of a memory pool (cudaMallocAsync); use "
                   "cudaMalloc",
                   name_of(memory, rank));
  return share_pieces(memory, rank);
}

}  // namespace flexep::cuda
