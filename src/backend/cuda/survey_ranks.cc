// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/survey_ranks.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <random>

#include "backend/cuda/check_cuda.h"

namespace flexep::cuda {
namespace {

ProcessToken process_token() {
  static const ProcessToken token = [] {
    std::random_device entropy;
    return ProcessToken{entropy(), entropy(), entropy(), entropy()};
  }();
  return token;
}

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "describe a device");
  return properties;
}

GpuUuid uuid_of(const cudaDeviceProp& properties) {
  GpuUuid uuid;
  std::copy_n(properties.uuid.bytes, uuid.size(), uuid.begin());
  return uuid;
}

std::vector<GpuUuid> visible_gpus() {
  int num_devices = 0;
  check(cudaGetDeviceCount(&num_devices), "count devices");
  std::vector<GpuUuid> gpus;
  for (int device = 0; device < num_devices; ++device) gpus.push_back(uuid_of(properties_of(device)));
  return gpus;
}

/// [R]
std::vector<RankPlace> introduce(Transport& transport, const RankPlace& mine) {
  std::vector<RankPlace> all;
  for (const auto bytes : transport.all_gather(bytes_of(mine), {.name = "construct"}))
    std::memcpy(&all.emplace_back(), bytes.data(), sizeof(RankPlace));
  return all;
}

Reach reach_between(int device, int other) {
  if (other < 0) return Reach::kNotVisible;
  if (other == device) return Reach::kSameGpu;
  int can_access = 0;
  check(cudaDeviceCanAccessPeer(&can_access, device, other), "ask for peer access");
  return can_access != 0 ? Reach::kPeerAccess : Reach::kNoPeerAccess;
}

/// [R, R], from each rank's row.
std::vector<Reach> gather(Transport& transport, const std::vector<Reach>& mine) {
  std::vector<Reach> all;
  for (const auto bytes : transport.all_gather(std::as_bytes(std::span(mine)), {.name = "construct"})) {
    std::transform(bytes.begin(), bytes.end(), std::back_inserter(all),
                   [](std::byte reach) { return static_cast<Reach>(reach); });
  }
  return all;
}

}  // namespace

Survey survey_ranks(Transport& transport, int device) {
  const cudaDeviceProp properties = properties_of(device);
  const RankPlace mine{
      .process = process_token(), .gpu = uuid_of(properties), .gpu_bytes = properties.totalGlobalMem};
  std::vector<RankPlace> places = introduce(transport, mine);
  const auto num_ranks = places.size();
  std::vector<int> devices(num_ranks, device);
  std::vector<Reach> reach(num_ranks * num_ranks, Reach::kSameGpu);
  const bool are_on_one_gpu =
      std::ranges::all_of(places, [&](const RankPlace& other) { return other.is_on_gpu_of(mine); });
  if (!are_on_one_gpu) {
    const std::vector<GpuUuid> visible = visible_gpus();
    std::vector<Reach> row;
    for (std::size_t rank = 0; rank < num_ranks; ++rank) {
      const auto found = std::ranges::find(visible, places[rank].gpu);
      devices[rank] = found == visible.end() ? -1 : static_cast<int>(found - visible.begin());
      row.push_back(reach_between(device, devices[rank]));
    }
    reach = gather(transport, row);
  }
  Survey survey{RankPlaces(std::move(places), std::move(reach)), std::move(devices)};
  survey.places.require_usable();
  return survey;
}

}  // namespace flexep::cuda
