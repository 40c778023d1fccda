// SPDX-License-Identifier: Apache-2.0
//
// Random cases through the kernels alone, against the reference, bit for bit.
#include <gtest/gtest.h>

#include "conformance/case_spec.h"
#include "cuda/case_on_device.h"

namespace flexep::testing {
namespace {

using conformance::CaseSpec;
using conformance::draw_case;

class KernelCaseTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (!DeviceGroup::is_possible()) GTEST_SKIP() << "no GPU of sm_90 or later";
    group_ = std::make_unique<DeviceGroup>(GetParam(), DeviceGroup::Sizes{});
  }

  void expect_reference(const CaseSpec& spec, const CaseOnDevice::Options& options) {
    const auto mismatch = CaseOnDevice(*group_, spec, options).run();
    EXPECT_FALSE(mismatch) << spec.to_string() << "\n  " << *mismatch;
  }

  CaseSpec fixed_case(bool do_expand) const {
    CaseSpec spec = draw_case(1, GetParam());
    spec.do_expand = spec.do_zero_padding = do_expand;
    spec.do_cpu_sync = true;
    spec.max_recv_tokens.clear();
    spec.num_max_tokens_per_rank = 0;
    spec.num_tokens.assign(static_cast<std::size_t>(GetParam()), 60);
    return spec;
  }

  std::unique_ptr<DeviceGroup> group_;
};

TEST_P(KernelCaseTest, RandomCasesGiveTheBitsOfTheReference) {
  for (std::uint64_t seed = 0; seed < 60 && !HasFailure(); ++seed)
    expect_reference(draw_case(seed, GetParam()), {.num_sms = 1 + static_cast<int>(seed % 7)});
}

TEST_P(KernelCaseTest, RowsThroughRegistersAreTheSame) {
  for (std::uint64_t seed = 100; seed < 120 && !HasFailure(); ++seed)
    expect_reference(draw_case(seed, GetParam()), {.num_sms = 3, .allow_bulk_copies = false});
}

TEST_P(KernelCaseTest, RowsAcrossLinksAreTheSame) {
  for (const int ranks_per_memory : {1, 2}) {
    group_ =
        std::make_unique<DeviceGroup>(GetParam(), DeviceGroup::Sizes{.ranks_per_memory = ranks_per_memory});
    for (std::uint64_t seed = 200; seed < 225 && !HasFailure(); ++seed)
      expect_reference(draw_case(seed, GetParam()),
                       {.num_sms = 1 + static_cast<int>(seed % 4), .allow_bulk_copies = seed % 5 != 0});
  }
}

TEST_P(KernelCaseTest, ManyTokensOfLongRows) {
  constexpr std::size_t kBytes = std::size_t{256} << 20;
  group_ = std::make_unique<DeviceGroup>(GetParam(),
                                         DeviceGroup::Sizes{.shared_bytes = kBytes, .private_bytes = kBytes});
  for (const bool do_expand : {false, true}) {
    CaseSpec spec = fixed_case(do_expand);
    spec.num_tokens[0] = 300;
    spec.dtype = spec.expert_dtype = DType::kBFloat16;
    spec.hidden = spec.expert_hidden = 8 * 1000;  // longer than a stage
    spec.num_topk = 8;
    spec.num_experts = 8 * GetParam();
    expect_reference(spec, {.num_sms = group_->max_sms_per_rank()});
  }
}

TEST_P(KernelCaseTest, MoreColumnsThanAWarpHasLanes) {
  for (const bool do_expand : {false, true}) {
    CaseSpec spec = fixed_case(do_expand);
    spec.num_topk = 70;
    spec.num_experts = 96 * GetParam();
    expect_reference(spec, {.num_sms = 2});
  }
}

TEST_P(KernelCaseTest, NoTokensAnywhere) {
  CaseSpec spec = fixed_case(true);
  spec.num_tokens.assign(static_cast<std::size_t>(GetParam()), 0);
  expect_reference(spec, {.num_sms = 2});
}

INSTANTIATE_TEST_SUITE_P(Ranks, KernelCaseTest, ::testing::Values(1, 2, 3, 4, 8));

/// More experts than there is shared memory for: masks in strips, plans in the workspace.
TEST(KernelLimitsTest, TensOfThousandsOfExperts) {
  if (!DeviceGroup::is_possible()) GTEST_SKIP() << "no GPU of sm_90 or later";
  DeviceGroup group(2, {.max_experts = 65536});
  for (const bool do_expand : {false, true}) {
    CaseSpec spec = draw_case(5, 2);
    spec.do_cpu_sync = true;
    spec.max_recv_tokens.clear();
    spec.num_max_tokens_per_rank = 0;
    spec.num_experts = 65536;
    spec.expert_alignment = 1;
    spec.do_expand = spec.do_zero_padding = do_expand;
    spec.num_tokens = {150, 70};
    const auto mismatch = CaseOnDevice(group, spec, {.num_sms = 3}).run();
    EXPECT_FALSE(mismatch) << spec.to_string() << "\n  " << *mismatch;
  }
}

}  // namespace
}  // namespace flexep::testing
