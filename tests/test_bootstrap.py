"""The installer: what it leaves alone, what it repairs, and what it says when it cannot go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import bootstrap

    return bootstrap


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("WARNING: Retrying: NewConnectionError\nERROR: No matching distribution found for torch",
         "no network"),
        ("ERROR: No matching distribution found for torch==2.15.0", "asked for: torch==2.15.0"),
        ("ERROR: Could not find a version (from versions: none)", "could not be reached at all"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
        ("SSLError(SSLCertVerificationError(1, 'x'))", "PIP_CERT"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "not the one that was pinned"),
        ("x ERROR: something new", "something new"),
        ("", "no reason"),
    ],
)  # fmt: skip
def test_failures_are_named(bootstrap, log: str, words: str) -> None:
    assert words in sys.modules["bootstrap_pip"].explain_failure(log)


@pytest.mark.parametrize("version", [(3, 10), (3, 14), (2, 7)])
def test_python_versions_without_wheels_are_refused(bootstrap, version: tuple[int, int]) -> None:
    with pytest.raises(bootstrap.InstallError, match=r"3\.11 to 3\.13.*PYTHON="):
        bootstrap.check_python(version)


def test_supported_versions_agree_with_the_makefile(bootstrap) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"not {bootstrap.OLDEST} <= sys.version_info[:2] <= {bootstrap.NEWEST}" in makefile


def test_full_disk_is_reported_before_anything_is_fetched(bootstrap, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _: SimpleNamespace(free=2.5e9))
    assert bootstrap.check_disk(tmp_path, 2) == 2.5
    with pytest.raises(bootstrap.InstallError, match=r"only 2\.5 GB are free"):
        bootstrap.check_disk(tmp_path, 9)


def test_fingerprint_follows_the_files(bootstrap, tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "setup.py").touch()
    for name in ("torch.txt", "dev.txt"):
        (tmp_path / "requirements" / name).write_text("x==1\n")
    base, dev = (bootstrap.fingerprint(tmp_path, dev=d) for d in (False, True))
    assert base != dev
    (tmp_path / "requirements" / "dev.txt").write_text("x==2\n")
    assert bootstrap.fingerprint(tmp_path, dev=False) == base
    assert bootstrap.fingerprint(tmp_path, dev=True) != dev
    (tmp_path / "requirements" / "torch.txt").write_text("x==2\n")
    assert bootstrap.fingerprint(tmp_path, dev=False) != base


@pytest.mark.parametrize(
    ("version", "same"),
    [("2.15.0", True), ("2.15.0+cpu", True), ("2.15.1", False), (None, False)],
)
def test_builds_for_another_device_satisfy_the_pin(bootstrap, version, same: bool) -> None:
    assert bootstrap.matches_pin(version, "2.15.0") is same


def test_a_folder_of_the_user_is_not_overwritten(bootstrap, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(bootstrap.InstallError, match="not a virtual environment"):
        bootstrap.create_environment(tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


class FakePip:
    """Stands for the environment: which imports work, which versions are installed."""

    def __init__(self, working: bool, versions: dict[str, str]) -> None:
        self.python = Path("bin/python")
        self.working, self.versions, self.calls = working, versions, []

    def install(self, *arguments: str) -> None:
        self.calls.append(arguments)
        self.working = True


def reinstall(bootstrap, monkeypatch, pip: FakePip) -> list:
    requirements = ROOT / "requirements" / "detectron2.txt"
    pin = bootstrap.pinned_version(requirements, "sal-detectron2")
    pip.versions = {k: pin if v == "PIN" else v for k, v in pip.versions.items()}
    monkeypatch.setattr(bootstrap, "probe", lambda *_: "site-packages")
    monkeypatch.setattr(
        bootstrap, "import_error", lambda *_: None if pip.working else "ImportError: broken"
    )
    monkeypatch.setattr(bootstrap, "installed_version", lambda _, name: pip.versions.get(name))
    bootstrap.install_reupload(pip, "detectron2", requirements, "sal-detectron2", "detectron2")
    return pip.calls


@pytest.mark.parametrize(
    ("working", "versions", "installs"),
    [
        (False, {}, True),
        (True, {"detectron2": "0.6"}, False),
        (True, {}, False),
        (True, {"sal-detectron2": "PIN"}, False),
        (True, {"sal-detectron2": "0.0.1"}, True),
        (False, {"sal-detectron2": "PIN"}, True),
    ],
)
def test_detectron2_that_works_is_left_alone(
    bootstrap, monkeypatch, working: bool, versions: dict, installs: bool
) -> None:
    calls = reinstall(bootstrap, monkeypatch, FakePip(working, versions))
    assert len(calls) == installs
    assert all("--require-hashes" in call and "--no-deps" in call for call in calls)


def test_a_broken_upstream_detectron2_is_not_overwritten(bootstrap, monkeypatch) -> None:
    pip = FakePip(False, {"detectron2": "0.6"})
    with pytest.raises(bootstrap.InstallError, match="pip uninstall detectron2"):
        reinstall(bootstrap, monkeypatch, pip)
    assert not pip.calls


def test_no_network_is_said_in_plain_words(bootstrap, monkeypatch, tmp_path: Path, capfd) -> None:
    # Port 9 of this machine answers nobody: what pip sees is a refused connection.
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    pip = bootstrap.Pip(Path(sys.executable), tmp_path)
    with pytest.raises(bootstrap.InstallError, match="no network"):
        pip.install("a package", "--target", str(tmp_path / "lib"), "some-package-of-nobody==1.0")
    assert "==> a package" in capfd.readouterr().out
    assert not pip.scratch.exists()


def test_a_finished_environment_is_left_at_once(bootstrap, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(bootstrap, "create_environment", lambda _: pytest.fail("started anew"))
    (tmp_path / "fdd-installed").write_text(bootstrap.fingerprint(bootstrap.ROOT, dev=False))
    bootstrap.install(tmp_path, dev=False)
    (tmp_path / "fdd-installed-dev").write_text(bootstrap.fingerprint(bootstrap.ROOT, dev=True))
    bootstrap.install(tmp_path, dev=True)
    (tmp_path / "fdd-installed").unlink()  # as an interrupted run leaves it
    for dev in (False, True):
        with pytest.raises(pytest.fail.Exception, match="started anew"):
            bootstrap.install(tmp_path, dev=dev)


def test_make_without_a_target_explains_itself() -> None:
    done = subprocess.run(["make"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for target in ("install", "demo", "test", "smoke", "lint", "clean"):
        assert f"\n  {target} " in done.stdout


def test_make_names_the_missing_python(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "install", "VENV_PYTHON=none", f"PATH={tmp_path}", "SHELL=/bin/sh"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr and "PYTHON=" in done.stderr


def test_the_list_of_the_smoke_tests_names_what_is_there() -> None:
    root = Path(__file__).resolve().parents[1]
    lines = (root / "tests" / "smoke.txt").read_text(encoding="utf-8").splitlines()
    for path, _, name in (line.partition("::") for line in lines):
        text = (root / path).read_text(encoding="utf-8")
        assert f"def {name}(" in text if name else text, f"tests/smoke.txt: no {path} {name}"
