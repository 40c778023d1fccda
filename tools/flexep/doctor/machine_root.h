// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace flexep::tool {

/// The file system that probes read: a machine's own, or a tree that a test makes. Nothing here throws; what
/// is missing, unreadable or not a number is absent.
class MachineRoot {
 public:
  explicit MachineRoot(std::filesystem::path path = "/") : path_(std::move(path)) {}

  /// The first 64 KiB of a file, without white space at its end.
  std::optional<std::string> text(std::string_view file) const;
  std::optional<std::int64_t> number(std::string_view file) const;
  /// Names in a folder, sorted; none if there is none.
  std::vector<std::string> names_in(std::string_view folder) const;

 private:
  std::filesystem::path path_;
};

/// All of `text` as a number, or nothing.
std::optional<std::int64_t> to_number(std::string_view text);

/// The word in brackets of "always [madvise] never", or nothing.
std::optional<std::string> chosen_word(const std::optional<std::string>& text);

/// How many numbers "0-3,8,10-11" names; nothing if it is not such a list.
std::optional<int> size_of_list(std::string_view list);

}  // namespace flexep::tool
