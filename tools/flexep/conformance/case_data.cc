// SPDX-License-Identifier: Apache-2.0
#include "conformance/case_data.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "conformance/random.h"

namespace flexep::conformance {
namespace {

/// Each piece of data has its own stream of random numbers, so that it does not depend on the others.
enum Stream : std::uint64_t {
  kRouting = 1000,
  kRows = 2000,
  kWeights = 3000,
  kCachedRows = 4000,
  kCachedWeights = 5000,
  kExpertRows = 6000,
  kExpertWeights = 7000,
  kScales = 8000,
  kCachedScales = 9000,
  kBias = 10000,
  kSecondBias = 11000
};

Random stream(const CaseSpec& spec, Stream kind, int rank) {
  return Random(spec.seed, static_cast<std::uint64_t>(kind) + static_cast<std::uint64_t>(rank));
}

/// A number around 1, any exponent, or mostly NaN, infinities, zeros and subnormals: as the bits of a format
/// whose fp64, fp32 or bf16 layout has `exponent_bits` and `mantissa_bits`.
template <typename Bits>
Bits draw_bits(Random& random, ValueKind kind, int exponent_bits, int mantissa_bits) {
  const auto sign = static_cast<Bits>((random.next() & 1u) << (exponent_bits + mantissa_bits));
  const auto max_exponent = static_cast<Bits>((std::uint64_t{1} << exponent_bits) - 1);
  const auto mantissa = static_cast<Bits>(random.next() & ((std::uint64_t{1} << mantissa_bits) - 1));
  const auto with_exponent = [&](Bits exponent) {
    return static_cast<Bits>(sign | (exponent << mantissa_bits) | mantissa);
  };
  switch (kind) {
    case ValueKind::kOrdinary:
      return with_exponent(static_cast<Bits>(max_exponent / 2 - 3 + random.next() % 5));
    case ValueKind::kWide:
      return with_exponent(static_cast<Bits>(random.next() % max_exponent));
    case ValueKind::kSpecial:
      break;
  }
  switch (random.in_range(0, 6)) {
    case 0:
      return with_exponent(max_exponent);  // NaN, or infinity
    case 1:
      return static_cast<Bits>(sign | max_exponent << mantissa_bits);  // infinity
    case 2:
      return sign;  // zero
    case 3:
      return with_exponent(0);  // subnormal
    case 4:
      return with_exponent(1);  // the smallest normal numbers
    default:
      return draw_bits<Bits>(random, ValueKind::kOrdinary, exponent_bits, mantissa_bits);
  }
}

template <typename Bits>
void fill_bits(const Tensor& tensor, Random random, ValueKind kind, int exponent_bits, int mantissa_bits) {
  auto* bits = static_cast<Bits*>(tensor.data());
  for (std::int64_t i = 0; i < tensor.num_elements(); ++i) {
    bits[i] = draw_bits<Bits>(random, kind, exponent_bits, mantissa_bits);
  }
}

Tensor random_tensor(const Shape& shape, DType dtype, const Random& random, ValueKind kind) {
  Tensor tensor = Tensor::empty(shape, dtype);
  switch (dtype) {
    case DType::kBFloat16:
      fill_bits<std::uint16_t>(tensor, random, kind, 8, 7);
      break;
    case DType::kFloat16:
      fill_bits<std::uint16_t>(tensor, random, kind, 5, 10);
      break;
    case DType::kFloat32:
      fill_bits<std::uint32_t>(tensor, random, kind, 8, 23);
      break;
    case DType::kFloat64:
      fill_bits<std::uint64_t>(tensor, random, kind, 11, 52);
      break;
    case DType::kFloat8E4M3:
    case DType::kUInt8:
    case DType::kInt8:
      fill_bits<std::uint8_t>(tensor, random, kind, 4, 3);
      break;
    case DType::kInt16:
      fill_bits<std::uint16_t>(tensor, random, kind, 8, 7);
      break;
    case DType::kInt32:
      fill_bits<std::uint32_t>(tensor, random, kind, 8, 23);
      break;
    case DType::kInt64:
      fill_bits<std::uint64_t>(tensor, random, kind, 11, 52);
      break;
  }
  return tensor;
}

/// Rank in a Zipf distribution with exponent 1, by inverting its continuous form.
std::int64_t draw_zipf(Random& random, int num_experts) {
  const double x = std::exp(random.fraction() * std::log(num_experts + 1.0));
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(x) - 1, 0, num_experts - 1);
}

std::int64_t draw_expert(Random& random, const CaseSpec& spec, int rank) {
  const int num_local_experts = spec.num_experts / spec.num_ranks();
  switch (spec.routing) {
    case RoutingKind::kNothingRouted:
      return -1;
    case RoutingKind::kOneExpert:
      return spec.num_experts / 2;
    case RoutingKind::kOwnRank:
      return rank * num_local_experts + random.in_range(0, num_local_experts - 1);
    case RoutingKind::kZipf:
      return draw_zipf(random, spec.num_experts);
    case RoutingKind::kSomeUnrouted:
      if (random.one_in(3)) return -1;
      break;
    case RoutingKind::kUniform:
      break;
  }
  return random.in_range(0, spec.num_experts - 1);
}

/// The ids of one token: distinct; a column that finds no new expert soon is left unrouted.
std::vector<std::int64_t> draw_ids(Random& random, const CaseSpec& spec, int rank) {
  constexpr int kAttempts = 20;
  std::vector<std::int64_t> ids;
  for (int k = 0; k < spec.num_topk; ++k) {
    std::int64_t id = draw_expert(random, spec, rank);
    for (int attempt = 0; attempt < kAttempts && std::ranges::count(ids, id) > 0; ++attempt) {
      id = draw_expert(random, spec, rank);
    }
    ids.push_back(std::ranges::count(ids, id) > 0 ? -1 : id);
  }
  return ids;
}

Tensor make_topk_idx(const CaseSpec& spec, int rank) {
  Random random = stream(spec, kRouting, rank);
  const int num_tokens = spec.num_tokens[static_cast<std::size_t>(rank)];
  std::vector<std::int64_t> all;
  for (int token = 0; token < num_tokens; ++token) {
    const auto ids = draw_ids(random, spec, rank);
    all.insert(all.end(), ids.begin(), ids.end());
  }
  const Shape shape{num_tokens, spec.num_topk};
  if (spec.idx_dtype == DType::kInt64) return Tensor::from_values(std::span<const std::int64_t>(all), shape);
  const std::vector<std::int32_t> narrow(all.begin(), all.end());
  return Tensor::from_values(std::span<const std::int32_t>(narrow), shape);
}

Tensor make_rows(const CaseSpec& spec, Stream kind, int rank, const Shape& shape, DType dtype) {
  return random_tensor(shape, dtype, stream(spec, kind, rank), spec.values);
}

/// No tensor when the case has no scaling factors. They are moved like rows, whatever they mean.
Tensor make_scales(const CaseSpec& spec, Stream kind, int rank, int num_tokens) {
  if (spec.num_sf_packs == 0) return {};
  const Tensor bits = make_rows(spec, kind, rank, {num_tokens, spec.num_sf_packs}, DType::kFloat32);
  return Tensor::from_memory(bits.data(), bits.shape(), spec.sf_dtype, bits.owner());
}

/// No tensor when the case has no weights.
Tensor make_weights(const CaseSpec& spec, Stream kind, int rank, const Shape& shape) {
  return spec.weights_dtype ? make_rows(spec, kind, rank, shape, *spec.weights_dtype) : Tensor();
}

}  // namespace

std::vector<reference::RankInput> make_inputs(const CaseSpec& spec) {
  std::vector<reference::RankInput> inputs;
  for (int rank = 0; rank < spec.num_ranks(); ++rank) {
    const int num_tokens = spec.num_tokens[static_cast<std::size_t>(rank)];
    inputs.push_back({.x = make_rows(spec, kRows, rank, {num_tokens, spec.hidden}, spec.dtype),
                      .topk_idx = make_topk_idx(spec, rank),
                      .topk_weights = make_weights(spec, kWeights, rank, {num_tokens, spec.num_topk}),
                      .sf = make_scales(spec, kScales, rank, num_tokens)});
  }
  return inputs;
}

std::vector<reference::RankInput> make_cached_inputs(const CaseSpec& spec,
                                                     const std::vector<reference::RankInput>& inputs) {
  std::vector<reference::RankInput> cached;
  for (int rank = 0; rank < spec.num_ranks(); ++rank) {
    const int num_tokens = spec.num_tokens[static_cast<std::size_t>(rank)];
    cached.push_back(
        {.x = make_rows(spec, kCachedRows, rank, {num_tokens, spec.expert_hidden}, spec.expert_dtype),
         .topk_idx = inputs[static_cast<std::size_t>(rank)].topk_idx,
         .topk_weights = make_weights(spec, kCachedWeights, rank, {num_tokens, spec.num_topk}),
         .sf = make_scales(spec, kCachedScales, rank, num_tokens)});
  }
  return cached;
}

std::vector<reference::CombineInput> make_expert_outputs(const CaseSpec& spec,
                                                         const std::vector<reference::RankOutput>& received) {
  std::vector<reference::CombineInput> outputs;
  for (int rank = 0; rank < spec.num_ranks(); ++rank) {
    const std::int64_t num_rows = received[static_cast<std::size_t>(rank)].x.size(0);
    const Shape weights_shape = spec.do_expand ? Shape{num_rows} : Shape{num_rows, spec.num_topk};
    outputs.push_back(
        {.x = make_rows(spec, kExpertRows, rank, {num_rows, spec.expert_hidden}, spec.expert_dtype),
         .topk_weights = make_weights(spec, kExpertWeights, rank, weights_shape)});
    for (int i = 0; i < spec.num_biases; ++i) {
      const Shape shape{spec.num_tokens[static_cast<std::size_t>(rank)], spec.expert_hidden};
      outputs.back().bias[static_cast<std::size_t>(i)] =
          make_rows(spec, i == 0 ? kBias : kSecondBias, rank, shape, spec.expert_dtype);
    }
  }
  return outputs;
}

}  // namespace flexep::conformance
