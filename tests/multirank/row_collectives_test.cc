// SPDX-License-Identifier: Apache-2.0
#include "flexep/row_collectives.h"

#include <gtest/gtest.h>

#include <numeric>

#include "flexep/error.h"
#include "support/tensors.h"

namespace flexep {
namespace {

using testing::tensor_of;
using testing::values_of;

/// Ranks, and ranks of a domain.
class RowCollectivesTest : public ::testing::TestWithParam<std::pair<int, int>> {
 protected:
  template <typename Body>
  void on_every_rank(Body&& body) {
    in_process(GetParam().first,
               [&](Communicator& comm) {
                 RowCollectives rows(comm);
                 body(rows);
               },
               {.num_scaleup_ranks = GetParam().second});
  }
};

// Rank s sends d + s rows to rank d, none to itself if it is rank 0; row i of them is (s, d, i).
std::int32_t num_rows(int source, int destination) {
  return source + destination;
}

TEST_P(RowCollectivesTest, AllToAllDeliversBySourceRankInTheSourcesOrder) {
  on_every_rank([](RowCollectives& rows) {
    std::vector<std::int32_t> counts, sent, expected;
    for (int r = 0; r < rows.num_ranks(); ++r) {
      counts.push_back(num_rows(rows.rank(), r));
      for (int i = 0; i < num_rows(rows.rank(), r); ++i) sent.insert(sent.end(), {rows.rank(), r, i});
      for (int i = 0; i < num_rows(r, rows.rank()); ++i) expected.insert(expected.end(), {r, rows.rank(), i});
    }
    const auto x = tensor_of<std::int32_t>({std::accumulate(counts.begin(), counts.end(), 0), 3}, sent);
    const Tensor got = rows.all_to_all(x, counts);
    EXPECT_EQ(got.shape(), (Shape{static_cast<std::int64_t>(expected.size()) / 3, 3}));
    EXPECT_EQ(values_of<std::int32_t>(got), expected);
  });
}

TEST_P(RowCollectivesTest, AllToAllReadsMemoryOfItsOwnInPlace) {
  on_every_rank([](RowCollectives& rows) {
    const std::vector<std::int32_t> counts(static_cast<std::size_t>(rows.num_ranks()), 2);
    const Tensor x = rows.empty({2 * rows.num_ranks(), 5}, DType::kFloat64);
    std::iota(x.values<double>().begin(), x.values<double>().end(), 100.0 * rows.rank());
    const Tensor there = rows.all_to_all(x, counts);
    const Tensor back = rows.all_to_all(there, counts);
    EXPECT_EQ(values_of<double>(back), values_of<double>(x));
  });
}

TEST_P(RowCollectivesTest, AllGatherTakesRaggedRowsOfOneDimension) {
  on_every_rank([](RowCollectives& rows) {
    const Tensor x = Tensor::empty({rows.rank()}, DType::kInt64);
    std::fill(x.values<std::int64_t>().begin(), x.values<std::int64_t>().end(), rows.rank());
    std::vector<std::int64_t> expected;
    for (int r = 0; r < rows.num_ranks(); ++r)
      expected.insert(expected.end(), static_cast<std::size_t>(r), r);
    EXPECT_EQ(values_of<std::int64_t>(rows.all_gather(x)), expected);
  });
}

TEST_P(RowCollectivesTest, ReduceScatterIsTheTransposeOfAllGather) {
  on_every_rank([](RowCollectives& rows) {
    std::vector<std::int32_t> counts(static_cast<std::size_t>(rows.num_ranks()));
    std::iota(counts.begin(), counts.end(), 0);
    const std::int64_t total = std::accumulate(counts.begin(), counts.end(), 0);
    const Tensor x = Tensor::empty({total, 2}, DType::kFloat32);
    for (std::int64_t i = 0; i < total * 2; ++i)
      x.data<float>()[i] = static_cast<float>(i * (rows.rank() + 1));
    const Tensor sums = rows.reduce_scatter(x, counts);

    const int num_ranks = rows.num_ranks(), first_row = rows.rank() * (rows.rank() - 1) / 2;
    std::vector<float> expected;
    for (int i = 2 * first_row; i < 2 * (first_row + rows.rank()); ++i)
      expected.push_back(static_cast<float>(i * num_ranks * (num_ranks + 1) / 2));
    EXPECT_EQ(values_of<float>(sums), expected);
  });
}

TEST_P(RowCollectivesTest, ReduceScatterRoundsHalfPrecisionOnce) {
  on_every_rank([](RowCollectives& rows) {
    // 256 + 1 + 1 ...: every bf16 partial sum would stay at 256.
    const std::vector<std::int32_t> counts(static_cast<std::size_t>(rows.num_ranks()), 1);
    const Tensor x = Tensor::empty({rows.num_ranks(), 8}, DType::kBFloat16);
    for (auto& value : x.values<BFloat16>()) value = BFloat16(rows.rank() == 0 ? 256.0f : 1.0f);
    const float sum = 256.0f + static_cast<float>(rows.num_ranks() - 1);
    for (const auto value : rows.reduce_scatter(x, counts).values<BFloat16>())
      EXPECT_EQ(value.bits, BFloat16(sum).bits);
  });
}

TEST_P(RowCollectivesTest, WhatOneRankPassesWronglyIsAnErrorOfAll) {
  on_every_rank([](RowCollectives& rows) {
    const int num_ranks = rows.num_ranks();
    std::vector<std::int32_t> counts(static_cast<std::size_t>(num_ranks), 1);
    const Tensor x = Tensor::zeros({num_ranks, 2}, DType::kFloat32);
    if (rows.rank() == 0) {
      EXPECT_THROW(rows.all_to_all(x.rows(1, num_ranks), counts), InvalidArgument);
      EXPECT_THROW(rows.reduce_scatter(Tensor::zeros({num_ranks, 2}, DType::kInt32), counts),
                   InvalidArgument);
      EXPECT_THROW(rows.all_gather({}), InvalidArgument);
      float nowhere = 0;
      EXPECT_THROW(
          rows.all_gather(Tensor::from_memory(&nowhere, {1, 2}, DType::kFloat32, nullptr, Device::cuda())),
          InvalidArgument);
    } else {
      EXPECT_THROW(rows.all_to_all(x, counts), PeerError);
      EXPECT_THROW(rows.reduce_scatter(x, counts), PeerError);
      EXPECT_THROW(rows.all_gather(x), PeerError);
      EXPECT_THROW(rows.all_gather(x), PeerError);
    }
    EXPECT_EQ(rows.all_gather(x).size(0), num_ranks * num_ranks);  // the group is as good as before
    if (num_ranks == 1) return;
    EXPECT_THROW(rows.all_gather(rows.rank() == 0 ? x.reshape({2 * num_ranks}) : x), CollectiveMismatch);
    counts[0] += rows.rank() == 0 ? 1 : 0;
    counts[1] -= rows.rank() == 0 ? 1 : 0;
    EXPECT_THROW(rows.reduce_scatter(x, counts), CollectiveMismatch);
  });
}

TEST_P(RowCollectivesTest, ResultsOutliveTheObject) {
  std::vector<Tensor> kept(static_cast<std::size_t>(GetParam().first));
  on_every_rank([&](RowCollectives& rows) {
    kept[static_cast<std::size_t>(rows.rank())] =
        rows.all_gather(tensor_of<std::int32_t>({1}, {rows.rank()}));
  });
  for (const Tensor& tensor : kept) EXPECT_EQ(tensor.values<std::int32_t>().back(), GetParam().first - 1);
}

std::string name_of_group(const ::testing::TestParamInfo<std::pair<int, int>>& info) {
  const auto [num_ranks, num_scaleup_ranks] = info.param;
  return std::to_string(num_ranks) + "RanksInDomainsOf" + std::to_string(num_scaleup_ranks);
}

INSTANTIATE_TEST_SUITE_P(Ranks, RowCollectivesTest,
                         ::testing::Values(std::pair(1, 1), std::pair(2, 2), std::pair(3, 3), std::pair(5, 5),
                                           std::pair(2, 1), std::pair(4, 2), std::pair(6, 2)),
                         name_of_group);

}  // namespace
}  // namespace flexep
