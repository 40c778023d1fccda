// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "moe_lm/parameter.h"

namespace moe_lm {

/// A vector for each byte value. One table serves all positions of a context.
template <typename T>
class ByteEmbedding {
 public:
  ByteEmbedding(const std::string& name, int dim);

  /// bytes [n * length] -> y [n, length * dim]: each row is the vectors of its bytes, side by side.
  void forward(std::span<const std::uint8_t> bytes, const flexep::Tensor& y) const;
  /// Sets the gradient of the table.
  void backward(std::span<const std::uint8_t> bytes, const flexep::Tensor& grad_y);

  Parameter table;  ///< [256, dim]

 private:
  std::int64_t dim() const { return table.value.size(1); }
};

extern template class ByteEmbedding<float>;
extern template class ByteEmbedding<double>;

}  // namespace moe_lm
