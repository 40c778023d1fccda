// SPDX-License-Identifier: Apache-2.0
//
// What kernels report when something is wrong: the same verdict on all ranks, and a group that goes on.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "conformance/case_spec.h"
#include "cuda/case_on_device.h"
#include "kernels/cuda/refusal.h"

namespace flexep::testing {
namespace {

using conformance::CaseSpec;
using cuda::OperationResult;
using cuda::Refusal;
using cuda::Verdict;

constexpr int kRanks = 3;

class KernelErrorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceGroup::is_possible()) GTEST_SKIP() << "no GPU of sm_90 or later";
    make_group(20'000'000'000);
    spec_ = conformance::draw_case(1, kRanks);
    spec_.do_cpu_sync = true;
    spec_.num_tokens = {40, 50, 60};
    spec_.num_topk = 4;
    spec_.num_experts = 4 * kRanks;
    spec_.routing = conformance::RoutingKind::kUniform;
    spec_.idx_dtype = DType::kInt64;
    spec_.max_recv_tokens.clear();
    spec_.num_max_tokens_per_rank = 0;
  }

  void make_group(std::uint64_t timeout_ns) {
    group_ = std::make_unique<DeviceGroup>(kRanks, DeviceGroup::Sizes{.timeout_ns = timeout_ns});
  }

  /// Launches all ranks' dispatch, as `change` has it.
  void dispatch(const std::function<void(cuda::DispatchLaunch&)>& change) {
    CaseOnDevice prepared(*group_, spec_, {.num_sms = 3});
    std::vector<cuda::DispatchLaunch> launches;
    for (int rank = 0; rank < kRanks; ++rank) {
      launches.push_back(prepared.dispatch_launch(rank));
      change(launches.back());
    }
    DeviceGroup::finish_uploads();
    for (const auto& launch : launches) {
      if (launch.num_sms == 0) continue;
      ASSERT_EQ(cuda::launch_dispatch(launch, group_->stream(launch.peers.rank)), cudaSuccess);
    }
    group_->synchronize();
  }

  void set_id(const cuda::DispatchLaunch& launch, int token, int column, std::int64_t value) {
    const auto index = static_cast<std::size_t>(token * spec_.num_topk + column);
    auto* ids = const_cast<std::int64_t*>(static_cast<const std::int64_t*>(launch.topk_idx));
    ASSERT_EQ(cudaMemcpy(ids + index, &value, sizeof(value), cudaMemcpyHostToDevice), cudaSuccess);
  }

  void expect_everywhere(Verdict verdict, int culprit) {
    for (int rank = 0; rank < kRanks; ++rank) {
      EXPECT_EQ(group_->result(rank).verdict, verdict) << rank;
      EXPECT_EQ(group_->result(rank).culprit, culprit) << rank;
    }
  }
  void expect_group_works() {
    const auto mismatch = CaseOnDevice(*group_, spec_, {.num_sms = 3}).run();
    EXPECT_FALSE(mismatch) << *mismatch;
  }
  const cuda::ExchangeHeader& header_of(int culprit, int seen_by) {
    const cuda::ResultLayout layout{kRanks, spec_.num_experts / kRanks};
    return group_->result_array<cuda::ExchangeHeader>(seen_by, layout.headers())[culprit];
  }

  std::unique_ptr<DeviceGroup> group_;
  CaseSpec spec_;
};

TEST_F(KernelErrorTest, FirstIdOutOfRangeIsNamedOnAllRanks) {
  dispatch([&](cuda::DispatchLaunch& launch) {
    if (launch.peers.rank != 1) return;
    set_id(launch, 33, 2, spec_.num_experts);
    set_id(launch, 41, 0, -2);
  });
  expect_everywhere(Verdict::kRefused, 1);
  for (int rank = 0; rank < kRanks; ++rank) {
    const auto& header = header_of(1, rank);
    EXPECT_EQ(header.refusal, Refusal::kIdOutOfRange);
    EXPECT_EQ(header.bad_id.token, 33);
    EXPECT_EQ(header.bad_id.column, 2);
    EXPECT_EQ(header.bad_id.value, spec_.num_experts);
  }
  expect_group_works();
}

TEST_F(KernelErrorTest, RepeatedIdIsNamedWithBothColumns) {
  dispatch([&](cuda::DispatchLaunch& launch) {
    if (launch.peers.rank != 2) return;
    const std::int64_t ids[] = {3, 7, 5, 7};
    for (int k = 0; k < 4; ++k) set_id(launch, 59, k, ids[k]);
  });
  expect_everywhere(Verdict::kRefused, 2);
  const auto& header = header_of(2, 0);
  EXPECT_EQ(header.refusal, Refusal::kIdRepeated);
  EXPECT_EQ(header.bad_id.token, 59);
  EXPECT_EQ(header.bad_id.column, 3);
  EXPECT_EQ(header.bad_id.first_column, 1);
  expect_group_works();
}

TEST_F(KernelErrorTest, DifferentFingerprintsAreAMismatchOfTheFirstField) {
  dispatch([](cuda::DispatchLaunch& launch) {
    launch.header.fingerprint[9] = launch.peers.rank == 0;
    launch.header.fingerprint[5] = launch.peers.rank == 2;
  });
  expect_everywhere(Verdict::kMismatch, 5);
  expect_group_works();
}

TEST_F(KernelErrorTest, OutputThatDoesNotFitIsKnownToAllWithItsSize) {
  dispatch([](cuda::DispatchLaunch& launch) {
    if (launch.peers.rank == 1) launch.header.region_bytes -= 1;
  });
  expect_everywhere(Verdict::kDoesNotFit, 1);
  const cuda::ResultLayout layout{kRanks, spec_.num_experts / kRanks};
  EXPECT_GT(group_->result_array<std::int32_t>(0, layout.receive_sizes())[2], 0);
  expect_group_works();
}

TEST_F(KernelErrorTest, ARefusalReachesTheOthersAsText) {
  CaseOnDevice prepared(*group_, spec_, {.num_sms = 2});
  cuda::RefusalLaunch refusal{.peers = group_->peers(0),
                              .reports = group_->reports(0, spec_.num_experts / kRanks)};
  std::strcpy(refusal.text, "x on rank 0 is upside down");
  std::vector<cuda::DispatchLaunch> launches;
  for (int rank = 1; rank < kRanks; ++rank) launches.push_back(prepared.dispatch_launch(rank));
  DeviceGroup::finish_uploads();
  ASSERT_EQ(cuda::launch_refusal(refusal, group_->stream(0)), cudaSuccess);
  for (const auto& launch : launches)
    ASSERT_EQ(cuda::launch_dispatch(launch, group_->stream(launch.peers.rank)), cudaSuccess);
  group_->synchronize();
  expect_everywhere(Verdict::kRefused, 0);
  const cuda::ResultLayout layout{kRanks, spec_.num_experts / kRanks};
  for (int rank = 0; rank < kRanks; ++rank)
    EXPECT_STREQ(group_->result_array<char>(rank, layout.text()), "x on rank 0 is upside down");
  expect_group_works();
}

TEST_F(KernelErrorTest, ARankThatNeverComesIsNamedAndLaterOperationsEndAtOnce) {
  make_group(50'000'000);
  dispatch([](cuda::DispatchLaunch& launch) {
    if (launch.peers.rank == 1) launch.num_sms = 0;
  });
  for (const int rank : {0, 2}) {
    EXPECT_EQ(group_->result(rank).verdict, Verdict::kTimedOut);
    EXPECT_EQ(group_->result(rank).outcome, cuda::Outcome::kTimedOut);
    EXPECT_EQ(group_->result(rank).missing[0], 2u);
  }
  dispatch([](cuda::DispatchLaunch& launch) {
    if (launch.peers.rank == 1) launch.num_sms = 0;
  });
  for (const int rank : {0, 2}) EXPECT_EQ(group_->result(rank).verdict, Verdict::kPoisoned);
}

}  // namespace
}  // namespace flexep::testing
