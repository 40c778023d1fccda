// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "flexep/communicator.h"
#include "flexep/tensor.h"

namespace flexep {

/// Collectives over the rows of tensors, which know nothing of tokens or experts: what a dispatcher without
/// an ElasticBuffer is made of.
///
/// A row is what lies behind one index of a tensor's first dimension; tensors are the host's, and have at
/// least one dimension and any element type. Ranks read each other's rows where they lie: one copy when x is
/// memory from empty() or from a collective of this object, two otherwise. Results are memory of this object,
/// outlive it, and go back to it when the last copy of the tensor is gone.
///
/// Collectives are called by all ranks in the same order, by one thread at a time. x is free to be
/// overwritten when a call returns. @throws InvalidArgument on the rank that passed something wrong and
/// PeerError on the others; CollectiveMismatch when element types or row sizes differ; TimeoutError,
/// TransportError, OutOfMemory. Cost of each: two exchanges, and reading every row that arrives once.
class RowCollectives {
 public:
  /// Collective: makes a group of its own. @throws as ElasticBuffer.
  explicit RowCollectives(const Communicator& comm);
  ~RowCollectives();
  RowCollectives(RowCollectives&&) noexcept;
  RowCollectives& operator=(RowCollectives&&) noexcept;

  int rank() const;
  int num_ranks() const;

  /// Uninitialised memory that the other ranks can read. Not collective.
  Tensor empty(const Shape& shape, DType dtype);

  /// Rows go to ranks in order: the first num_rows_per_rank[0] rows of x to rank 0, and so on.
  /// @param num_rows_per_rank  [R], sums to the rows of x.
  /// @return the rows that came for this rank, by source rank, in the sources' order.
  Tensor all_to_all(const Tensor& x, std::span<const std::int32_t> num_rows_per_rank);

  /// @return every rank's rows, by rank; their numbers may differ.
  Tensor all_gather(const Tensor& x);

  /// Sums over ranks, of which this rank keeps its part: the transpose of all_gather.
  /// @param x                  floating point; every rank passes as many rows, and a row at the same index.
  /// @param num_rows_per_rank  [R], the same on all ranks (CollectiveMismatch if not); sums to the rows of x.
  /// @return [num_rows_per_rank[rank], ...], added in rank order as docs/numerics.md says of one sum.
  Tensor reduce_scatter(const Tensor& x, std::span<const std::int32_t> num_rows_per_rank);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace flexep
