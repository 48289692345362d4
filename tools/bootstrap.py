"""Create .venv and install everything FDD needs, or repair what is there; for `make install`.

Standard library only, because it runs before anything is installed. A stamp inside .venv holds a
digest of all that decides what is installed; while it matches, the script returns at once and needs
no network. The stamp is removed first and written last, so that an interrupted run is taken up
again by the next one.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bootstrap_pip import InstallError, Pip, import_error, probe, say

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 13)
FRESH_GB = 9 if sys.platform == "linux" else 3  # Linux wheels of PyTorch bring CUDA along
CACHE_GB = 3  # what pip's cache of the downloads takes, often on the same disk
REPAIR_GB = 1

# Module to import as the proof, requirement file, distribution in it, name under which upstream
# installs itself.
REUPLOADS = (
    ("detectron2.modeling, detectron2.engine", "detectron2.txt", "sal-detectron2", "detectron2"),
    ("panopticapi.evaluation", "panopticapi.txt", "panopticapi-lite", "panopticapi"),
)
# sal-detectron2's wheel is tagged for Python 3.10 although the code in it runs on later ones.
REUPLOAD_OPTIONS = (
    *("--require-hashes", "--no-deps", "--only-binary", ":all:"),
    *("--python-version", "3.10", "--upgrade"),
)

# Run inside the finished environment; prints the line that the user sees last.
REPORT = """
import torch, torchvision
gpus = torch.cuda.device_count() if torch.cuda.is_available() else "none"
print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, GPU: {gpus}")
"""


def reads(stamp: Path, wanted: str) -> bool:
    return stamp.is_file() and stamp.read_text() == wanted


def check_python(version: tuple[int, int], what: str = "this Python") -> None:
    """Raise :class:`InstallError` unless wheels of the pinned versions exist for `version`."""
    if not OLDEST <= version <= NEWEST:
        supported = " to ".join(".".join(map(str, v)) for v in (OLDEST, NEWEST))
        raise InstallError(
            f"{what} is {version[0]}.{version[1]}, but the pinned versions need Python {supported}."
            " Name another one: make install PYTHON=/path/to/python3.12"
        )


def fingerprint(root: Path, dev: bool) -> str:
    """Digest of what decides the environment's contents, and of its place (editable install)."""
    digest = hashlib.sha256(f"{root}|dev={dev}".encode())
    files = sorted((root / "requirements").glob("*.txt"))
    files += [root / "setup.py", *sorted((root / "tools").glob("bootstrap*.py"))]
    for path in files:
        if dev or path.name != "dev.txt":
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def installed_version(python: Path, distribution: str) -> str | None:
    return probe(
        python, f"from importlib.metadata import version; print(version({distribution!r}))"
    )


def pinned_version(requirements: Path, distribution: str) -> str:
    match = re.search(rf"^{re.escape(distribution)}==([^\s\\]+)", requirements.read_text(), re.M)
    if match is None:
        raise InstallError(
            f"{requirements} does not pin {distribution} (expected `{distribution}==VERSION`)"
        )
    return match.group(1)


def matches_pin(version: str | None, pin: str) -> bool:
    """Whether pip takes an installed `version` for `pin`: 2.15.0+cpu counts as 2.15.0."""
    return version is not None and version.split("+")[0] == pin


def create_environment(venv_dir: Path) -> Path:
    """Return the Python of a working environment at `venv_dir`, (re)creating it where needed."""
    python = venv_dir / "bin" / "python"
    version = probe(python, "import pip, sys; print(*sys.version_info[:2])")
    if version is not None:
        major, minor = map(int, version.split())
        check_python((major, minor), f"the Python of {venv_dir} (delete that folder)")
        return python
    if venv_dir.exists() and any(venv_dir.iterdir()) and not (venv_dir / "pyvenv.cfg").is_file():
        raise InstallError(
            f"{venv_dir} exists and is not a virtual environment: move it away and run again"
        )
    try:
        import ensurepip
        import venv

        ensurepip.version()
    except ImportError as error:
        raise InstallError(
            f"{sys.executable} lacks the module {error.name}."
            " Debian and Ubuntu keep it in a package of its own: apt install python3-venv"
        ) from error
    say(
        f"==> {'re-creating the broken' if venv_dir.exists() else 'creating'} {venv_dir}"
        f" with {sys.executable}"
    )
    venv.create(venv_dir, with_pip=True, clear=True, symlinks=True)
    return python


def check_disk(place: Path, needed_gb: float) -> float:
    """Return the free GB at `place`; raise :class:`InstallError` if they are not enough."""
    free_gb = shutil.disk_usage(place).free / 1e9
    if free_gb < needed_gb:
        raise InstallError(
            f"only {free_gb:.1f} GB are free at {place}; about {needed_gb:g} GB are needed for"
            " PyTorch and its downloads. Free some space, or clone to a larger disk"
        )
    return free_gb


def install_reupload(
    pip: Pip, modules: str, requirements: Path, distribution: str, upstream: str
) -> None:
    """Install Detectron2 or panopticapi from its pinned upload, unless one that works is there."""
    works = import_error(pip.python, modules) is None
    ours = installed_version(pip.python, distribution)
    if works and (ours is None or ours == pinned_version(requirements, distribution)):
        return
    theirs = installed_version(pip.python, upstream)
    if not works and theirs is not None:
        raise InstallError(
            f"{upstream} {theirs} is installed in {pip.python.parent.parent}, but"
            f" `import {modules}` fails there. Build it again for the installed PyTorch, or remove"
            f" it (`{pip.python} -m pip uninstall {upstream}`) and run this again."
        )
    target = probe(pip.python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    pip.install(
        f"{upstream} ({distribution}, checked by hash)",
        *REUPLOAD_OPTIONS,
        *("--target", str(target), "-r", str(requirements)),
    )
    if error := import_error(pip.python, modules):
        raise InstallError(f"{distribution} was installed, but `import {modules}` fails: {error}")


def install_base(pip: Pip, venv_dir: Path, constraints: Sequence[str]) -> None:
    """Install all that training needs: PyTorch, libraries, Detectron2, panopticapi and fdd."""
    requirements = ROOT / "requirements"
    torch_there = all(
        matches_pin(
            installed_version(pip.python, name), pinned_version(requirements / "torch.txt", name)
        )
        for name in ("torch", "torchvision")
    )
    needed_gb = REPAIR_GB if torch_there else FRESH_GB
    free_gb = check_disk(venv_dir, needed_gb)
    cache = () if free_gb > needed_gb + CACHE_GB else ("--no-cache-dir",)
    large = "" if torch_there else " (the large part: minutes, as fast as the network)"
    # One call for both files: alone, torchvision would bring a numpy that the other file replaces.
    files = ("-r", str(requirements / "torch.txt"), "-r", str(requirements / "runtime.txt"))
    pip.install(f"PyTorch and other libraries{large}", *constraints, *cache, "--use-pep517", *files)
    for modules, file, distribution, upstream in REUPLOADS:
        install_reupload(pip, modules, requirements / file, distribution, upstream)
    pip.install("fdd itself, editable", "--no-deps", "--no-build-isolation", "-e", str(ROOT))


def install(venv_dir: Path, dev: bool) -> None:
    """Bring the environment at `venv_dir` to what the requirement files say, if it is not."""
    check_python(sys.version_info[:2])
    python = venv_dir / "bin" / "python"
    base_stamp, dev_stamp = venv_dir / "fdd-installed", venv_dir / "fdd-installed-dev"
    base_done = python.exists() and reads(base_stamp, fingerprint(ROOT, dev=False))
    dev_done = base_done and reads(dev_stamp, fingerprint(ROOT, dev=True))
    if dev_done or (base_done and not dev):
        return
    start = time.monotonic()
    python = create_environment(venv_dir)
    pip = Pip(python, venv_dir)
    constraints = ("-c", str(ROOT / "requirements" / "constraints.txt"))
    if not base_done:
        base_stamp.unlink(missing_ok=True)
        install_base(pip, venv_dir, constraints)
        base_stamp.write_text(fingerprint(ROOT, dev=False))
    if dev:
        requirements = str(ROOT / "requirements" / "dev.txt")
        pip.install(
            "pytest, pytest-xdist, ruff, mypy",
            *constraints,
            "--only-binary",
            ":all:",
            "-r",
            requirements,
        )
    versions = probe(python, REPORT)
    if versions is None:
        base_stamp.unlink()
        error = import_error(python, "torch, torchvision")
        raise InstallError(f"PyTorch was installed, but importing it fails: {error}")
    if dev:
        dev_stamp.write_text(fingerprint(ROOT, dev=True))
    say(f"==> ready in {time.monotonic() - start:.0f} s: {versions}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Create or repair the virtual environment of FDD.")
    parser.add_argument("--dev", action="store_true", help="also install pytest, ruff and mypy")
    parser.add_argument(
        "--venv",
        type=Path,
        default=ROOT / ".venv",
        help="where (default: .venv beside the Makefile)",
    )
    arguments = parser.parse_args()
    try:
        install(arguments.venv.absolute(), arguments.dev)
    except InstallError as error:
        print(f"\ninstall failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
