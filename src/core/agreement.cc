// SPDX-License-Identifier: Apache-2.0
#include "core/agreement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "flexep/error.h"
#include "flexep/types.h"

namespace flexep {
namespace {

constexpr std::array<const char*, kNumFields> kFieldNames = {"handle",
                                                             "num_experts",
                                                             "num_topk",
                                                             "topk_idx dtype",
                                                             "expert_alignment",
                                                             "do_expand",
                                                             "dtype",
                                                             "hidden",
                                                             "topk_weights",
                                                             "sf",
                                                             "packs of sf",
                                                             "use_tma_aligned_col_major_sf",
                                                             "do_cpu_sync",
                                                             "allow_multiple_reduction",
                                                             "allow_hybrid_mode"};

std::string describe_value(Field field, std::int64_t value) {
  switch (field) {
    case Field::kDType:
    case Field::kTopkIdx:
      return std::string(name_of(static_cast<DType>(value)));
    case Field::kTopkWeights:
    case Field::kScales:
      return value == 0 ? "absent" : std::string(name_of(static_cast<DType>(value - 1)));
    case Field::kDoExpand:
    case Field::kScalesAreColMajor:
    case Field::kDoCpuSync:
    case Field::kAllowMultipleReduction:
    case Field::kAllowHybridMode:
      return value != 0 ? "true" : "false";
    case Field::kHandle:
    case Field::kNumExperts:
    case Field::kNumTopk:
    case Field::kExpertAlignment:
    case Field::kHidden:
    case Field::kNumScalePacks:
      return std::to_string(value);
  }
  return {};
}

[[noreturn]] void throw_refusal(const Operation& operation, std::size_t rank, Gathered all) {
  const auto reason = all[rank].subspan(sizeof(ExchangeHeader));
  const std::string_view text(reinterpret_cast<const char*>(reason.data()), reason.size());
  throw PeerError(static_cast<int>(rank), fmt::format("{}: rank {} refused: {}", operation.name, rank, text));
}

void throw_if_refused(const Operation& operation, Gathered all, std::span<const ExchangeHeader> headers) {
  for (std::size_t rank = 0; rank < headers.size(); ++rank) {
    if (headers[rank].is_refusal != 0) throw_refusal(operation, rank, all);
  }
}

void throw_if_different(const Operation& operation, std::span<const ExchangeHeader> headers) {
  for (std::size_t i = 0; i < kNumFields; ++i) {
    const auto is_alike = [&](const ExchangeHeader& header) {
      return header.fingerprint[i] == headers[0].fingerprint[i];
    };
    if (std::ranges::all_of(headers, is_alike)) continue;
    std::vector<std::int64_t> values;
    for (const auto& header : headers) values.push_back(header.fingerprint[i]);
    std::rethrow_exception(mismatch_error(operation.name, static_cast<Field>(i), values));
  }
}

std::vector<ExchangeHeader> headers_of(Gathered all) {
  std::vector<ExchangeHeader> headers(all.size());
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    std::memcpy(&headers[rank], all[rank].data(), sizeof(ExchangeHeader));
  }
  return headers;
}

}  // namespace

std::exception_ptr mismatch_error(std::string_view operation, Field field,
                                  std::span<const std::int64_t> values) {
  std::vector<std::string> texts;
  for (const std::int64_t value : values) texts.push_back(describe_value(field, value));
  const char* const name = kFieldNames[static_cast<std::size_t>(field)];
  const auto what =
      fmt::format("{}: ranks disagree on {}: {} (by rank)", operation, name, fmt::join(texts, ", "));
  return std::make_exception_ptr(CollectiveMismatch(name, std::move(texts), what));
}

void Agreement::refuse(const Operation& operation, std::string_view reason) {
  ExchangeHeader header;
  header.is_refusal = 1;
  transport_.all_gather(compose(header, std::as_bytes(std::span(reason))), operation);
}

// Who has nothing to refuse sends nothing: a completion costs a signal, and no memory that others read.
void Agreement::hear_of_refusals(const Operation& operation) {
  const Gathered all = transport_.all_gather({}, operation);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (!all[rank].empty()) throw_refusal(operation, rank, all);
  }
}

std::span<const std::byte> Agreement::compose(const ExchangeHeader& header, std::span<const std::byte> tail) {
  outgoing_.resize(sizeof(header) + tail.size());
  std::memcpy(outgoing_.data(), &header, sizeof(header));
  std::copy(tail.begin(), tail.end(), outgoing_.begin() + sizeof(header));
  return outgoing_;
}

ExchangeResult Agreement::accept(const Operation& operation, const ExchangeMessage& message) {
  const Gathered all =
      transport_.all_gather(compose(message.header, std::as_bytes(message.counts)), operation);

  ExchangeResult result{.headers = headers_of(all), .counts = {}};
  throw_if_refused(operation, all, result.headers);
  throw_if_different(operation, result.headers);
  result.counts.reserve(all.size());
  for (const auto bytes : all) {
    const auto counts = bytes.subspan(sizeof(ExchangeHeader));
    result.counts.emplace_back(reinterpret_cast<const std::int32_t*>(counts.data()),
                               counts.size() / sizeof(std::int32_t));
  }
  return result;
}

}  // namespace flexep
