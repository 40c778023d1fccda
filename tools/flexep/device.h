// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "flexep/elastic_buffer.h"

namespace flexep::tool {

/// The device that --device names: "cpu", or "cuda", the first GPU. @throws UsageError, NotAvailable when
/// this build or machine has none.
Device device_of(const std::string& name);

/// The memory that --memory names: "device" or "pinned_host". @throws UsageError.
ArenaMemory arena_memory_of(const std::string& name);

/// As --device and --memory spell them.
std::string_view name_of(const Device& device);
std::string_view name_of(ArenaMemory memory);

}  // namespace flexep::tool
