// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "flexep/elastic_buffer.h"
#include "flexep/moe/permute.h"
#include "flexep/moe/tokens.h"

namespace flexep::moe {

/// What a dispatch through an ElasticBuffer left at this rank, beside the rows.
struct Received {
  DispatchHandle handle;
  Tensor topk_idx;  ///< compact layout: [M, K]
  Shape shape;      ///< of the rows
  DType dtype = DType::kFloat32;
};

/// The way between rows as an ElasticBuffer delivers them and rows grouped by local expert, for one layout.
/// See FlexBackend for what the functions promise.
class ReceivedRows {
 public:
  virtual ~ReceivedRows() = default;

  /// Whether the buffer shall deliver the expanded layout.
  virtual bool do_expand() const = 0;
  /// Rows that the buffer shall give each expert a multiple of.
  virtual int expert_alignment() const = 0;

  virtual GroupedTokens permute(const Received& received, const Tokens& tokens) = 0;
  virtual TokenGradients permute_backward(const Received& received, const TokenGradients& permuted) = 0;
  virtual Tensor unpermute(const Received& received, const Tensor& permuted) = 0;
  virtual Gradient<Tensor> unpermute_backward(const Received& received, const Gradient<Tensor>& rows) = 0;
  virtual Tensor empty_expert_rows(const Received& received) = 0;
  virtual void reset() = 0;
};

/// One row for each received token, which permute copies to each of its experts.
/// @param alignment  rows that permute gives each expert a multiple of; 0 or 1 = as they come.
std::unique_ptr<ReceivedRows> make_compact_rows(ElasticBuffer& buffer, int num_local_experts, int alignment);

/// One row for each (token, local expert) pair: the buffer has grouped them, and nothing is left to do.
std::unique_ptr<ReceivedRows> make_expanded_rows(ElasticBuffer& buffer, int alignment);

}  // namespace flexep::moe
