// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The choices among the options of a MoE layer; docs/moe.md says what each does.
namespace flexep::moe {

enum class RouterScoreFunction { kSoftmax, kSigmoid, kSqrtSoftplus };
enum class RouterLoadBalancing { kNone, kAuxLoss, kSeqAuxLoss, kGlobalAuxLoss, kSinkhorn };
enum class TokenDropPolicy { kProbs, kPosition };
enum class TokenDispatcherType { kAllGather, kAllToAll, kFlex };
enum class FlexDispatcherBackend { kDeepEp, kDeepEpV2, kHybridEp, kNcclEp };
enum class Fp8Format { kNone, kE4M3, kHybrid };
enum class Fp8Recipe { kDelayed, kTensorwise, kMxFp8, kBlockwise };
enum class Fp4Format { kNone, kE2M1 };

}  // namespace flexep::moe
