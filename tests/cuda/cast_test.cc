// SPDX-License-Identifier: Apache-2.0
//
// Casts on a GPU: the bits of the CPU.
#include "flexep/cast.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "cuda/small_round_trip.h"
#include "flexep/error.h"

namespace flexep {
namespace {

using flexep::testing::this_gpu;

using CudaCastTest = flexep::testing::CudaTest;

/// Any bits: NaN and infinities, subnormals, all exponents; every third row ordinary numbers.
template <typename T>
Tensor rows_of(std::int64_t num_tokens, std::int64_t hidden) {
  std::mt19937 random(static_cast<std::uint32_t>(hidden));
  std::normal_distribution<float> normal;
  const Tensor x = Tensor::empty({num_tokens, hidden}, kDTypeOf<T>);
  for (std::int64_t i = 0; i < x.num_elements(); ++i) {
    const std::uint32_t bits = random();
    if (i / hidden % 3 == 0) {
      x.data<T>()[i] = T(normal(random));
    } else {
      std::memcpy(static_cast<void*>(x.data<T>() + i), &bits, sizeof(T));
    }
  }
  return x;
}

void expect_same_bits(const Tensor& expected, const Tensor& on_gpu, const std::string& what) {
  ASSERT_EQ(expected.shape(), on_gpu.shape());
  ASSERT_EQ(expected.dtype(), on_gpu.dtype());
  const Tensor got = cuda::to_host(on_gpu).contiguous();
  const auto* const a = static_cast<const unsigned char*>(expected.data());
  const auto* const b = static_cast<const unsigned char*>(got.data());
  for (std::size_t i = 0; i < got.num_bytes(); ++i) ASSERT_EQ(a[i], b[i]) << what << ", byte " << i;
}

template <typename T>
void expect_casts_agree(std::int64_t num_tokens, std::int64_t hidden) {
  const Tensor x = rows_of<T>(num_tokens, hidden);
  for (const ScaleFormat format : {ScaleFormat::kFloat32, ScaleFormat::kUE8M0}) {
    const QuantisedRows expected = cast_to_fp8(x, format);
    const QuantisedRows got = cast_to_fp8(cuda::to_device(x, this_gpu()), format);
    const std::string what = fmt::format("{} x {} {}", num_tokens, hidden, name_of(x.dtype()));
    expect_same_bits(expected.x, got.x, what);
    expect_same_bits(expected.sf, got.sf, what + ", sf");
    expect_same_bits(cast_from_fp8(expected.x, expected.sf, x.dtype()),
                     cast_from_fp8(got.x, got.sf, x.dtype()), what + ", back");
  }
}

TEST_F(CudaCastTest, GivesTheBitsOfTheCpu) {
  for (const std::int64_t hidden : {1, 2, 6, 127, 128, 132, 384, 511, 512, 513, 1024, 7168}) {
    for (const std::int64_t num_tokens : {0, 1, 7, 40}) {
      expect_casts_agree<BFloat16>(num_tokens, hidden);
      expect_casts_agree<Float16>(num_tokens, hidden);
      expect_casts_agree<float>(num_tokens, hidden);
    }
  }
}

/// Every other column, and every third row; factors by columns.
TEST_F(CudaCastTest, ReadsAnyStrides) {
  const Tensor all = rows_of<BFloat16>(30, 600);
  const auto strided = [](const Tensor& tensor) {
    return Tensor::from_memory(tensor.data(), {10, 300}, {1800, 2}, tensor.dtype(), tensor.owner(),
                               tensor.device());
  };
  const QuantisedRows expected = cast_to_fp8(strided(all));
  const QuantisedRows got = cast_to_fp8(strided(cuda::to_device(all, this_gpu())));
  expect_same_bits(expected.x, got.x, "x");
  const Tensor sf = cuda::to_host(got.sf);
  std::vector<float> by_columns(30);
  for (std::size_t i = 0; i < 30; ++i) by_columns[i % 3 * 10 + i / 3] = sf.values<float>()[i];
  const Tensor columns = cuda::to_device(flexep::testing::tensor_of<float>({30}, by_columns), this_gpu());
  const Tensor view =
      Tensor::from_memory(columns.data(), {10, 3}, {1, 10}, DType::kFloat32, columns.owner(), this_gpu());
  expect_same_bits(cast_from_fp8(expected.x, expected.sf, DType::kBFloat16),
                   cast_from_fp8(got.x, view, DType::kBFloat16), "back");
}

TEST_F(CudaCastTest, TensorsOfDifferentMemoriesAreRefused) {
  const QuantisedRows rows = cast_to_fp8(rows_of<float>(2, 128));
  EXPECT_THROW(cast_from_fp8(cuda::to_device(rows.x, this_gpu()), rows.sf, DType::kFloat32), InvalidArgument);
}

}  // namespace
}  // namespace flexep
