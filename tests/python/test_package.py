# SPDX-License-Identifier: Apache-2.0
"""The command in the package, and the wheel."""

import pathlib
import re
import subprocess
import sys
import time
import venv

import pytest

import flexep

# Not resolved: in a build tree the package's sources are links, and the tree is around them.
_BUILD_TREE = pathlib.Path(flexep.__file__).parents[2]
_SOURCES = pathlib.Path(__file__).parents[2]


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_command_is_python_m_flexep():
    assert flexep.__version__ in run(sys.executable, "-m", "flexep", "version")
    wrong = subprocess.run([sys.executable, "-m", "flexep", "nonsense"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "nonsense" in wrong.stderr


def test_check_returns_its_summary_and_raises_what_fails():
    assert "4 passed, 0 failed" in flexep.check(cases=4, ranks=[2])
    with pytest.raises(flexep.Error, match="--cases"):
        flexep.check(cases="many")


def test_bench_returns_its_report():
    report = flexep.bench(tokens=8, hidden=64, experts=4, topk=2, iters=2, warmup=1, num_sms=1)
    assert {"dispatch", "combine"} <= {result["op"] for result in report["results"]}


def test_ranks_of_the_caller_are_none_of_the_commands(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "2 passed" in flexep.check(cases=2, ranks=[1], transport="in_process")


@pytest.mark.parametrize("module, beyond", [("flexep", "time"), ("flexep.torch", "torch"), ("flexep.deep_ep", "torch")])
def test_import_time_is_told(module, beyond, capsys):
    pytest.importorskip(beyond)
    program = f"import time, {beyond}; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"
    seconds = float(run(sys.executable, "-c", program))
    with capsys.disabled():
        print(f"\nimport {module}: {1000 * seconds:.0f} ms beyond {beyond}")
    assert seconds > 0


@pytest.mark.parametrize("module, beyond", [("flexep", "json"), ("flexep.torch", "torch"), ("flexep.deep_ep", "torch.distributed")])
def test_import_brings_along_nothing_of_others(module, beyond):
    pytest.importorskip(beyond)
    program = f"import sys, {beyond}; there = set(sys.modules); import {module}; print(*(set(sys.modules) - there))"
    packages = {name.split(".")[0] for name in run(sys.executable, "-c", program).split()}
    assert packages - set(sys.stdlib_module_names) == {"flexep"}


def test_reference_is_made_of_the_docstrings(tmp_path):
    pytest.importorskip("torch")
    run(sys.executable, _SOURCES / "scripts/python_reference.py", tmp_path)
    text = "".join(page.read_text() for page in tmp_path.glob("*.html"))
    for name in ("ElasticBuffer", "from_process_group", "EventOverlap", "FlexTokenDispatcher", "topk_weights"):
        assert name in text, name


def _defines_of_the_tree():
    """What pyproject.toml sets, as this tree has it: one build then serves both."""
    tomllib = pytest.importorskip("tomllib")
    names = tomllib.loads((_SOURCES / "pyproject.toml").read_text())["tool"]["scikit-build"]["cmake"]["define"]
    cache = (_BUILD_TREE / "CMakeCache.txt").read_text()
    for name in names:
        found = re.search(rf"^{name}:\w+=(.*)$", cache, re.MULTILINE)
        yield name, found.group(1) if found else "OFF"


def test_wheel_installs_into_an_empty_environment(tmp_path):
    pytest.importorskip("scikit_build_core")
    if not (_BUILD_TREE / "CMakeCache.txt").exists():
        pytest.skip("flexep is installed: there is no build tree to make a wheel from")
    # With it scikit-build-core would think of the tree as its own, and empty it for an environment that it does not know.
    (_BUILD_TREE / ".skbuild-info.json").unlink(missing_ok=True)
    settings = [f"-Ccmake.define.{name}={value}" for name, value in _defines_of_the_tree()]
    wheel = ["wheel", _SOURCES, "--no-build-isolation", "--no-deps", "-w", tmp_path, f"-Cbuild-dir={_BUILD_TREE}"]
    run(sys.executable, "-m", "pip", *wheel, *settings)
    (made,) = tmp_path.glob("flexep-*.whl")
    venv.create(tmp_path / "empty", with_pip=False)
    site = next((tmp_path / "empty" / "lib").glob("python*/site-packages"))
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, made)
    python = tmp_path / "empty/bin/python"
    environment = {"PATH": "/usr/bin:/bin"}
    run(python, "-c", "import flexep; flexep.check(cases=20)", cwd=tmp_path, env=environment)
    assert flexep.__version__ in run(python, "-m", "flexep", "version", cwd=tmp_path, env=environment)
    assert all((site / "flexep" / name).exists() for name in ("_core.pyi", "py.typed", "deep_ep/buffer.py"))
    for binary in (next((site / "flexep").glob("_core*.so")), site / "flexep/bin/flexep"):
        loaded = re.findall(r"(lib(?:fmt|hwy)\.so\S*) => (\S+)", run("ldd", binary))
        assert all(pathlib.Path(path).resolve().parents[1] == site.resolve() / "flexep" for _, path in loaded), loaded
