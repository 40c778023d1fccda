// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "doctor/machine_facts.h"

namespace flexep::tool {

/// The page: what there is, what flexep chooses, what will hurt.
std::string text_of(const MachineFacts& facts);
/// The same; what is not known is null.
nlohmann::ordered_json json_of(const MachineFacts& facts);

}  // namespace flexep::tool
