# SPDX-License-Identifier: Apache-2.0
"""Dispatch and combine of large batches from Python beside `flexep bench`, with the experts' output in each kind of memory.

    python bench/python_large_batches.py --device cuda --json bench/results/<machine>/<date>-python-large-batches.json

Ranks are processes of this machine; on a GPU they need the multi-process service. A time is that from the first rank's call to the
moment at which the slowest one's results are there, as in `flexep bench`; medians.
"""

import argparse
import datetime
import json
import statistics
import time
import uuid

import torch

import flexep


def rank_of(rank, options, job, results):
    torch.set_num_threads(1)
    comm = flexep.Communicator.from_job(job, rank, options.ranks)
    buffer = flexep.ElasticBuffer(comm, device=options.device)
    drawn = {"generator": torch.Generator(options.device).manual_seed(rank), "device": options.device}
    x = torch.randn(options.tokens, options.hidden, **drawn).bfloat16()
    routed = {
        "topk_idx": torch.rand(options.tokens, options.experts, **drawn).topk(options.topk).indices,
        "topk_weights": torch.rand(options.tokens, options.topk, **drawn),
        "num_experts": options.experts,
    }
    received = buffer.dispatch(x, **routed)
    rows = received.x.to_library(torch.Tensor)
    times = {"dispatch": measure(comm, options, lambda: buffer.dispatch(x, **routed).tensors(torch.Tensor))}
    for kind, y in expert_outputs(buffer, rows, options.kinds):
        torch.mul(rows, 2, out=y)
        combine = lambda y=y: buffer.combine(y, handle=received.handle).tensors(torch.Tensor)
        times[f"combine, {kind}"] = measure(comm, options, combine)
    if rank == 0:
        results.put(times)
    comm.barrier()


def expert_outputs(buffer, rows, kinds):
    """(kind as `flexep bench --input` has it, memory for what the experts write)."""
    if "arena" in kinds:
        yield "arena", buffer.empty(tuple(rows.shape), "bf16").to_library(torch.Tensor)
    if "ordinary" in kinds:
        yield "ordinary", torch.empty_like(rows)
    if "registered" not in kinds:
        return
    size = 2 << 20
    memory = torch.empty((rows.numel() * 2 // size + 2) * size, dtype=torch.uint8, device=rows.device)
    memory = memory[-memory.data_ptr() % size :]
    with buffer.register_memory(memory[: len(memory) // size * size]):
        yield "registered", memory[: rows.numel() * 2].view(rows.dtype).view(rows.shape)


def measure(comm, options, call):
    spans = []
    for _ in range(options.warmup + options.iters):
        comm.barrier()
        begin = time.perf_counter_ns()
        result = call()
        if options.device == "cuda":
            torch.cuda.synchronize()
        spans.append((begin, time.perf_counter_ns()))
        del result  # as in `flexep bench`, its end is not counted
    of_ranks = [json.loads(spans) for spans in comm.all_gather_bytes(json.dumps(spans).encode())]
    slowest = [
        max(end for _, end in spans) - min(begin for begin, _ in spans) for spans in zip(*of_ranks, strict=True)
    ]
    return statistics.median(slowest[options.warmup :]) / 1000


def from_cxx(options):
    shape = {"device": options.device, "ranks": options.ranks, "tokens": options.tokens, "hidden": options.hidden}
    shape |= {"experts": options.experts, "topk": options.topk, "warmup": options.warmup, "iters": options.iters}
    times = {}
    for kind in options.kinds:
        report = flexep.bench(**shape, input=kind, ops=["dispatch", "combine"])
        medians = {result["op"]: result["median_us"] for result in report["results"]}
        times |= {f"combine, {kind}": medians["combine"]}
        times.setdefault("dispatch", medians["dispatch"])
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write the results to")
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    for name, default in (("ranks", 8), ("tokens", 4096), ("hidden", 7168), ("experts", 256), ("topk", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    kinds = ["arena", "ordinary", "registered"]
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds, help="memory of the experts' output")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--iters", type=int, default=20)
    options = parser.parse_args()
    cxx = from_cxx(options)
    queue = torch.multiprocessing.get_context("fork").SimpleQueue()
    arguments = (options, uuid.uuid4().hex, queue)
    torch.multiprocessing.start_processes(rank_of, arguments, nprocs=options.ranks, start_method="fork")
    python = queue.get()
    results = [{"op": op, "cxx_us": us, "python_us": python[op], "ratio": python[op] / us} for op, us in cxx.items()]
    for result in results:
        print("{op:20} C++ {cxx_us:8.1f} us  Python {python_us:8.1f} us  {ratio:6.3f}".format(**result))
    if options.json:
        report = {
            "schema_version": 1,
            "date": datetime.date.today().isoformat(),
            "machine": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            "torch": torch.__version__,
            "options": {name: value for name, value in vars(options).items() if name != "json"},
            "results": results,
        }
        with open(options.json, "w") as file:
            json.dump(report, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
