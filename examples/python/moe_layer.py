# SPDX-License-Identifier: Apache-2.0
"""A mixture-of-experts layer over CPU ranks: torchrun --nproc-per-node 4 examples/python/moe_layer.py"""

import torch
import torch.distributed as dist

import flexep
import flexep.torch

NUM_EXPERTS, TOPK, HIDDEN = 8, 2, 64


class MoE(torch.nn.Module):
    def __init__(self, comm):
        super().__init__()
        self.buffer = flexep.ElasticBuffer(comm)
        self.router = torch.nn.Linear(HIDDEN, NUM_EXPERTS, bias=False)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(HIDDEN, HIDDEN) for _ in range(NUM_EXPERTS // comm.num_ranks))

    def forward(self, x):
        probs, topk_idx = self.router(x).softmax(dim=-1).topk(TOPK)
        recv = flexep.torch.dispatch(self.buffer, x, topk_idx, probs, num_experts=NUM_EXPERTS, do_expand=True)
        rows = recv.x.split(recv.handle.num_recv_tokens_per_expert_list)
        y = torch.cat([expert(chunk) for expert, chunk in zip(self.experts, rows)])
        return flexep.torch.combine(self.buffer, y * recv.topk_weights[:, None], recv.handle)[0]


dist.init_process_group("gloo")
torch.manual_seed(0)  # one router for all
layer = MoE(flexep.Communicator.from_process_group())
x = torch.randn(256, HIDDEN, generator=torch.Generator().manual_seed(dist.get_rank()))
optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
for step in range(20):
    loss = (layer(x) - x.flip(dims=[1])).square().mean()
    optimizer.zero_grad()
    loss.backward()
    for parameter in layer.router.parameters():
        dist.all_reduce(parameter.grad)
    optimizer.step()
    if dist.get_rank() == 0 and step % 5 == 4:
        print(f"step {step + 1}: loss {loss.item():.4f}")
dist.destroy_process_group()
