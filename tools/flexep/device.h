// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "flexep/tensor.h"

namespace flexep::tool {

/// The device that --device names: "cpu", or "cuda", the first GPU. @throws UsageError, NotAvailable when
/// this build or machine has none.
Device device_of(const std::string& name);

/// As --device spells it.
std::string_view name_of(const Device& device);

}  // namespace flexep::tool
