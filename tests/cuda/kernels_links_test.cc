// SPDX-License-Identifier: Apache-2.0
//
// What crosses a link: the memory of the other ranks, as one rank addresses it, is replaced by memory that
// nobody else sees. So the rows that this rank stores there can be counted, and those that it should not read
// be spoilt.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>

#include "conformance/case_spec.h"
#include "conformance/compare.h"
#include "cuda/case_on_device.h"

namespace flexep::testing {
namespace {

constexpr int kRanks = 3;

class KernelLinksTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!DeviceGroup::is_possible()) GTEST_SKIP() << "no GPU of sm_90 or later";
    group_ = std::make_unique<DeviceGroup>(kRanks, DeviceGroup::Sizes{.ranks_per_memory = 1});
    spec_ = conformance::draw_case(3, kRanks);
    spec_.num_tokens = {90, 50, 60};
    spec_.num_topk = 6;
    spec_.num_experts = 5 * kRanks;
    spec_.routing = conformance::RoutingKind::kUniform;
    spec_.do_expand = GetParam();
    spec_.do_zero_padding = false;
    spec_.do_cpu_sync = true;
    spec_.max_recv_tokens.clear();
    spec_.num_max_tokens_per_rank = 0;
  }

  /// Rank 0's view of all ranks' memory.
  void replace_memory_of_others(cuda::DispatchLaunch& launch) {
    std::array<std::byte*, kRanks> segments{group_->shared(0).data()};
    for (std::size_t r = 1; r < kRanks; ++r) {
      seen_[r] = std::make_unique<DeviceMemory>(group_->shared(static_cast<int>(r)).num_bytes());
      segments[r] = seen_[r]->data();
      require(cudaMemset(segments[r], CaseOnDevice::kPoison, seen_[r]->num_bytes()), "cudaMemset");
    }
    table_ = std::make_unique<DeviceMemory>(sizeof(segments));
    require(cudaMemcpy(table_->data(), segments.data(), sizeof(segments), cudaMemcpyHostToDevice), "table");
    launch.peers.segments = reinterpret_cast<std::byte* const*>(table_->data());
  }

  /// Rows of rank r's output that rank 0 has stored.
  int num_rows_stored(int r, const cuda::DispatchLaunch& launch, std::int64_t num_rows) const {
    const std::size_t row_bytes = launch.format.row_bytes;
    std::vector<std::uint8_t> rows(static_cast<std::size_t>(num_rows) * row_bytes);
    require(cudaMemcpy(rows.data(), seen_[static_cast<std::size_t>(r)]->data() + launch.header.region.offset,
                       rows.size(), cudaMemcpyDeviceToHost),
            "rows");
    int num_stored = 0;
    for (auto row = rows.begin(); row != rows.end(); row += static_cast<std::ptrdiff_t>(row_bytes)) {
      num_stored += std::any_of(row, row + static_cast<std::ptrdiff_t>(row_bytes),
                                [](std::uint8_t byte) { return byte != CaseOnDevice::kPoison; });
    }
    return num_stored;
  }

  /// Tokens of rank 0 that rank r receives.
  static int num_tokens_from_rank_0(const Tensor& metadata, int num_tokens_of_rank_0) {
    int num_tokens = 0;
    for (std::int64_t row = 0; row < metadata.size(0); ++row)
      num_tokens += metadata.data<std::int32_t>()[row * metadata.size(1)] < num_tokens_of_rank_0;
    return num_tokens;
  }

  /// Rows of a rank that are of tokens of rank 0 which have several there.
  static std::vector<std::int32_t> rows_with_company(const Tensor& metadata, int num_tokens_of_rank_0) {
    std::vector<std::int32_t> all;
    for (std::int64_t token = 0; token < metadata.size(0); ++token) {
      const std::int32_t* entry = metadata.data<std::int32_t>() + token * metadata.size(1);
      std::vector<std::int32_t> rows;
      std::copy_if(entry + 2, entry + metadata.size(1), std::back_inserter(rows),
                   [](std::int32_t row) { return row >= 0; });
      if (entry[0] < num_tokens_of_rank_0 && rows.size() > 1) all.insert(all.end(), rows.begin(), rows.end());
    }
    return all;
  }

  /// All ranks name their rows as registered memory, of which rank 0 sees a copy, with garbage in those rows
  /// that it need not read because their sum is elsewhere.
  void spoil_rows_with_sums(const CaseOnDevice& prepared, std::vector<cuda::CombineLaunch>& launches) {
    std::array<std::byte*, 2 * kRanks> addresses{};  // of all but rank 0, then of rank 0
    for (std::size_t r = 0; r < kRanks; ++r) {
      const DeviceMemory& memory = group_->shared(static_cast<int>(r));
      addresses[r] = addresses[kRanks + r] = memory.data();
      launches[r].header.x.segment = 1;
      if (r == 0) continue;
      seen_[r] = std::make_unique<DeviceMemory>(memory.num_bytes());
      addresses[kRanks + r] = seen_[r]->data();
      require(cudaMemcpy(seen_[r]->data(), memory.data(), memory.num_bytes(), cudaMemcpyDeviceToDevice),
              "copy");
      const Tensor& x = prepared.expected().expert_outputs[r].x;
      const std::size_t row_bytes = static_cast<std::size_t>(x.size(1)) * size_of(x.dtype());
      const auto rows =
          rows_with_company(prepared.expected().received[r].recv_src_metadata, spec_.agreed_num_max_tokens());
      EXPECT_FALSE(rows.empty());
      for (const std::int32_t row : rows)
        require(cudaMemset(seen_[r]->data() + launches[r].header.x.offset +
                               static_cast<std::size_t>(row) * row_bytes,
                           CaseOnDevice::kPoison, row_bytes),
                "spoil");
    }
    table_ = std::make_unique<DeviceMemory>(sizeof(addresses));
    require(cudaMemcpy(table_->data(), addresses.data(), sizeof(addresses), cudaMemcpyHostToDevice), "table");
    for (cuda::CombineLaunch& launch : launches) {
      launch.peers.registered =
          reinterpret_cast<std::byte* const*>(table_->data()) + (launch.peers.rank == 0 ? kRanks : 0);
      launch.peers.num_registered = 1;
    }
  }

  std::unique_ptr<DeviceGroup> group_;
  conformance::CaseSpec spec_;
  std::array<std::unique_ptr<DeviceMemory>, kRanks> seen_;
  std::unique_ptr<DeviceMemory> table_;
};

TEST_P(KernelLinksTest, ATokenCrossesALinkOnceForEachRank) {
  CaseOnDevice prepared(*group_, spec_, {.num_sms = 3});
  std::vector<cuda::DispatchLaunch> launches;
  for (int rank = 0; rank < kRanks; ++rank) launches.push_back(prepared.dispatch_launch(rank));
  replace_memory_of_others(launches[0]);
  // What they would fan out does not reach them.
  for (std::size_t r = 1; r < kRanks; ++r) launches[r].peers.is_across_link = nullptr;
  DeviceGroup::finish_uploads();
  for (const auto& launch : launches)
    require(cuda::launch_dispatch(launch, group_->stream(launch.peers.rank)), "launch");
  group_->synchronize();
  for (int r = 1; r < kRanks; ++r) {
    const auto& received = prepared.expected().received[static_cast<std::size_t>(r)];
    const int num_tokens = num_tokens_from_rank_0(received.recv_src_metadata, spec_.agreed_num_max_tokens());
    EXPECT_GT(num_tokens, 0);
    EXPECT_EQ(num_rows_stored(r, launches[static_cast<std::size_t>(r)], received.x.size(0)), num_tokens)
        << "rank " << r;
  }
}

using KernelSumsTest = KernelLinksTest;

TEST_P(KernelSumsTest, OfATokenWithSeveralRowsOnlyTheirSumIsRead) {
  spec_.allow_multiple_reduction = true;
  CaseOnDevice prepared(*group_, spec_, {.num_sms = 3});
  ASSERT_EQ(prepared.run_dispatch().value_or(""), "");
  std::vector<cuda::CombineLaunch> launches;
  for (int rank = 0; rank < kRanks; ++rank)
    launches.push_back(prepared.combine_launch(rank, CaseOnDevice::CombineInput::kInPlaceWithSums));
  spoil_rows_with_sums(prepared, launches);
  DeviceGroup::finish_uploads();
  for (const auto& launch : launches)
    require(cuda::launch_combine(launch, group_->stream(launch.peers.rank)), "launch");
  group_->synchronize();
  const Tensor& expected = prepared.expected().combined[0].x;
  const Tensor got = download(launches[0].out_x, expected.shape(), expected.dtype());
  EXPECT_EQ(conformance::first_mismatch(expected, got).value_or(""), "");
}

INSTANTIATE_TEST_SUITE_P(Expanded, KernelSumsTest, ::testing::Values(true),
                         [](const auto&) { return "Expanded"; });

INSTANTIATE_TEST_SUITE_P(Layouts, KernelLinksTest, ::testing::Bool(),
                         [](const auto& layout) { return layout.param ? "Expanded" : "Compact"; });

}  // namespace
}  // namespace flexep::testing
