// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "common/math.h"
#include "flexep/plan_model.h"
#include "routing/topk_model.h"

namespace flexep {
namespace {

constexpr double kAssumedNvlinkGbs = 450;
constexpr double kAssumedRdmaGbs = 50;
constexpr double kHeadroom = 1.25;
constexpr int kMinSms = 4;
constexpr int kMinSmsWithoutOverlap = 64;
constexpr int kMaxDeviceSms = 1 << 16;

void check(const NumSmsInputs& in) {
  const std::int64_t num_ranks = check_topology(in.num_scaleout_ranks, in.num_scaleup_ranks);
  require_argument(in.num_nvlink_ranks >= 0 && in.num_nvlink_ranks <= num_ranks, "num_nvlink_ranks",
                   "num_nvlink_ranks is {}, outside [0, {}]", in.num_nvlink_ranks, num_ranks);
  check_topk(num_ranks, in.num_experts, in.num_topk);
  require_argument(in.num_device_sms > 0 && in.num_device_sms <= kMaxDeviceSms, "num_device_sms",
                   "num_device_sms is {}, outside [1, {}]", in.num_device_sms, kMaxDeviceSms);
  const auto is_bandwidth = [](double gbs) { return std::isfinite(gbs) && gbs >= 0; };
  require_argument(is_bandwidth(in.nvlink_gbs) && is_bandwidth(in.rdma_gbs) && is_bandwidth(in.sm_read_gbs) &&
                       is_bandwidth(in.sm_write_gbs) && in.sm_read_gbs > 0 && in.sm_write_gbs > 0,
                   "nvlink_gbs",
                   "bandwidths must be finite and not negative: nvlink {}, rdma {}, sm read {}, sm write {}",
                   in.nvlink_gbs, in.rdma_gbs, in.sm_read_gbs, in.sm_write_gbs);
}

// A token crosses to each domain once, is forwarded inside it, and is written once more at its source.
void add_hybrid_traffic(const NumSmsInputs& in, NumSmsModel& model) {
  const double so = in.num_scaleout_ranks;
  const double t = model.ranks_per_token;
  const double s = model.domains_per_token;
  model.sm_read = 1 / t + s / t;
  model.sm_write = 1 / t + s / (t * so) + 1;
  model.rdma_traffic = s * (1 - 1 / so) / t;
  model.nvlink_traffic = 1 - 1.0 / in.num_scaleup_ranks;
}

// A token is read once and written straight to each rank.
void add_direct_traffic(const NumSmsInputs& in, NumSmsModel& model) {
  const double num_ranks = in.num_scaleup_ranks;
  const double n = in.num_nvlink_ranks == 0 ? in.num_scaleup_ranks : in.num_nvlink_ranks;
  const double t = model.ranks_per_token;
  model.sm_read = 1 / t;
  model.sm_write = (n < num_ranks ? 1 / t : 0) + n / num_ranks;
  model.nvlink_traffic = n / num_ranks * (1 - 1 / n);
  model.rdma_traffic = (num_ranks - n) / num_ranks;
}

double link_or(double gbs, double assumed) {
  return gbs > 0 ? gbs : assumed;
}

}  // namespace

NumSmsModel explain_num_sms(const NumSmsInputs& in) {
  check(in);
  const bool is_hybrid = in.num_scaleout_ranks > 1;
  NumSmsModel model;
  model.ranks_per_token =
      expected_groups(in.num_scaleout_ranks * in.num_scaleup_ranks, in.num_experts, in.num_topk);
  model.domains_per_token = expected_groups(in.num_scaleout_ranks, in.num_experts, in.num_topk);
  if (is_hybrid) {
    add_hybrid_traffic(in, model);
  } else {
    add_direct_traffic(in, model);
  }

  const double nvlink_gbs = link_or(in.nvlink_gbs, kAssumedNvlinkGbs);
  const double rdma_gbs = link_or(in.rdma_gbs, kAssumedRdmaGbs);
  model.is_rdma_bound = is_hybrid && model.rdma_traffic / rdma_gbs > model.nvlink_traffic / nvlink_gbs;
  model.link_gbs = model.is_rdma_bound ? rdma_gbs : nvlink_gbs;
  const double traffic = model.is_rdma_bound ? model.rdma_traffic : model.nvlink_traffic;
  const double rows_gbs = traffic > 0 ? model.link_gbs / traffic : 0;
  model.unrounded_sms = traffic > 0 ? std::max(rows_gbs * model.sm_read / in.sm_read_gbs,
                                               rows_gbs * model.sm_write / in.sm_write_gbs)
                                    : in.num_device_sms;

  const double wanted = std::min<double>(std::ceil(kHeadroom * model.unrounded_sms), in.num_device_sms);
  const int with_headroom = static_cast<int>(wanted);
  int num_sms = align_up(std::max(kMinSms, with_headroom), 2);
  if (!in.prefer_overlap_with_compute) num_sms = std::max(num_sms, kMinSmsWithoutOverlap);
  model.num_sms = std::min(num_sms, in.num_device_sms);
  return model;
}

int get_theoretical_num_sms(const NumSmsInputs& inputs) {
  return explain_num_sms(inputs).num_sms;
}

int get_theoretical_num_qps(int num_sms, bool allow_hybrid_mode, int num_allocated_qps) {
  require_argument(num_sms > 0 && num_allocated_qps > 0, "num_sms",
                   "num_sms is {} and num_allocated_qps {}: both must be positive", num_sms,
                   num_allocated_qps);
  constexpr std::int64_t kChannelsPerSm = 16;
  constexpr std::int64_t kMaxDirectQps = 9;
  const std::int64_t wanted =
      allow_hybrid_mode ? kChannelsPerSm * num_sms + 1 : std::min<std::int64_t>(num_sms, kMaxDirectQps);
  return static_cast<int>(std::min<std::int64_t>(wanted, num_allocated_qps));
}

}  // namespace flexep
