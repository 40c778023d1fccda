# SPDX-License-Identifier: Apache-2.0
"""What dispatch and combine mean, in plain PyTorch over everybody's inputs. Written to be read, not to be fast."""

import dataclasses

import torch
import torch.distributed as dist


def gather(tensor, group=None):
    """Everybody's tensors, by rank, on the CPU; shapes may differ."""
    everybody = [None] * dist.get_world_size(group)
    dist.all_gather_object(everybody, tensor.cpu(), group=group)
    return everybody


def same(actual, expected):
    """`actual` lies on the default device, and has the bits of `expected`, wherever that lies."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    assert actual.device.type == torch.get_default_device().type
    assert torch.equal(actual.cpu(), expected.cpu())


def device_name():
    """The default device, as flexep.ElasticBuffer takes it."""
    return str(torch.zeros(0).device)


def generator(seed):
    """Random numbers of the default device."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def all_reduce(tensor, op=dist.ReduceOp.SUM):
    """In place, through the host: the group may know nothing of GPUs."""
    total = tensor.cpu()
    dist.all_reduce(total, op)
    tensor.copy_(total)


def align(count, alignment):
    return -(-count // alignment) * alignment


@dataclasses.dataclass
class Routing:
    """Everybody's ids, and this rank's place among them."""

    topk_idx: list[torch.Tensor]  # by rank, [T, K]
    rank: int
    num_experts: int

    @property
    def num_ranks(self):
        return len(self.topk_idx)

    @property
    def num_local(self):
        return self.num_experts // self.num_ranks

    def owner(self, expert):
        return -1 if expert < 0 else expert // self.num_local

    def tokens(self, owner):
        """(source rank, token) of the tokens that `owner` receives, in order."""
        for rank, ids in enumerate(self.topk_idx):
            for token, row in enumerate(ids.tolist()):
                if any(self.owner(expert) == owner for expert in row):
                    yield rank, token

    def pairs(self, owner, alignment):
        """((source rank, token, column), row) of the pairs of `owner`'s experts, in order; and the number of rows."""
        pairs, start = [], 0
        for local in range(self.num_local):
            expert = owner * self.num_local + local
            row = start
            for rank, ids in enumerate(self.topk_idx):
                for token, columns in enumerate(ids.tolist()):
                    if expert in columns:
                        pairs.append(((rank, token, columns.index(expert)), row))
                        row += 1
            start += align(row - start, alignment)
        return pairs, start


def dispatch_compact(routing, x, weights):
    """(recv_x, recv_topk_idx, recv_topk_weights) of this rank, from everybody's x and weights."""
    rows = list(routing.tokens(routing.rank))
    first = routing.rank * routing.num_local
    recv_x = torch.stack([x[r][t] for r, t in rows]) if rows else x[routing.rank][:0]
    ids = torch.stack([routing.topk_idx[r][t] for r, t in rows]) if rows else routing.topk_idx[routing.rank][:0]
    is_local = (ids >= first) & (ids < first + routing.num_local)
    recv_idx = torch.where(is_local, ids - first, -1)
    recv_weights = torch.stack([weights[r][t] for r, t in rows]) if rows else weights[routing.rank][:0]
    return recv_x, recv_idx, torch.where(is_local, recv_weights, 0)


def dispatch_expanded(routing, x, weights, alignment):
    """(recv_x, recv_topk_weights) of this rank, gaps zero."""
    pairs, num_rows = routing.pairs(routing.rank, alignment)
    mine = x[routing.rank]
    recv_x = mine.new_zeros(num_rows, mine.size(1))
    recv_weights = weights[routing.rank].new_zeros(num_rows)
    for (rank, token, column), row in pairs:
        recv_x[row] = x[rank][token]
        recv_weights[row] = weights[rank][token, column]
    return recv_x, recv_weights


def _sum(rows, dtype):
    if len(rows) == 1:
        return rows[0]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    total = torch.zeros_like(rows[0], dtype=wide)
    for row in rows:
        total = total + row.to(wide)
    return total.to(dtype)


def _by_last_column(ids, routing):
    """Owners of a token in the ascending order of the last column that names one of their experts."""
    last = {}
    for column, expert in enumerate(ids):
        if expert >= 0:
            last[routing.owner(expert)] = column
    return sorted(last, key=last.get)


def combine(routing, y, expand, alignment=1, multiple_reduction=True, bias=None):
    """This rank's sums, from everybody's expert outputs."""
    mine = routing.topk_idx[routing.rank].tolist()
    places = [
        dict(routing.pairs(owner, alignment)[0])
        if expand
        else {pair: row for row, pair in enumerate(routing.tokens(owner))}
        for owner in range(routing.num_ranks)
    ]
    out = y[routing.rank].new_zeros(len(mine), y[routing.rank].size(1))
    for token, ids in enumerate(mine):
        if not expand:
            parts = [y[o][places[o][routing.rank, token]] for o in _by_last_column(ids, routing)]
        else:
            columns = [c for c, expert in enumerate(ids) if expert >= 0]
            row = {c: y[routing.owner(ids[c])][places[routing.owner(ids[c])][routing.rank, token, c]] for c in columns}
            if multiple_reduction:
                parts = [
                    _sum([row[c] for c in columns if routing.owner(ids[c]) == owner], out.dtype)
                    for owner in _by_last_column(ids, routing)
                ]
            else:
                parts = [row[c] for c in columns]
        parts = ([bias[token]] if bias is not None else []) + parts
        if parts:
            out[token] = _sum(parts, out.dtype)
    return out
