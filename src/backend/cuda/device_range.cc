// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/device_range.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "backend/cuda/check_cuda.h"
#include "backend/cuda/driver_api.h"
#include "common/check.h"
#include "common/math.h"
#include "flexep/error.h"

namespace flexep::cuda {
namespace {

CUdeviceptr address_of(const std::byte* memory) {
  return reinterpret_cast<CUdeviceptr>(memory);
}

int attribute_of(int device, CUdevice_attribute attribute) {
  int value = 0;
  check(driver().device_attribute(&value, attribute, device), "describe a device");
  return value;
}

CUmemLocation host_memory_near(int device) {
  const bool can_map =
      attribute_of(device, CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) != 0;
  require_argument(can_map, "arena_memory",
                   "arena_memory is kPinnedHost, but device {} cannot map such memory", device);
  // -1 where the system knows no nodes: then there is one.
  const int node = std::max(attribute_of(device, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID), 0);
  return {.type = CU_MEM_LOCATION_TYPE_HOST_NUMA, .id = node};
}

}  // namespace

DeviceRange::DeviceRange(int device, std::size_t reserved_bytes, ArenaMemory memory,
                         const std::vector<int>& readers)
    : device_(device) {
  std::set<int> devices(readers.begin(), readers.end());
  devices.insert(device);
  for (const int reader : devices) {
    access_.push_back({.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = reader},
                       .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE});
  }
  properties_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties_.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties_.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device};
  if (memory == ArenaMemory::kPinnedHost) properties_.location = host_memory_near(device);
  check(driver().granularity(&granularity_, &properties_, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
        "name the granularity of memory");
  reserved_bytes_ = align_up(reserved_bytes, granularity_);
  CUdeviceptr address = 0;
  check(driver().reserve_address(&address, reserved_bytes_, granularity_, 0, 0), "reserve addresses");
  begin_ = reinterpret_cast<std::byte*>(address);
}

DeviceRange::~DeviceRange() {
  shrink(backed_bytes_);
  driver().free_address(address_of(begin_), reserved_bytes_);
}

std::size_t DeviceRange::whole_growths_within(std::size_t num_bytes) const {
  std::size_t whole = 0;
  for (auto piece = pieces_.rbegin(); piece != pieces_.rend() && whole + piece->num_bytes <= num_bytes;
       ++piece)
    whole += piece->num_bytes;
  return whole;
}

void DeviceRange::shrink(std::size_t num_bytes) {
  for (const std::size_t rest = backed_bytes_ - num_bytes; backed_bytes_ > rest; pieces_.pop_back()) {
    const Piece& piece = pieces_.back();
    backed_bytes_ -= piece.num_bytes;
    driver().unmap(address_of(begin_) + backed_bytes_, piece.num_bytes);
    driver().release(piece.memory);
  }
}

void DeviceRange::grow(std::size_t num_bytes) {
  Piece piece{.memory = 0, .num_bytes = num_bytes};
  if (backed_bytes_ + num_bytes > reserved_bytes_) {
    throw OutOfMemory(fmt::format("device {} has no {} bytes more for an arena that holds {}", device_,
                                  num_bytes, backed_bytes_));
  }
  check(driver().create(&piece.memory, num_bytes, &properties_, 0), "allocate memory");
  append(piece);
}

FileDescriptor DeviceRange::export_last() const {
  int fd = -1;
  check(driver().export_handle(&fd, pieces_.back().memory, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        "share memory with other processes");
  return FileDescriptor(fd);
}

void DeviceRange::grow_with(const FileDescriptor& memory, std::size_t num_bytes) {
  Piece piece{.memory = 0, .num_bytes = num_bytes};
  // The interface takes the descriptor's number as if it were a pointer.
  auto* const handle = reinterpret_cast<void*>(static_cast<std::uintptr_t>(memory.get()));
  check(driver().import_handle(&piece.memory, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
        "take over the memory of another process");
  append(piece);
}

// Takes the piece over, also when it fails.
void DeviceRange::append(const Piece& piece) {
  const CUdeviceptr address = address_of(begin_) + backed_bytes_;
  const CUresult mapped = driver().map(address, piece.num_bytes, 0, piece.memory, 0);
  if (mapped != CUDA_SUCCESS) driver().release(piece.memory);
  check(mapped, "map memory");
  pieces_.push_back(piece);
  backed_bytes_ += piece.num_bytes;
  check(driver().set_access(address, piece.num_bytes, access_.data(), access_.size()),
        "make memory accessible");
}

}  // namespace flexep::cuda
