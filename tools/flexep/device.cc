// SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include <fmt/format.h>

#include <algorithm>

#include "cuda_devices.h"
#include "errors.h"

namespace flexep::tool {
namespace {

int that_many_or_all(int num_gpus) {
  return num_gpus > 0 ? num_gpus : num_cuda_devices();
}

}  // namespace

int num_gpus_of(int num_gpus, int num_ranks) {
  return std::min(that_many_or_all(num_gpus), num_ranks);
}

Device device_of(const std::string& name, int num_gpus, int rank) {
  if (num_gpus < 0) throw UsageError(fmt::format("--gpus {}: not a number of GPUs", num_gpus));
  if (name == "cpu" && num_gpus > 0)
    throw UsageError(fmt::format("--gpus {}: needs --device cuda", num_gpus));
  if (name == "cpu") return Device::host();
  if (name != "cuda") throw UsageError(fmt::format("--device {}: not one of cpu, cuda", name));
  const std::string reason = why_no_cuda_device();
  if (!reason.empty()) throw NotAvailable(fmt::format("--device cuda: {}", reason));
  if (num_gpus > num_cuda_devices())
    throw NotAvailable(fmt::format("--gpus {}: this process sees {}", num_gpus, num_cuda_devices()));
  return Device::cuda(rank % that_many_or_all(num_gpus));
}

std::string_view name_of(const Device& device) {
  return device.is_host() ? "cpu" : "cuda";
}

ArenaMemory arena_memory_of(const std::string& name) {
  if (name == "device") return ArenaMemory::kDevice;
  if (name == "pinned_host") return ArenaMemory::kPinnedHost;
  throw UsageError(fmt::format("--memory {}: not one of device, pinned_host", name));
}

std::string_view name_of(ArenaMemory memory) {
  return memory == ArenaMemory::kDevice ? "device" : "pinned_host";
}

}  // namespace flexep::tool
