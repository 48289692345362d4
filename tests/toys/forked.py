"""Commands of fdd in processes of their own, without the seconds that importing PyTorch takes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fdd.cli.main import main


def run_forked(
    words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``fdd WORDS`` in ``folder``, in a fork of this process: what is imported is there.

    Standard output and error are files, as in a pipe. For what a command does to its process, or
    reads as it is imported, start Python instead.
    """
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place, name) for name in ("stdout", "stderr")]
        context = multiprocessing.get_context("fork")
        arguments = (list(words), folder, dict(environment or {}), paths)
        process = context.Process(target=_child, args=arguments)
        process.start()
        process.join(600)
        if process.exitcode is None:
            process.kill()
            process.join()
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    return subprocess.CompletedProcess(words, process.exitcode or 0, *texts)


def _child(
    words: list[str], folder: Path, environment: dict[str, str], paths: Sequence[Path]
) -> None:
    gc.freeze()
    os.environ.update(environment)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(paths, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.stdin = os.fdopen(0)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8") for n in (1, 2))
    try:
        status = main(words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    sys.exit(status)
