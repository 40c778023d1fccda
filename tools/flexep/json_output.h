// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace flexep::tool {

/// Writes what --json asked for to a file, or to standard output for "-". @throws UsageError when the file
/// cannot be written.
void write_json_output(const std::string& file, const nlohmann::ordered_json& json);

}  // namespace flexep::tool
