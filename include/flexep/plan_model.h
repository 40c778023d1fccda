// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace flexep {

/// What DeepEP V2's size of a buffer depends on. R = num_scaleout_ranks * num_scaleup_ranks.
struct BufferSizeInputs {
  int num_scaleout_ranks = 1;
  int num_scaleup_ranks = 1;
  /// Ranks that reach each other's memory in hardware; 0 = num_scaleup_ranks.
  int num_nvlink_ranks = 0;
  std::int64_t num_max_tokens_per_rank = 0;
  std::int64_t hidden = 0;
  /// 0 assumes 32, as DeepEP does.
  std::int64_t num_topk = 0;
  bool use_fp8_dispatch = false;
  bool allow_multiple_reduction = true;
};

/// Bytes that DeepEP V2 reserves per rank for these inputs, a multiple of 2 MiB. For programs that size
/// memory by it: flexep's own memory follows what arrives.
/// @throws InvalidArgument when num_max_tokens_per_rank or hidden is not positive, or a bf16 row is not a
/// multiple of 32 bytes. Source: the layout of DeepEP V2's send, receive and staging slots; checked against
/// published figures in tests/unit.
std::int64_t get_buffer_size_hint(const BufferSizeInputs& inputs);

/// What the model of communication SMs depends on. R = num_scaleout_ranks * num_scaleup_ranks; bandwidths in
/// GB/s per rank.
struct NumSmsInputs {
  int num_scaleout_ranks = 1;
  int num_scaleup_ranks = 1;
  /// Ranks that reach each other's memory in hardware; 0 = num_scaleup_ranks.
  int num_nvlink_ranks = 0;
  int num_experts = 0;
  int num_topk = 0;
  int num_device_sms = 132;
  /// Of the links inside and between domains; 0 = unknown, which counts as 450 and 50.
  double nvlink_gbs = 0;
  double rdma_gbs = 0;
  /// What one multiprocessor reads and writes.
  double sm_read_gbs = 200;
  double sm_write_gbs = 50;
  /// Leave as many SMs as possible to computation; otherwise take at least 64.
  bool prefer_overlap_with_compute = true;
};

/// Every term of the model. Traffic is relative to one token row sent per destination rank;
/// docs/plan_model.md has the formulas.
struct NumSmsModel {
  double ranks_per_token = 0;    ///< expected number of ranks that own one of a token's experts
  double domains_per_token = 0;  ///< expected number of domains, 1 inside a single domain
  double sm_read = 0;
  double sm_write = 0;
  double nvlink_traffic = 0;
  double rdma_traffic = 0;
  bool is_rdma_bound = false;
  double link_gbs = 0;       ///< of the link that bounds
  double unrounded_sms = 0;  ///< that keep this link full
  int num_sms = 0;
};

/// The multiprocessors that fill the slower link, with a quarter to spare, an even number of at least 4.
/// @throws InvalidArgument for experts that the ranks or domains do not divide, or top-k outside [1,
/// num_experts]. Source: the analytic model of DeepEP V2; its published values are held by tests/unit.
NumSmsModel explain_num_sms(const NumSmsInputs& inputs);
int get_theoretical_num_sms(const NumSmsInputs& inputs);

/// Queue pairs that `num_sms` use: 16 each and one more where hybrid mode is allowed, else at most 9; never
/// more than `num_allocated_qps`.
int get_theoretical_num_qps(int num_sms, bool allow_hybrid_mode, int num_allocated_qps);

}  // namespace flexep
