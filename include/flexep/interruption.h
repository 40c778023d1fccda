// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace flexep {

/// Whether the program wants the calling thread to stop waiting. Must not throw.
using InterruptionCheck = bool (*)();

/// Asks `check` about every 20 ms on each thread that waits for other ranks; nullptr asks nobody, as at the
/// start. When it says yes, that wait ends: the group is aborted as Communicator::abort does, so that the
/// other ranks do not wait for this one, and the operation throws TransportError. For programs whose signals
/// are handled between instructions of their own, as an interpreter's are. Callable from any thread, for the
/// whole process.
void set_interruption_check(InterruptionCheck check);

}  // namespace flexep
