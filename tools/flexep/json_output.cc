// SPDX-License-Identifier: Apache-2.0
#include "json_output.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "errors.h"

namespace flexep::tool {

void write_json_output(const std::string& file, const nlohmann::ordered_json& json) {
  const std::string text = json.dump(2) + "\n";
  if (file == "-") {
    fmt::print("{}", text);
    return;
  }
  std::ofstream out(file);
  out << text;
  out.close();
  if (!out) throw UsageError(fmt::format("--json {}: cannot be written", file));
}

}  // namespace flexep::tool
