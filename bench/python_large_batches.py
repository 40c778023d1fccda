# SPDX-License-Identifier: Apache-2.0
"""Dispatch and combine of large batches from Python beside `flexep bench`, with the experts' output in each kind of memory.

    python bench/python_large_batches.py --device cuda --json bench/results/<machine>/<date>-python-large-batches.json

Ranks are processes of this machine, which take turns with its GPUs; where several share one they need the multi-process service. A
time is that from the first rank's call to the moment at which the slowest one's results are there, as in `flexep bench`. C++ and
Python take turns, and the best of their medians counts.
"""

import argparse
import contextlib
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
    device = options.device
    if device == "cuda":
        device = f"cuda:{rank % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    buffer = flexep.ElasticBuffer(comm, device=device)
    drawn = {"generator": torch.Generator(device).manual_seed(rank), "device": device}
    # Small whole numbers, as in `flexep bench`: a GPU takes longer to move what has more bits set.
    x = torch.randint(-7, 8, (options.tokens, options.hidden), **drawn).bfloat16()
    routed = {
        "topk_idx": torch.rand(options.tokens, options.experts, **drawn).topk(options.topk).indices,
        "topk_weights": torch.rand(options.tokens, options.topk, **drawn),
        "num_experts": options.experts,
    }
    received = buffer.dispatch(x, **routed)
    rows = received.x.to_library(torch.Tensor)
    calls = {"dispatch": lambda: buffer.dispatch(x, **routed).tensors(torch.Tensor)}
    with contextlib.ExitStack() as registrations:
        for kind in options.kinds:
            y = expert_output(kind, buffer, rows, registrations)
            torch.mul(rows, 2, out=y)
            calls[f"combine, {kind}"] = lambda y=y: buffer.combine(y, handle=received.handle).tensors(torch.Tensor)
        times = measure(comm, options, calls)
    if rank == 0:
        results.put(times)
    comm.barrier()


def expert_output(kind, buffer, rows, registrations):
    """Memory of a kind, as `flexep bench --input` names them, for what the experts write."""
    if kind == "arena":
        return buffer.empty(tuple(rows.shape), "bf16").to_library(torch.Tensor)
    if kind == "ordinary":
        return torch.empty_like(rows)
    size = 2 << 20
    memory = torch.empty((rows.numel() * 2 // size + 2) * size, dtype=torch.uint8, device=rows.device)
    memory = memory[-memory.data_ptr() % size :]
    registrations.enter_context(buffer.register_memory(memory[: len(memory) // size * size]))
    return memory[: rows.numel() * 2].view(rows.dtype).view(rows.shape)


def measure(comm, options, calls):
    """Microseconds of each; they take turns, as in `flexep bench`."""
    spans = {op: [] for op in calls}
    for _ in range(options.warmup + options.iters):
        for op, call in calls.items():
            spans[op].append(span_of(comm, options, call))
    of_ranks = [json.loads(spans) for spans in comm.all_gather_bytes(json.dumps(spans).encode())]
    return {op: median_of_slowest([spans[op][options.warmup :] for spans in of_ranks]) for op in calls}


def span_of(comm, options, call):
    comm.barrier()
    begin = time.perf_counter_ns()
    result = call()
    if options.device == "cuda":
        torch.cuda.current_stream().synchronize()
    end = time.perf_counter_ns()
    del result  # as in `flexep bench`, its end is not counted
    return begin, end


def median_of_slowest(spans_of_ranks):
    slowest = [
        max(end for _, end in spans) - min(begin for begin, _ in spans) for spans in zip(*spans_of_ranks, strict=True)
    ]
    return statistics.median(slowest) / 1000


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


def from_python(options):
    queue = torch.multiprocessing.get_context("fork").SimpleQueue()
    arguments = (options, uuid.uuid4().hex, queue)
    torch.multiprocessing.start_processes(rank_of, arguments, nprocs=options.ranks, start_method="fork")
    return queue.get()


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
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    cxx, python = {}, {}
    for _ in range(options.rounds):
        for best, measured in ((cxx, from_cxx(options)), (python, from_python(options))):
            best |= {op: min(us, best.get(op, us)) for op, us in measured.items()}
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
