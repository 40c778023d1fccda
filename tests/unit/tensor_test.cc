// SPDX-License-Identifier: Apache-2.0
#include "flexep/tensor.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <span>

#include "flexep/error.h"

namespace flexep {
namespace {

constexpr std::array<float, 6> kValues{0, 1, 2, 3, 4, 5};

Tensor two_by_three() {
  return Tensor::from_values(std::span<const float>(kValues), {2, 3});
}

TEST(ShapeTest, NamesItselfAndCountsItsElements) {
  const Shape shape{2048, 7168};
  EXPECT_EQ(shape.to_string(), "[2048, 7168]");
  EXPECT_EQ(shape.num_elements(), 2048 * 7168);
}

TEST(ShapeTest, RefusesNegativeExtentsAndTooManyDimensions) {
  EXPECT_THROW(Shape({2, -1}), InvalidArgument);
  EXPECT_THROW(Shape({1, 1, 1, 1, 1}), InvalidArgument);
}

TEST(TensorTest, CopiesShareMemoryAndClonesDoNot) {
  const Tensor tensor = two_by_three();
  const Tensor copy = tensor;
  const Tensor clone = tensor.clone();
  copy.data<float>()[0] = 7;
  EXPECT_EQ(tensor.data<float>()[0], 7);
  EXPECT_EQ(clone.data<float>()[0], 0);
}

TEST(TensorTest, RowsAreAViewOfTheOutermostDimension) {
  const Tensor row = two_by_three().rows(1, 2);
  EXPECT_EQ(row.shape(), Shape({1, 3}));
  EXPECT_EQ(row.data<float>()[0], 3);
}

TEST(TensorTest, RowsOutsideAreRefused) {
  EXPECT_THROW(two_by_three().rows(1, 3), InvalidArgument);
  EXPECT_THROW(two_by_three().rows(2, 1), InvalidArgument);
}

TEST(TensorTest, ReadingAnotherTypeIsRefused) {
  EXPECT_THROW(two_by_three().data<double>(), InvalidArgument);
}

TEST(TensorTest, ReshapeKeepsTheElements) {
  EXPECT_EQ(two_by_three().reshape({3, 2}).size(0), 3);
  EXPECT_THROW(two_by_three().reshape({4, 2}), InvalidArgument);
}

TEST(TensorTest, OwnerLivesUntilTheLastCopyIsGone) {
  auto owner = std::make_shared<int>(0);
  const std::weak_ptr<int> alive = owner;
  Tensor tensor = Tensor::from_memory(owner.get(), {1}, DType::kInt32, std::move(owner));
  const Tensor view = tensor.rows(0, 1);
  tensor = {};
  EXPECT_FALSE(alive.expired());
}

TEST(ShapeTest, RefusesMoreElementsThanBytesCanCount) {
  EXPECT_THROW(Shape({std::int64_t{1} << 33, std::int64_t{1} << 33}), InvalidArgument);
  EXPECT_THROW(Shape({std::int64_t{1} << 62}), InvalidArgument);
  EXPECT_EQ(Shape({std::int64_t{1} << 58, 0}).num_elements(), 0);
}

TEST(TensorTest, NoTensorHasNoElementsAndSaysSo) {
  const Tensor none;
  EXPECT_EQ(none.num_elements(), 0);
  EXPECT_EQ(none.num_bytes(), 0u);
  EXPECT_THROW(none.values<float>(), InvalidArgument);
  EXPECT_THROW(none.data<std::int64_t>(), InvalidArgument);
}

TEST(TensorTest, StridedTensorsKnowThatTheyAreNotContiguous) {
  const Tensor dense = two_by_three();
  EXPECT_TRUE(dense.is_contiguous());
  const Tensor transposed = Tensor::from_memory(dense.data(), {3, 2}, {1, 3}, DType::kFloat32);
  EXPECT_FALSE(transposed.is_contiguous());
  EXPECT_THROW(transposed.values<float>(), InvalidArgument);
  EXPECT_THROW(transposed.reshape({6}), InvalidArgument);
  const std::array<float, 6> expected{0, 3, 1, 4, 2, 5};
  const Tensor copy = transposed.contiguous();
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), copy.data<float>()));
  EXPECT_EQ(dense.contiguous().data(), dense.data());
}

TEST(TensorTest, RowsAndRepeatedElementsOfStridedTensorsAreTakenAsTheyLie) {
  const Tensor dense = two_by_three();
  const Tensor second_column = Tensor::from_memory(dense.data<float>() + 1, {2, 1}, {3, 1}, DType::kFloat32);
  EXPECT_EQ(second_column.rows(1, 2).data<float>()[0], 4);
  EXPECT_TRUE(second_column.rows(1, 2).is_contiguous());
  const Tensor repeated = Tensor::from_memory(dense.data(), {2, 3}, {0, 1}, DType::kFloat32);
  EXPECT_EQ(repeated.clone().data<float>()[4], 1);
}

TEST(TensorTest, OnADeviceHasNoElementsForTheHost) {
  std::array<float, 6> memory{};
  const Tensor tensor =
      Tensor::from_memory(memory.data(), {2, 3}, DType::kFloat32, nullptr, Device::cuda(1)).rows(1, 2);
  EXPECT_EQ(tensor.device(), Device::cuda(1));
  EXPECT_EQ(tensor.reshape({3}).device().to_string(), "cuda:1");
  EXPECT_EQ(tensor.data<float>(), memory.data() + 3);
  EXPECT_EQ(tensor.contiguous().data(), tensor.data());
  EXPECT_THROW(tensor.values<float>(), InvalidArgument);
  EXPECT_THROW(tensor.clone(), InvalidArgument);
}

TEST(ShapeTest, StridesFitEvenWhereThereAreNoElements) {
  constexpr std::int64_t kLarge = std::int64_t{1} << 40;
  EXPECT_THROW((Shape{0, kLarge, kLarge}), InvalidArgument);
  EXPECT_EQ((Shape{0, kLarge}).num_elements(), 0);
}

}  // namespace
}  // namespace flexep
