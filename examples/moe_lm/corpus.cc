// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>

#include "flexep/error.h"
#include "moe_lm/share.h"

namespace moe_lm {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kBlockBytes = 64 << 10;
constexpr std::int64_t kHeldoutFraction = 16;
constexpr std::int64_t kMinTextBytes = 4 << 10;

[[noreturn]] void fail(const std::string& what) {
  throw flexep::InvalidArgument("text", what);
}

/// The directory of the highest version number in /usr/include/c++.
std::optional<fs::path> newest_standard_library() {
  std::optional<fs::path> newest;
  int newest_version = -1;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/usr/include/c++", ignored)) {
    const std::string name = entry.path().filename();
    if (name.empty() || name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (const int version = std::stoi(name); version > newest_version) {
      newest_version = version;
      newest = entry.path();
    }
  }
  return newest;
}

void append_files_of(const fs::path& directory, std::vector<std::string>& files) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
}

}  // namespace

std::vector<std::string> default_text_files() {
  std::vector<std::string> files;
  if (const auto library = newest_standard_library()) {
    append_files_of(*library, files);
    append_files_of(*library / "bits", files);
  }
  if (files.empty()) fail("no C++ standard library headers under /usr/include/c++; name files with --text");
  std::sort(files.begin(), files.end());
  return files;
}

Bytes read_text(const std::vector<std::string>& files, std::int64_t max_bytes) {
  Bytes text;
  for (const std::string& file : files) {
    const auto room = max_bytes - static_cast<std::int64_t>(text.size());
    if (room <= 0) break;
    std::ifstream in(file, std::ios::binary);
    if (!in || !fs::is_regular_file(file)) fail(fmt::format("--text: cannot read {}", file));
    const auto begin = text.size();
    text.resize(begin + static_cast<std::size_t>(std::min<std::int64_t>(room, fs::file_size(file))));
    in.read(reinterpret_cast<char*>(text.data() + begin), static_cast<std::streamsize>(text.size() - begin));
    text.resize(begin + static_cast<std::size_t>(in.gcount()));
  }
  return text;
}

Corpus split_text(const Bytes& text) {
  const auto size = static_cast<std::int64_t>(text.size());
  if (size < kMinTextBytes)
    fail(fmt::format("--text: {} bytes are too few to train on; give at least {}", size, kMinTextBytes));
  const std::int64_t num_blocks = std::max<std::int64_t>(1, size / kBlockBytes);
  Corpus corpus;
  for (std::int64_t i = 0; i < num_blocks; ++i) {
    const Range block = share_of(size, i, num_blocks);
    const auto begin = text.begin() + block.begin;
    const auto end = text.begin() + block.end;
    const auto seam = end - block.size() / kHeldoutFraction;
    corpus.train.insert(corpus.train.end(), begin, seam);
    corpus.heldout.insert(corpus.heldout.end(), seam, end);
  }
  return corpus;
}

double unigram_bits_per_byte(std::span<const std::uint8_t> text) {
  std::array<std::int64_t, 256> num_occurrences{};
  for (const std::uint8_t byte : text) ++num_occurrences[byte];
  double bits = 0;
  for (const std::int64_t n : num_occurrences) {
    const double p = static_cast<double>(n) / static_cast<double>(text.size());
    if (n > 0) bits -= p * std::log2(p);
  }
  return bits;
}

}  // namespace moe_lm
