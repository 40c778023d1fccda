# SPDX-License-Identifier: Apache-2.0
"""What NCCL takes to bring the rows of a dispatch to the other GPUs of this machine, once for each token and rank.

An all-to-all of rows that lie in the order of their destinations already, of known number: no routing, no counts, no ids,
no placement. One process a GPU; each time is the slowest rank's median. Needs PyTorch with NCCL.
"""
import argparse
import os
import statistics

import torch
import torch.distributed as dist
import torch.multiprocessing


def median_us(operation, num_warmups=5, num_iters=30):
    """The slowest rank's median of an operation that all ranks begin together."""
    times = []
    for i in range(num_warmups + num_iters):
        torch.cuda.synchronize()
        dist.barrier()
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        operation()
        end.record()
        torch.cuda.synchronize()
        if i >= num_warmups:
            times.append(1000 * begin.elapsed_time(end))
    median = torch.tensor(statistics.median(times), device="cuda")
    dist.all_reduce(median, op=dist.ReduceOp.MAX)
    return median.item()


def run_rank(rank, num_ranks, options):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port), RANK=str(rank), WORLD_SIZE=str(num_ranks))
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
    rows = torch.randn(num_ranks * options.rows, options.hidden, device="cuda").bfloat16()
    received = torch.empty_like(rows)
    time = median_us(lambda: dist.all_to_all_single(received, rows))
    if rank == 0:
        num_bytes = (num_ranks - 1) * options.rows * options.hidden * rows.element_size()
        print(f"{num_ranks} GPUs, {options.rows} rows of {options.hidden} bf16 to each rank: {time:.1f} us, "
              f"{num_bytes / time / 1000:.0f} GB/s from each GPU to the others")
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4082,
                        help="to each rank; 4082 of 4096 tokens have one of 8 experts on either of two ranks")
    parser.add_argument("--hidden", type=int, default=7168)
    parser.add_argument("--port", type=int, default=29533)
    options = parser.parse_args()
    num_ranks = torch.cuda.device_count()
    torch.multiprocessing.spawn(run_rank, args=(num_ranks, options), nprocs=num_ranks)


if __name__ == "__main__":
    main()
