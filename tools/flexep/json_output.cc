// SPDX-License-Identifier: Apache-2.0
#include "json_output.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "errors.h"

namespace flexep::tool {
namespace {

namespace fs = std::filesystem;

bool write_text(const fs::path& file, const std::string& text) {
  std::ofstream out(file);
  out << text;
  out.close();
  return bool(out);
}

// Beside the file first: who is interrupted leaves the old one as it was.
bool replace_file(const fs::path& file, const std::string& text) {
  const fs::path part = file.string() + ".part";
  std::error_code error;
  if (write_text(part, text)) {
    fs::rename(part, file, error);
    if (!error) return true;
  }
  fs::remove(part, error);
  return false;
}

}  // namespace

void write_json_output(const std::string& file, const nlohmann::ordered_json& json) {
  const std::string text = json.dump(2) + "\n";
  if (file == "-") {
    fmt::print("{}", text);
    return;
  }
  std::error_code unknown;
  const fs::file_status status = fs::status(file, unknown);
  // A device or a pipe is written to, and stays what it is.
  const bool is_file = !fs::exists(status) || fs::is_regular_file(status);
  if (!(is_file ? replace_file(file, text) : write_text(file, text)))
    throw UsageError(fmt::format("--json {}: cannot be written", file));
}

}  // namespace flexep::tool
