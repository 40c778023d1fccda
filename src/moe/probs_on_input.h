// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/tokens.h"

namespace flexep::moe {

/// moe_apply_probs_on_input: each row times its prob, rounded once, for experts that weigh no more: their
/// probs are 1.
GroupedTokens apply_probs(const GroupedTokens& input);

/// @param input    what apply_probs took. @param weighted  the gradient of the rows that it returned.
/// @return gradients of input.tokens.
TokenGradients apply_probs_backward(const GroupedTokens& input, const Gradient<Tensor>& weighted);

}  // namespace flexep::moe
