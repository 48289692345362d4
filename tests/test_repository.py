"""Rules for the files of the repository: cheap to check, easy to break without noticing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Written in pieces, so that this file keeps its own rule.
MACHINE_PATH = re.compile(r"(?<![\w.~})-])/" + r"(?:home|root|work)/")
OPEN_END = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b")
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|!\[[^\]\n]*\]\(([^)\s]+)\)")


def tracked(*patterns: str) -> list[Path]:
    """Files that git knows and that exist, or a skip outside a checkout (a source archive)."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def read_text(path: Path) -> str | None:
    """The text of a file, or None for a binary one."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def offending_lines(paths: list[Path], pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in paths:
        for number, line in enumerate((read_text(path) or "").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    return found


def broken_links(path: Path) -> list[str]:
    """Local link targets of a Markdown file that do not exist; code blocks are not looked at."""
    text = re.sub(r"^(```|~~~).*?^\1", "", read_text(path) or "", flags=re.M | re.S)
    targets = [first or second for first, second in LINK.findall(text)]
    local = [t.split("#")[0] for t in targets if not re.match(r"[a-z][a-z0-9+.-]*:|#", t)]
    return [t for t in local if t and not (path.parent / t).exists()]


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    found = offending_lines(tracked(), MACHINE_PATH)
    assert not found, "absolute paths of one machine:\n" + "\n".join(found)


def test_the_package_has_no_open_ends() -> None:
    found = offending_lines(tracked("fdd"), OPEN_END)
    assert not found, "finish it, or open an issue:\n" + "\n".join(found)


def test_links_of_the_documents_lead_somewhere() -> None:
    documents = tracked("*.md")
    assert documents
    broken = {str(p.relative_to(ROOT)): b for p in documents if (b := broken_links(p))}
    assert not broken, f"links to files that do not exist: {broken}"


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("data = '/" + "home/someone/coco'", True),
        ("see /" + "work/main", True),
        ("file:///" + "root/x", True),
        ("https://example.org/" + "home/page", False),
        ("~/" + "work/fdd and ./" + "work/x", False),
        ("{out}/" + "work/x", False),
    ],
)
def test_machine_path_rule(line: str, bad: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) is bad


def test_link_rule(tmp_path: Path) -> None:
    (tmp_path / "there.md").touch()
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#part) [b](gone.md) ![c](gone.png) [d](https://x.org) [e](#here)\n"
        '```\n[f](in_code.md)\n```\n[g](also_gone.md "title")\n'
    )
    assert broken_links(page) == ["gone.md", "gone.png", "also_gone.md"]
