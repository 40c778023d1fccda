# SPDX-License-Identifier: Apache-2.0
"""What test_domains.py has a launcher of MPI run: ranks that play two machines of two, which meet in a process group of gloo."""

import os
import sys

import torch
import torch.distributed as dist

import flexep
import flexep.torch
from flexep import deep_ep
from reference import Routing, combine, dispatch_compact, dispatch_expanded, gather, generator, same

HIDDEN, NUM_EXPERTS, NUM_TOPK = 16, 8, 3
RANK, NUM_RANKS = (int(os.environ[f"OMPI_COMM_WORLD_{name}"]) for name in ("RANK", "SIZE"))


class Batch:
    """Whole numbers, whose sums are exact in any order."""

    def __init__(self, group):
        numbers = generator(RANK)
        num_tokens = 5 * RANK
        self.x = torch.randint(-8, 9, (num_tokens, HIDDEN), generator=numbers).float()
        self.topk_idx = torch.rand(num_tokens, NUM_EXPERTS, generator=numbers).topk(NUM_TOPK).indices
        self.weights = torch.randint(1, 5, (num_tokens, NUM_TOPK), generator=numbers).float()
        self.routing = Routing(gather(self.topk_idx, group), dist.get_rank(group), NUM_EXPERTS)
        self.all_x, self.all_weights = gather(self.x, group), gather(self.weights, group)


def round_trip(buffer, group, expand):
    batch = Batch(group)
    recv_x, recv_idx, recv_weights, handle, _ = buffer.dispatch(
        batch.x, batch.topk_idx, batch.weights, num_experts=NUM_EXPERTS, do_expand=expand
    )
    everything = (batch.routing, batch.all_x, batch.all_weights)
    expected = dispatch_expanded(*everything, 1) if expand else dispatch_compact(*everything)
    actual = (recv_x, recv_weights) if expand else (recv_x, recv_idx, recv_weights)
    for mine, reference in zip(actual, expected, strict=True):
        same(mine, reference)
    sums, weights, _ = buffer.combine(recv_x * 2, handle, recv_weights)
    same(sums, combine(batch.routing, gather(recv_x * 2, group), expand))
    same(weights, batch.weights)
    return batch, handle


def handles_count_by_scaleup_rank(buffer, group):
    batch, handle = round_trip(buffer, group, expand=False)
    sources = [rank for rank, _ in batch.routing.tokens(batch.routing.rank)]
    num_scaleup_ranks = buffer.num_scaleup_ranks
    upto = [sum(rank % num_scaleup_ranks <= index for rank in sources) for index in range(num_scaleup_ranks)]
    assert handle.psum_num_recv_tokens_per_scaleup_rank.tolist() == upto


def gradients_cross(buffer, group):
    batch = Batch(group)
    x = batch.x.clone().requires_grad_()
    received = flexep.torch.dispatch(buffer, x, batch.topk_idx, num_experts=NUM_EXPERTS, do_expand=True)
    flexep.torch.combine(buffer, received.x * 3, received.handle)[0].sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 3 * NUM_TOPK))


def mistakes_are_told_to_the_other_machine(buffer):
    ids = torch.tensor([[NUM_EXPERTS if RANK == 0 else 0]])
    try:
        buffer.dispatch(torch.zeros(1, HIDDEN), ids, num_experts=NUM_EXPERTS)
    except flexep.InvalidArgument:
        assert RANK == 0
    except flexep.PeerError as error:
        assert RANK != 0 and error.rank == 0


def older_buffer_crosses(group):
    batch, buffer = Batch(group), deep_ep.Buffer(group)
    per_rank, _, per_expert, is_in_rank, _ = buffer.get_dispatch_layout(batch.topk_idx, NUM_EXPERTS)
    recv_x, recv_idx, _, _, handle, _ = buffer.dispatch(
        batch.x,
        num_tokens_per_rank=per_rank,
        num_tokens_per_expert=per_expert,
        is_token_in_rank=is_in_rank,
        topk_idx=batch.topk_idx,
        topk_weights=batch.weights,
    )
    expected_x, expected_idx, _ = dispatch_compact(batch.routing, batch.all_x, batch.all_weights)
    same(recv_x, expected_x)
    same(recv_idx, expected_idx)
    same(buffer.combine(recv_x, handle)[0], batch.x * is_in_rank.sum(dim=1, keepdim=True))


def check_group(group, domains):
    buffer = deep_ep.ElasticBuffer(group, num_max_tokens_per_rank=64, hidden=HIDDEN)
    assert buffer.get_logical_domain_size() == buffer.get_physical_domain_size() == domains
    assert (buffer.scaleout_rank_idx, buffer.scaleup_rank_idx) == divmod(dist.get_rank(group), domains[1])
    for expand in (False, True):
        round_trip(buffer, group, expand)
    handles_count_by_scaleup_rank(buffer, group)
    gradients_cross(buffer, group)
    mistakes_are_told_to_the_other_machine(buffer)
    older_buffer_crosses(group)


def parts_of_the_world():
    """[0, 1] and [2, 3], each in a domain of its own, and then over two."""
    halves = [dist.new_group([first, first + 1]) for first in (0, 2)]
    mine = halves[RANK // 2]
    comm = flexep.Communicator.from_process_group(mine)
    assert (comm.rank, comm.num_ranks, comm.transport_name) == (RANK % 2, 2, "shm")
    os.environ["FLEXEP_SCALEUP_SIZE"] = "1"
    comm = flexep.Communicator.from_process_group(mine)
    assert (comm.rank, comm.num_ranks, comm.transport_name) == (RANK % 2, 2, "mpi")
    assert comm.all_gather_bytes(bytes([RANK])) == [bytes([2 * (RANK // 2) + index]) for index in range(2)]


def communicators_of_mpi4py():
    try:
        from mpi4py import MPI
    except ImportError:
        return
    reversed_world = MPI.COMM_WORLD.Split(0, -RANK)
    comm = flexep.Communicator.from_mpi(reversed_world)
    assert (comm.rank, comm.num_ranks) == (NUM_RANKS - 1 - RANK, NUM_RANKS)


def main():
    # As a program for torchrun finds itself; the group's ranks are nevertheless reached over MPI.
    os.environ |= {"RANK": str(RANK), "WORLD_SIZE": str(NUM_RANKS)}
    torch.set_num_threads(1)
    store, device = sys.argv[1:]
    if device == "cuda":
        torch.cuda.set_device(RANK % torch.cuda.device_count())
    torch.set_default_device(device)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=RANK, world_size=NUM_RANKS)
    check_group(dist.group.WORLD, domains=(2, 2))
    parts_of_the_world()
    communicators_of_mpi4py()
    dist.destroy_process_group()
    print(f"rank {RANK} is content")


if __name__ == "__main__":
    main()
