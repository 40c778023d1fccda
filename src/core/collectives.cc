// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

#include "flexep/communicator.h"
#include "flexep/error.h"
#include "transport/transport.h"

namespace flexep {
namespace {

// Bytes of one rank's values that travel at a time: small enough to stay in the caches of all who add them
// up.
constexpr std::size_t kPieceBytes = 64 << 10;

void require_same_values(Transport& transport, std::size_t num_values, std::size_t value_bytes) {
  struct Kind {
    std::size_t num_values;
    std::size_t value_bytes;
  };
  const Kind mine{num_values, value_bytes};
  bool same = true;
  std::vector<std::string> kinds;
  for (const auto bytes : transport.all_gather(bytes_of(mine), {.name = "all_reduce_sum"})) {
    Kind other{};
    std::memcpy(&other, bytes.data(), sizeof(other));
    same = same && other.num_values == num_values && other.value_bytes == value_bytes;
    kinds.push_back(fmt::format("{} of {} bytes", other.num_values, other.value_bytes));
  }
  if (same) return;
  std::string what = "all_reduce_sum: ranks pass different values:";
  for (const auto& kind : kinds) what += " " + kind;
  throw CollectiveMismatch("values", std::move(kinds), what);
}

template <typename T>
void add_up(std::span<T> values, Gathered all) {
  std::memcpy(values.data(), all[0].data(), values.size_bytes());
  for (const auto bytes : all.subspan(1)) {
    const auto* other = reinterpret_cast<const T*>(bytes.data());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += other[i];
  }
}

template <typename T>
void all_reduce_sum(Transport& transport, std::span<T> values) {
  if (transport.num_ranks() == 1) return;
  require_same_values(transport, values.size(), sizeof(T));
  constexpr std::size_t kPiece = kPieceBytes / sizeof(T);
  for (std::size_t begin = 0; begin < values.size(); begin += kPiece) {
    const auto piece = values.subspan(begin, std::min(kPiece, values.size() - begin));
    add_up(piece, transport.all_gather(std::as_bytes(piece), {.name = "all_reduce_sum"}));
  }
}

}  // namespace

void Communicator::require_size(std::size_t got, std::size_t expected) {
  if (got == expected) return;
  throw CollectiveMismatch(
      "value", {std::to_string(expected), std::to_string(got)},
      fmt::format("all_gather: a rank passed {} bytes where this rank passed {}", got, expected));
}

void Communicator::barrier() {
  transport_->all_gather({}, {.name = "barrier"});
}

std::vector<std::vector<std::byte>> Communicator::all_gather_bytes(std::span<const std::byte> mine) {
  std::vector<std::vector<std::byte>> result;
  for (const auto bytes : transport_->all_gather(mine, {.name = "all_gather"})) {
    result.emplace_back(bytes.begin(), bytes.end());
  }
  return result;
}

void Communicator::all_reduce_sum(std::span<float> values) {
  flexep::all_reduce_sum(*transport_, values);
}
void Communicator::all_reduce_sum(std::span<double> values) {
  flexep::all_reduce_sum(*transport_, values);
}

}  // namespace flexep
