// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "moe/factor.h"

namespace flexep::moe {

/// out = a * b, all of one type, through OpenBLAS on the calling thread: the same bits for the same shapes
/// and values. The first call sets OpenBLAS to one thread for the whole process.
void multiply(const Factor& a, const Factor& b, const Tensor& out);

/// Seconds that the calling thread has spent in multiply.
double seconds_in_gemms();

}  // namespace flexep::moe
