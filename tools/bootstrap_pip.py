"""Runs pip for :mod:`bootstrap`: shows how far it is, and says in plain words why it failed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEARTBEAT_SECONDS = 20

# The first pattern found in pip's log names the cause.
CAUSES = (
    (
        r"DO NOT MATCH THE HASHES",
        "a downloaded file is not the one that was pinned (see the hash in requirements/). Nothing"
        " of it was installed. Do not work around this: find out which index or proxy served it.",
    ),
    (
        r"No space left on device|\[Errno 28\]|\[Errno 122\]",
        "the disk is full. Free some space (pip's cache: `pip cache purge`) and run the same"
        " command again.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError",
        "the package index was reached, but its certificate was not accepted. Behind a company's"
        " proxy, point PIP_CERT at its certificate file.",
    ),
    (
        r"NewConnectionError|Failed to establish a new connection|Temporary failure in name res"
        r"|Name or service not known|nodename nor servname|Network is unreachable|Max retries"
        r"|Connection refused|ProxyError|ConnectTimeout|ReadTimeout|Connection reset"
        r"|Connection aborted|IncompleteRead",
        "the package index could not be reached: this machine has no network, or it needs a proxy"
        " (HTTPS_PROXY) or an index of its own (PIP_INDEX_URL). Connect and run the same command"
        " again; what is finished is kept.",
    ),
    (
        r"\(from versions: none\)",
        "the package index does not know the package, or could not be reached at all. Look at the"
        " network, HTTPS_PROXY and PIP_INDEX_URL, and run the same command again.",
    ),
    (
        r"No matching distribution found for",
        "the package index offers no build of that version for this Python and platform. Try"
        " another Python (make install PYTHON=python3.12); INSTALL.md tells how to install other"
        " versions by hand.",
    ),
)


class InstallError(Exception):
    """A failure that was understood; the text says what to do about it."""


def say(text: str) -> None:
    print(text, flush=True)


def explain_failure(log: str) -> str:
    """Say in plain words why pip failed, from its log."""
    for pattern, text in CAUSES:
        if re.search(pattern, log):
            found = re.search(r"No matching distribution found for (\S+)", log)
            return f"{text} (asked for: {found.group(1)})" if found else text
    errors = [line.split("ERROR: ", 1)[1] for line in log.splitlines() if "ERROR: " in line]
    return "; ".join(errors[-3:]) or "pip gave no reason."


def clean_environ() -> dict[str, str]:
    """The environment variables, less those that send Python or pip to another place."""
    foreign = {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"}
    return {key: value for key, value in os.environ.items() if key not in foreign}


def probe(python: Path, code: str) -> str | None:
    """Run `code` in the environment; return what it printed, or None where it failed."""
    try:
        done = subprocess.run(
            [str(python), "-c", code], capture_output=True, text=True, cwd="/", env=clean_environ()
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def import_error(python: Path, modules: str) -> str | None:
    """Import `modules` in the environment; return the error's last line, or None without error."""
    command = [str(python), "-c", f"import {modules}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=clean_environ())
    return (done.stderr.strip().splitlines() or ["?"])[-1] if done.returncode else None


class Pip:
    """Runs pip inside the environment, shows how far it is and explains its failures."""

    def __init__(self, python: Path, venv_dir: Path) -> None:
        self.python = python
        self.log = venv_dir / "fdd-install.log"
        # Not the system's folder: /tmp is often a small memory disk, and a move within one disk
        # cannot be half done.
        self.scratch = venv_dir / "fdd-scratch"

    def install(self, title: str, *arguments: str) -> None:
        say(f"==> {title}")
        start = time.monotonic()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        options = ["--no-input", "--disable-pip-version-check"]
        command = [str(self.python), "-m", "pip", "install", *options, *arguments]
        environ = {**clean_environ(), "TMPDIR": str(self.scratch)}
        # In a terminal pip draws its own bars; elsewhere (CI) its hundreds of lines go to the log
        # and become one line now and then.
        terminal = sys.stdout.isatty()
        with self.log.open("w") as log:
            if terminal:
                command += ["--log", str(self.log)]
            output = None if terminal else log
            process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=output)
        try:
            while True:
                try:
                    code = process.wait(HEARTBEAT_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if not terminal:
                        say(f"    {time.monotonic() - start:4.0f} s: {self._last_step()}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        if code != 0:
            reason = explain_failure(self.log.read_text(errors="replace"))
            raise InstallError(f"{title}: pip failed: {reason}\npip's log: {self.log}")
        say(f"    done in {time.monotonic() - start:.0f} s")

    def _last_step(self) -> str:
        for line in reversed(self.log.read_text(errors="replace").splitlines()):
            match = re.search(
                r"(Collecting|Downloading|Using cached|Building wheel|Installing collected)[^:(]*",
                line,
            )
            if match:
                return match.group(0).strip()
        return "starting"
