// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace flexep {

/// What the program's InterruptionCheck says, false where it has set none. For loops that wait, between naps.
bool is_interrupted();

}  // namespace flexep
