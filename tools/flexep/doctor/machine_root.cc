// SPDX-License-Identifier: Apache-2.0
#include "doctor/machine_root.h"

#include <algorithm>
#include <charconv>
#include <fstream>

namespace flexep::tool {
namespace {

constexpr std::size_t kMaxFileBytes = 64 * 1024;

std::filesystem::path below(const std::filesystem::path& root, std::string_view name) {
  while (name.starts_with('/')) name.remove_prefix(1);
  return root / name;
}

}  // namespace

std::optional<std::string> MachineRoot::text(std::string_view file) const {
  const auto path = below(path_, file);
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return std::nullopt;
  std::ifstream stream(path, std::ios::binary);
  std::string text(kMaxFileBytes, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  // Some files of /sys exist and cannot be read, as the speed of an interface that is down.
  if (stream.bad() || (stream.fail() && !stream.eof())) return std::nullopt;
  text.resize(static_cast<std::size_t>(stream.gcount()));
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\0')) text.pop_back();
  if (text.empty()) return std::nullopt;
  return text;
}

std::optional<std::int64_t> MachineRoot::number(std::string_view file) const {
  const auto content = text(file);
  return content ? to_number(*content) : std::nullopt;
}

std::vector<std::string> MachineRoot::names_in(std::string_view folder) const {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entry(below(path_, folder), error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    names.push_back(entry->path().filename().string());
  std::ranges::sort(names);
  return names;
}

std::optional<std::int64_t> to_number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::string> chosen_word(const std::optional<std::string>& text) {
  if (!text) return std::nullopt;
  const auto begin = text->find('['), end = text->find(']');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return std::nullopt;
  return text->substr(begin + 1, end - begin - 1);
}

std::optional<int> size_of_list(std::string_view list) {
  std::int64_t size = 0;
  while (!list.empty()) {
    const auto comma = std::min(list.find(','), list.size());
    const std::string_view part = list.substr(0, comma);
    const auto dash = std::min(part.find('-'), part.size());
    const auto first = to_number(part.substr(0, dash));
    const auto last = dash < part.size() ? to_number(part.substr(dash + 1)) : first;
    if (!first || !last || *first < 0 || *last < *first || *last > 1 << 20) return std::nullopt;
    size += *last - *first + 1;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return size > 0 ? std::optional(static_cast<int>(size)) : std::nullopt;
}

}  // namespace flexep::tool
