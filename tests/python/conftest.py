# SPDX-License-Identifier: Apache-2.0
"""Tests over ranks: `@pytest.mark.ranks(2, 4)` runs a test in that many processes, which form a gloo group.

Each runs with tensors of the CPU and with tensors of GPUs, with which the ranks take turns, and which are the default device of
PyTorch there; `ranks(2, cuda=(2, 8))` has other numbers there. FLEXEP_TEST_DEVICES=cuda leaves the CPU out.
"""

import os

import pytest
from ranks import Ranks, has_gpu

_DEVICES = os.environ.get("FLEXEP_TEST_DEVICES", "cpu,cuda").split(",")
# Ranks of a GPU take seconds to start: they serve all tests of their number, one after the other.
_standing = []


def pytest_configure(config):
    config.addinivalue_line("markers", "ranks(*sizes, cuda=sizes): run in so many processes, once for each size")


def pytest_generate_tests(metafunc):
    mark = metafunc.definition.get_closest_marker("ranks")
    if mark is None:
        return
    sizes = {"cpu": mark.args, "cuda": mark.kwargs.get("cuda", mark.args)}
    metafunc.fixturenames += ["device", "num_ranks"]
    metafunc.parametrize("device, num_ranks", [(device, size) for device in _DEVICES for size in sizes[device]])


def pytest_collection_modifyitems(items):
    def ranks_of_gpu(item):
        params = getattr(item, "callspec", None) and item.callspec.params
        return params.get("num_ranks", 0) if params and params.get("device") == "cuda" else 0

    items.sort(key=ranks_of_gpu)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if pyfuncitem.get_closest_marker("ranks") is None:
        return None
    pytest.importorskip("torch", reason="PyTorch is not installed")
    params = pyfuncitem.callspec.params
    num_ranks, device = params["num_ranks"], params["device"]
    if device == "cuda" and not has_gpu():
        pytest.skip("there is no GPU, or PyTorch or flexep is built without CUDA")
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    ranks = _take_ranks(num_ranks, device)
    failures = ranks.run(pyfuncitem.obj, arguments)
    if device == "cuda" and not failures:
        _standing.append(ranks)
    else:
        failures = failures or ranks.stop()
    if failures:
        ranks.kill()
        pytest.fail("\n".join(failures), pytrace=False)
    return True


def _take_ranks(num_ranks, device):
    if _standing:
        ranks = _standing.pop()
        if device == "cuda" and len(ranks) == num_ranks:
            return ranks
        ranks.stop()
    return Ranks(num_ranks, device)


def pytest_sessionfinish():
    for ranks in _standing:
        ranks.stop()
