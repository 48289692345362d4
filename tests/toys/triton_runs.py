"""Triton kernels in processes of their own, so that the interpreter's mode touches no other test.

A test file names its cases and compile targets, makes its fixtures here, and ends with ``main``:
run as a script it goes through all of them and prints what went wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import fdd

Report = dict[str, str]


def main(
    cases: Mapping[str, Callable[[str], None]],
    targets: Mapping[str, tuple[Any, ...]],
    compile_target: Callable[..., None],
) -> None:
    """Run all cases, or compile all targets; print {name: traceback or nothing} as the last line.

    The first argument of the command line is the device of the cases, or ``compile``.
    """
    mode = sys.argv[1]
    torch.set_num_threads(1)
    report: Report = {}
    for name in targets if mode == "compile" else cases:
        try:
            if mode == "compile":
                compile_target(*targets[name])
            else:
                cases[name](mode)
            report[name] = ""
        except Exception:
            report[name] = traceback.format_exc()
    print(json.dumps(report))


def _in_process(script: str, mode: str, cache: Path, **environment: str) -> Report:
    roots = str(Path(fdd.__file__).parents[1]), str(Path(__file__).parent)
    env = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (*roots, env.get("PYTHONPATH"))))
    env["TRITON_CACHE_DIR"] = str(cache)
    done = subprocess.run(
        [sys.executable, script, mode],
        env={**env, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def case_fixture(script: str) -> Any:
    """Module fixture: the cases' report, from the interpreter and, where there is one, a GPU."""

    @pytest.fixture(scope="module", params=["cpu", "cuda"])
    def results(request: Any, tmp_path_factory: Any) -> Report:
        cache = tmp_path_factory.mktemp("triton")
        if request.param == "cpu":
            return _in_process(script, "cpu", cache, TRITON_INTERPRET="1")
        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")
        return _in_process(script, "cuda", cache)

    return results


def compile_fixture(script: str) -> Any:
    """Module fixture: the targets' report; compiling needs Triton's own assembler, but no GPU."""

    @pytest.fixture(scope="module")
    def compiled(tmp_path_factory: Any) -> Report:
        try:
            from triton.backends.compiler import GPUTarget  # noqa: F401
            from triton.backends.nvidia.compiler import get_ptxas

            get_ptxas(80)
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"this Triton cannot compile here: {error}")
        return _in_process(script, "compile", tmp_path_factory.mktemp("triton"))

    return compiled
