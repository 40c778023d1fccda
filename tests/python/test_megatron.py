# SPDX-License-Identifier: Apache-2.0
"""Megatron-Core's own MoE layer and flex dispatcher, unmodified, on flexep, against its alltoall dispatcher."""

import contextlib
import importlib.util
from unittest import mock

import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist

from flexep import deep_ep

from reference import generator

deep_ep.install()  # before Megatron looks for it
# Its import may start CUDA, after which a process cannot fork ranks.
if not (importlib.util.find_spec("megatron") and importlib.util.find_spec("megatron.core")):
    pytest.skip("megatron-core is not installed", allow_module_level=True)

HIDDEN, NUM_EXPERTS, NUM_TOPK = 32, 8, 3


def let_megatron_run():
    """Releases up to 0.16 forget this name where Transformer Engine is missing."""
    from megatron.core.transformer.moe import moe_utils

    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None


def let_megatron_run_without_cuda():
    """Stands in for what its MoE layer asks of CUDA: the device that tensors are on, and streams to wait for."""
    stream = mock.MagicMock()
    torch.cuda.current_device = lambda: "cpu"
    torch.cuda.Stream = torch.cuda.current_stream = lambda *args, **kwargs: stream
    torch.cuda.stream = lambda stream: contextlib.nullcontext()
    from megatron.core.transformer.moe import token_dispatcher

    def moved_to_cpu(tensor, as_numpy=False, record_stream=False):
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    # The alltoall dispatcher's: leaves as they are the tensors that were on the CPU before.
    token_dispatcher.maybe_move_tensor_to_cpu = moved_to_cpu


def make_layer(dispatcher, dtype):
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.mlp import MLPSubmodules
    from megatron.core.transformer.moe.experts import SequentialMLP
    from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        num_layers=1,
        hidden_size=HIDDEN,
        num_attention_heads=4,
        ffn_hidden_size=64,
        moe_ffn_hidden_size=64,
        num_moe_experts=NUM_EXPERTS,
        moe_router_topk=NUM_TOPK,
        moe_router_dtype="fp32",
        moe_router_load_balancing_type="aux_loss",
        moe_aux_loss_coeff=0.01,
        moe_token_dispatcher_type=dispatcher,
        moe_flex_dispatcher_backend="deepep",
        expert_model_parallel_size=dist.get_world_size(),
        use_cpu_initialization=True,
        params_dtype=dtype,
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        bias_activation_fusion=False,
    )
    linears = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    experts = ModuleSpec(module=SequentialMLP, submodules=linears)
    layer = MoELayer(config, MoESubmodules(experts=experts), layer_number=1).to(torch.get_default_device())
    for index, expert in zip(layer.local_expert_indices, layer.experts.local_experts, strict=True):
        draw(expert, seed=1 + index)
    draw(layer.router, seed=0)
    return layer


def draw(module, seed):
    random = generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=random))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.ranks(2, 4, cuda=(2, 4))
def test_flex_dispatcher_gives_what_its_alltoall_dispatcher_gives(dtype, tolerance):
    let_megatron_run()
    if torch.get_default_device().type == "cpu":
        let_megatron_run_without_cuda()
    dtype = getattr(torch, dtype)
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(expert_model_parallel_size=dist.get_world_size())
    results = []
    for dispatcher in ("alltoall", "flex"):
        layer = make_layer(dispatcher, dtype)
        torch.manual_seed(dist.get_rank())
        x = torch.randn(6, 2, HIDDEN, dtype=dtype, requires_grad=True)
        for _ in range(2):  # a second microbatch, whose gradients add up
            output, bias = layer(x)
            assert bias is None
            output.square().sum().backward()
        results.append([output.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())])
    alltoall, flex = results
    assert len(alltoall) == 3 + 2 * NUM_EXPERTS // dist.get_world_size()
    for expected, actual in zip(alltoall, flex, strict=True):
        largest = expected.abs().max().item()
        assert largest > 0
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * largest)
