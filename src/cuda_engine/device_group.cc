// SPDX-License-Identifier: Apache-2.0
#include "cuda_engine/device_group.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <set>
#include <span>

#include "backend/cuda/check_cuda.h"
#include "common/check.h"
#include "common/math.h"
#include "core/construction.h"
#include "kernels/cuda/kernels.h"

namespace flexep::cuda {
namespace {

/// What a rank takes when nobody says: more do not make a link faster, and computation needs them.
constexpr int kDefaultMaxSms = 24;

/// Once for each device: loading waits for all that runs, and another buffer's operations may.
void load_kernels_once(int device) {
  static std::mutex mutex;
  static std::set<int> loaded;
  const std::lock_guard lock(mutex);
  if (loaded.contains(device)) return;
  check(load_kernels(), "load kernels");
  loaded.insert(device);
}

template <typename T>
void upload(std::byte* to, std::span<const T> values, cudaStream_t stream) {
  check(cudaMemcpyAsync(to, values.data(), values.size_bytes(), cudaMemcpyDefault, stream), "copy a table");
}

}  // namespace

void require_device(int device) {
  int num_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&num_devices);
  if (error != cudaSuccess) cudaGetLastError();
  require_argument(error == cudaSuccess && device >= 0 && device < num_devices, "device",
                   "device is cuda:{}, but this process sees {} GPUs ({})", device, num_devices,
                   cudaGetErrorString(error));
}

DeviceGroup::DeviceGroup(const Communicator& comm, const ElasticBufferConfig& buffer_config)
    : config(buffer_config), transport(comm.transport().split(0, comm.rank())), meter(*transport) {
  Agreement agreement(*transport);
  const Construction agreed = agree_on_construction(*transport, agreement, config, [&] {
    prepare_device();
    return std::max(config.num_sms, 1);
  });
  context = agreed.context;
  id = agreed.id;

  const DeviceGuard guard(device());
  ranges = std::make_shared<PeerRanges>(transport, device(), config.arena_memory);
  // Ends when all have come as far: nobody stores into a mailbox before its owner has zeroed it.
  agreement.conclude({.name = "construct"}, [&] { make_memory(); });
}

void DeviceGroup::prepare_device() {
  require_device(device());
  const DeviceGuard guard(device());
  load_kernels_once(device());
  communication = communication_stream();
  check(prepare_stream(stream()), "prepare the communication stream");
}

void DeviceGroup::make_memory() {
  arena = std::make_shared<DeviceArena>(
      device(), communication, ranges->own(), static_cast<std::size_t>(config.max_arena_bytes),
      RangeNews{.grown = [ranges = ranges] { ranges->publish(); },
                .shrinking = [ranges = ranges](std::size_t num_bytes) { ranges->withdraw(num_bytes); }});
  local = config.arena_memory == ArenaMemory::kDevice ? arena : make_local_arena();
  registrations = std::make_shared<DeviceRegistrations>(ranges, rank());
  int num_sms = 0;
  check(cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device()), "count multiprocessors");
  max_sms = std::max(num_sms / ranges->num_ranks_on_device(), 1);
  if (config.num_sms == 0) context.default_num_sms = std::min(max_sms, kDefaultMaxSms);
  results = std::make_unique<ResultSlots>(
      ResultLayout{.num_ranks = num_ranks(), .num_local_experts = kMaxExperts / num_ranks()});
  lay_out_tables();
}

std::shared_ptr<DeviceArena> DeviceGroup::make_local_arena() const {
  const auto range = std::make_shared<DeviceRange>(device(), ranges->own()->reserved_bytes());
  return std::make_shared<DeviceArena>(device(), communication, range, 0, RangeNews{});
}

// All ranks have their mailbox at the same place, the beginning of their range.
void DeviceGroup::lay_out_tables() {
  const MailboxLayout layout{.num_ranks = num_ranks(), .max_experts = kMaxExperts};
  mailbox = arena->reserve(layout.num_bytes(), stream());
  is_across_link = ranges->across_link();
  const std::size_t table_offset = align_up(sizeof(DeviceState), std::size_t{128});
  const std::size_t links_offset = table_offset + static_cast<std::size_t>(num_ranks()) * sizeof(void*);
  tables = local->reserve(links_offset + is_across_link.size(), stream());
  std::byte* const memory = tables.data();
  const std::vector<std::byte*> begins = ranges->begins();
  check(cudaMemsetAsync(mailbox.data(), 0, layout.num_bytes(), stream()), "zero a mailbox");
  check(cudaMemsetAsync(memory, 0, table_offset, stream()), "zero the state of operations");
  upload(memory + table_offset, std::span<std::byte* const>(begins), stream());
  if (!is_across_link.empty())
    upload(memory + links_offset, std::span<const std::uint8_t>(is_across_link), stream());
  check(cudaStreamSynchronize(stream()), "prepare a mailbox");

  auto* const table = reinterpret_cast<std::byte* const*>(memory + table_offset);
  // A mailbox begins where the one segment does, the range itself: one table serves both.
  peers = {.rank = rank(),
           .num_ranks = num_ranks(),
           .mailbox = layout,
           .mailboxes = table,
           .segments = table,
           .num_segments = 1,
           .registered = ranges->segments().data(),
           .num_registered = SegmentTable::kMaxSegments,
           .is_across_link = is_across_link.empty()
                                 ? nullptr
                                 : reinterpret_cast<const std::uint8_t*>(memory + links_offset),
           .state = reinterpret_cast<DeviceState*>(memory),
           .timeout_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(transport->timeout()).count())};
}

// Pairs that share a row of the compact layout are not counted on the device.
void DeviceGroup::count_dispatch(const DispatchState& handle, std::int64_t row_bytes) {
  const auto& num_placed = handle.send.num_rows_per_rank;
  std::vector<std::int32_t> num_rows = num_placed;
  for (std::size_t rank = 0; rank < is_across_link.size(); ++rank) {
    if (is_across_link[rank] != 0) num_rows[rank] = handle.send.num_tokens_per_rank[rank];
  }
  const std::lock_guard lock(counting_);
  meter.begin();
  meter.add_rows(num_rows, num_placed, static_cast<std::size_t>(row_bytes));
  meter.add_memory(handle.num_tokens * row_bytes,
                   std::accumulate(num_placed.begin(), num_placed.end(), std::int64_t{0}) * row_bytes);
  meter.end_dispatch(handle.receive.num_recv_tokens_per_expert, handle.num_dropped_tokens);
}

void DeviceGroup::count_combine(const DispatchState& handle, std::int64_t row_bytes,
                                std::span<const std::int32_t> is_per_token, std::int64_t staging_bytes) {
  std::vector<std::int32_t> num_rows = handle.send.num_rows_per_rank;
  for (std::size_t rank = 0; rank < num_rows.size(); ++rank) {
    if (is_per_token[rank] != 0) num_rows[rank] = handle.send.num_tokens_per_rank[rank];
  }
  const std::lock_guard lock(counting_);
  meter.begin();
  const std::int64_t bytes_read =
      meter.add_rows(num_rows, handle.send.num_rows_per_rank, static_cast<std::size_t>(row_bytes));
  meter.add_memory(bytes_read, handle.num_tokens * row_bytes);
  meter.add_staging(staging_bytes);
  meter.end_combine();
}

}  // namespace flexep::cuda
