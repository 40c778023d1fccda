# SPDX-License-Identifier: Apache-2.0
"""What Python adds to a dispatch and a combine: one rank, one token, against `flexep bench` on the same machine.

    python bench/python_overhead.py --device cpu --json bench/results/<machine>/<date>-python-overhead.json

Medians of calls; run it on a quiet machine. C++ and Python take turns, and the best of their medians counts. On a GPU a time ends
when the stream has done what the call gave it, as in `flexep bench`; `call_us` is the time until the call returns. "with gradients"
is `flexep.torch` where autograd records the operation; of that, an empty autograd.Function of PyTorch takes what "autograd" says.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time

import torch
import torch.distributed as dist

import flexep
import flexep.torch
from flexep import deep_ep

HIDDEN, NUM_EXPERTS, NUM_TOPK = 64, 4, 2
ROUNDS = {"cpu": 5, "cuda": 2}  # a GPU is not shared with the other work of its machine
CALLS = 2000
NOTHING = "autograd"


class Nothing(torch.autograd.Function):
    """What PyTorch itself takes to record an operation."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


def calls(device):
    """(layer, operation): a function that does it once."""
    x = torch.zeros(1, HIDDEN, dtype=torch.bfloat16, device=device)
    ids, weights = torch.tensor([[0, 1]], device=device), torch.full((1, NUM_TOPK), 0.5, device=device)
    core = flexep.ElasticBuffer(flexep.Communicator.single(), device=device, num_sms=1)
    elastic = deep_ep.ElasticBuffer(dist.group.WORLD, num_max_tokens_per_rank=1, hidden=HIDDEN)
    routed = {"topk_idx": ids, "topk_weights": weights, "num_experts": NUM_EXPERTS}
    received = core.dispatch(x, **routed)
    rows = torch.from_dlpack(core.empty((1, HIDDEN), "bf16"))
    handle = elastic.dispatch(x, **routed, num_sms=1)[3]
    learned = x.clone().requires_grad_()
    return {
        ("flexep", "dispatch"): lambda: core.dispatch(x, **routed),
        ("flexep", "combine"): lambda: core.combine(rows, handle=received.handle),
        ("flexep.deep_ep", "dispatch"): lambda: elastic.dispatch(x, **routed, num_sms=1),
        ("flexep.deep_ep", "combine"): lambda: elastic.combine(rows, handle),
        ("flexep.torch", "dispatch"): lambda: flexep.torch.dispatch(core, x, ids, weights, num_experts=NUM_EXPERTS),
        ("flexep.torch", "combine"): lambda: flexep.torch.combine(core, rows, received.handle),
        ("with gradients", "dispatch"): lambda: flexep.torch.dispatch(core, learned, ids, weights, num_experts=NUM_EXPERTS),
        ("with gradients", "combine"): lambda: flexep.torch.combine(core, learned, received.handle),
        ("PyTorch", NOTHING): lambda: Nothing.apply(learned),
    }


def median_us(call, device):
    """(until its results are there, until the call returns)."""
    stream = torch.cuda.current_stream() if device == "cuda" else None
    spans = []
    for _ in range(CALLS):
        begin = time.perf_counter_ns()
        result = call()
        returned = time.perf_counter_ns()
        if stream is not None:
            stream.synchronize()
        spans.append((time.perf_counter_ns() - begin, returned - begin))
        del result  # as in `flexep bench`, its end is not counted
    return [statistics.median(times) / 1000 for times in zip(*spans, strict=True)]


def cxx_us(device):
    report = flexep.bench(
        device=device,
        transport="in_process",
        **{"ranks": 1, "tokens": 1, "hidden": HIDDEN, "experts": NUM_EXPERTS, "topk": NUM_TOPK, "num_sms": 1},
        **{"ops": ["dispatch", "combine"], "iters": CALLS, "warmup": 100},
    )
    return {result["op"]: result["median_us"] for result in report["results"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write the results to")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    best = {}
    for _ in range(ROUNDS[arguments.device]):
        measured = {("C++", op): (us, us) for op, us in cxx_us(arguments.device).items()}
        measured |= {key: median_us(call, arguments.device) for key, call in calls(arguments.device).items()}
        best = {key: min(us, best.get(key, us)) for key, us in measured.items()}
    results = [
        {"layer": layer, "op": op, "median_us": us, "call_us": call_us, "beyond_cxx_us": us - best.get(("C++", op), (0, 0))[0]}
        for (layer, op), (us, call_us) in best.items()
    ]
    for result in results:
        print("{layer:15} {op:9} {median_us:7.2f} us  call {call_us:7.2f} us  {beyond_cxx_us:+7.2f} us".format(**result))
    if arguments.json:
        report = {
            "schema_version": 1,
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "results": results,
        }
        with open(arguments.json, "w") as file:
            json.dump(report, file, indent=2)
            file.write("\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
