// SPDX-License-Identifier: Apache-2.0
#include "flexep/plan_model.h"

#include <gtest/gtest.h>

#include "flexep/error.h"

namespace flexep {
namespace {

// DeepEP V2's values for 256 experts, top-8 and 132 SMs; 24, 12 and 6 are the ones that its README publishes.
struct Known {
  NumSmsInputs inputs;
  double ranks_per_token;
  double sm_read;
  double sm_write;
  double unrounded_sms;
  int num_sms;
  int num_sms_without_overlap;
};

NumSmsInputs topology(int so, int su, double nvlink_gbs = 450, int num_nvlink_ranks = 0, int num_topk = 8) {
  return {.num_scaleout_ranks = so,
          .num_scaleup_ranks = su,
          .num_nvlink_ranks = num_nvlink_ranks,
          .num_experts = 256,
          .num_topk = num_topk,
          .nvlink_gbs = nvlink_gbs,
          .rdma_gbs = 50};
}

class NumSmsTest : public testing::TestWithParam<Known> {};

TEST_P(NumSmsTest, MatchesTheKnownValues) {
  const Known& known = GetParam();
  const NumSmsModel model = explain_num_sms(known.inputs);
  EXPECT_NEAR(model.ranks_per_token, known.ranks_per_token, 6e-6);
  EXPECT_NEAR(model.sm_read, known.sm_read, 6e-6);
  EXPECT_NEAR(model.sm_write, known.sm_write, 6e-6);
  EXPECT_NEAR(model.unrounded_sms, known.unrounded_sms, 6e-4);
  EXPECT_EQ(model.num_sms, known.num_sms);
  NumSmsInputs without_overlap = known.inputs;
  without_overlap.prefer_overlap_with_compute = false;
  EXPECT_EQ(get_theoretical_num_sms(without_overlap), known.num_sms_without_overlap);
}

INSTANTIATE_TEST_SUITE_P(
    Topologies, NumSmsTest,
    testing::Values(Known{topology(1, 8), 5.29465, .18887, 1, 10.2857, 14, 64},
                    Known{topology(1, 8, 810), 5.29465, .18887, 1, 18.514, 24, 64},
                    Known{topology(2, 8), 6.52328, .45882, 1.30606, 8.5496, 12, 64},
                    Known{topology(4, 8), 7.26680, .63497, 1.26195, 3.3831, 6, 64},
                    Known{topology(1, 16, 450, 8), 6.52328, .15330, .65330, 13.439, 18, 64},
                    Known{topology(1, 32, 450, 8), 7.26680, .13761, .38761, 15.947, 20, 64}));

TEST(NumSmsModelTest, FewRanksTakeWhatTheirLinksNeed) {
  EXPECT_EQ(get_theoretical_num_sms(topology(1, 4)), 16);
  EXPECT_EQ(get_theoretical_num_sms(topology(1, 2)), 24);
  EXPECT_EQ(get_theoretical_num_sms(topology(1, 1)), 132) << "one rank has no link to fill";
  EXPECT_EQ(get_theoretical_num_sms(topology(1, 8, 450, 0, 6)), 14);
  EXPECT_EQ(get_theoretical_num_sms(topology(2, 8, 450, 0, 6)), 10);
  EXPECT_EQ(get_theoretical_num_sms(topology(4, 8, 450, 0, 6)), 4);
}

TEST(NumSmsModelTest, TheSlowerLinkBounds) {
  EXPECT_TRUE(explain_num_sms(topology(2, 8)).is_rdma_bound);
  EXPECT_NEAR(explain_num_sms(topology(2, 8)).rdma_traffic, .15276, 1e-5);
  EXPECT_FALSE(explain_num_sms(topology(1, 16, 450, 8)).is_rdma_bound)
      << "direct mode counts as bound by NVLink";
  EXPECT_NEAR(explain_num_sms(topology(1, 16, 450, 8)).nvlink_traffic, .4375, 1e-9);
}

TEST(NumSmsModelTest, UnknownLinksGiveTheAnswerOfCommonOnes) {
  EXPECT_EQ(get_theoretical_num_sms({.num_scaleup_ranks = 8, .num_experts = 256, .num_topk = 8}), 14);
}

TEST(NumSmsModelTest, BadInputsAreNamed) {
  EXPECT_THROW(explain_num_sms({.num_scaleup_ranks = 8, .num_experts = 100, .num_topk = 8}), InvalidArgument);
  EXPECT_THROW(explain_num_sms({.num_scaleup_ranks = 8, .num_experts = 256, .num_topk = 0}), InvalidArgument);
  EXPECT_THROW(explain_num_sms({.num_scaleup_ranks = 0, .num_experts = 256, .num_topk = 8}), InvalidArgument);
}

TEST(NumQpsTest, FollowsTheHybridFlag) {
  EXPECT_EQ(get_theoretical_num_qps(14, true, 129), 129);
  EXPECT_EQ(get_theoretical_num_qps(14, true, 65), 65);
  EXPECT_EQ(get_theoretical_num_qps(6, true, 129), 97);
  EXPECT_EQ(get_theoretical_num_qps(18, false, 17), 9);
  EXPECT_EQ(get_theoretical_num_qps(4, false, 17), 4);
}

}  // namespace
}  // namespace flexep
