// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "flexep/elastic_buffer.h"

namespace flexep::tool {

/// GPUs that --gpus gives so many ranks; 0 = all that this process sees. Never more than ranks.
int num_gpus_of(int num_gpus, int num_ranks);

/// The device of a rank where --device is `name`: the CPU for "cpu"; for "cuda" GPU rank % num_gpus of those
/// that this process sees. `num_gpus` is --gpus; 0 = all that there are. @throws UsageError, NotAvailable
/// when this build or machine has none, or not so many.
Device device_of(const std::string& name, int num_gpus = 0, int rank = 0);

/// The memory that --memory names: "device" or "pinned_host". @throws UsageError.
ArenaMemory arena_memory_of(const std::string& name);

/// As --device and --memory spell them.
std::string_view name_of(const Device& device);
std::string_view name_of(ArenaMemory memory);

}  // namespace flexep::tool
