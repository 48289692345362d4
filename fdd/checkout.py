"""Which commit runs, for reports and records."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["checkout_commit"]

_ROOT = Path(__file__).resolve().parents[1]


def checkout_commit(*paths: str, length: int | None = None) -> tuple[str, bool] | None:
    """The commit of the checkout that the package lies in.

    Args:
        paths: whose changes count, from the root; all files without.
        length: digits of the hash; git's own choice without.

    Returns:
        Its short hash, empty where git is missing or fails, and whether files differ from it. None
        for an installed package.
    """
    if not (_ROOT / ".git").exists():
        return None
    short = "--short" if length is None else f"--short={length}"
    try:
        commit = _git("rev-parse", short, "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", *paths)
    except (OSError, subprocess.SubprocessError):
        return "", False
    return commit, bool(changed)


def _git(*words: str) -> str:
    command = ["git", "-C", str(_ROOT), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    return done.stdout.strip()
