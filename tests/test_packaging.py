"""What a wheel of fdd holds, and whether the files that name versions agree with each other."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"


def read_pins(name: str) -> dict[str, str]:
    """Return {canonical name: version} of one requirement file; any line but a pin fails."""
    pins = {}
    text = (REQUIREMENTS / name).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith(("#", "--")):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s*]+)(\s+--hash=sha256:[0-9a-f]{64})*", line)
        assert match, f"requirements/{name}: not an exact pin: {line!r}"
        pins[canonicalize_name(match.group(1))] = match.group(2)
    assert pins, f"requirements/{name} pins nothing"
    return pins


def copy_sources(target: Path) -> None:
    """Copy what a build reads, so that building leaves nothing behind in the checkout."""
    shutil.copytree(ROOT / "fdd", target / "fdd", ignore=shutil.ignore_patterns("__pycache__"))
    if (ROOT / "configs").is_dir():
        shutil.copytree(ROOT / "configs", target / "configs")
    for name in ("setup.py", "pyproject.toml", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, target / name)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    copy_sources(source)
    # Files of our own beside the shipped ones: deep folders must travel too.
    probe = source / "configs" / "probe" / "deep"
    probe.mkdir(parents=True)
    (probe / "probe.yaml").write_text("VERSION: 2\n")
    (source / "configs" / "Base-FDD.yaml").touch()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(source / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_wheel_holds_every_module_and_config(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "fdd").rglob("*.py")}
    shipped = [p.relative_to(ROOT) for p in (ROOT / "configs").rglob("*.yaml")]
    configs = {f"fdd/{path.as_posix()}" for path in shipped}
    configs |= {"fdd/configs/probe/deep/probe.yaml", "fdd/configs/Base-FDD.yaml"}
    templates = (ROOT / "fdd").glob("*/templates/*")
    pages = {path.relative_to(ROOT).as_posix() for path in templates}
    for page in ("report.html", "report.css", "report.js", "page.html", "annotate.css"):
        assert any(name.endswith(f"/{page}") for name in pages)
    missing = sorted((modules | configs | pages) - names)
    assert not missing, f"not in the wheel (a folder without __init__.py?): {missing}"
    assert any(name.endswith("LICENSE") for name in names)
    # Nothing may land beside the package in the user's site-packages.
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fdd"}


def test_configs_are_found_in_an_unpacked_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    module = load(tmp_path / "fdd" / "config_files.py", "unpacked_config_files")
    found = module.get_config_file("probe/deep/probe.yaml")
    assert found == str(tmp_path / "fdd" / "configs" / "probe" / "deep" / "probe.yaml")
    assert module.get_config_file("probe/deep/probe") == found
    with pytest.raises(FileNotFoundError, match=r"closest: .*probe/deep/probe\.yaml"):
        module.get_config_file("deep/prob.yaml")
    with pytest.raises(FileNotFoundError):
        module.get_config_file("../config_files")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it, and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*command, "--target", str(target), str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.parametrize("how", ["script", "module"])
def test_the_wheel_brings_the_command(installed: Path, metadata, tmp_path: Path, how: str) -> None:
    start = [sys.executable, "-m", "fdd"]
    if how == "script":
        start = [sys.executable, str(installed / "bin" / "fdd")]
    env = {**os.environ, "PYTHONPATH": str(installed)}

    def fdd(*words: str) -> str:
        done = subprocess.run(
            [*start, *words], capture_output=True, text=True, cwd=tmp_path, env=env
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert fdd("--version") == f"fdd {metadata['Version']}\n"
    assert "usage: fdd COMMAND" in fdd("--help") and "fdd train" in fdd("train", "--help")


def test_the_wheels_configs_are_used_from_any_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text('_BASE_: "fdd://shapes/Base-Shapes.yaml"\nSEED: 5\n')
    code = (
        "import fdd; from fdd.engine.configs import merge_cfg\n"
        "mine, shipped = merge_cfg('mine.yaml'), merge_cfg('shapes/fdd_small_P10.yaml')\n"
        "assert mine.MODEL.FDD == shipped.MODEL.FDD and mine.SEED == 5\n"
        "print(fdd.get_config_file('shapes/Base-Shapes'), *fdd.list_config_files(), sep='\\n')"
    )
    env = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert done.returncode == 0, done.stderr
    first, *names = done.stdout.splitlines()
    assert first == str(installed / "fdd" / "configs" / "shapes" / "Base-Shapes.yaml")
    configs = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    wanted = {path.as_posix() for path in configs if path.name != "tables.yaml"}
    assert set(names) >= wanted


def test_configs_are_found_in_a_checkout_and_missed_clearly(tmp_path: Path) -> None:
    (tmp_path / "fdd").mkdir()
    copy = shutil.copy(ROOT / "fdd" / "config_files.py", tmp_path / "fdd")
    module = load(Path(copy), "copied_config_files")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "stranger.yaml").touch()
    with pytest.raises(FileNotFoundError, match=r"Base-FDD\.yaml.*Install fdd again"):
        module.list_config_files()
    (tmp_path / "configs" / "Base-FDD.yaml").touch()
    assert module.list_config_files() == ["Base-FDD.yaml", "stranger.yaml"]


def load(path: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bounds_of_the_package_allow_the_pins(metadata) -> None:
    pins = {**read_pins("torch.txt"), **read_pins("runtime.txt"), **read_pins("dev.txt")}
    required = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    assert {"torch", "torchvision", "numpy"} <= {r.name for r in required}
    for requirement in required:
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"setup.py needs {requirement}, requirements/ does not install it"
        assert requirement.specifier.contains(pin), f"setup.py: {requirement}; pinned: {pin}"
    assert metadata["Requires-Python"] == ">=3.10"


def test_every_import_of_the_package_is_declared(metadata) -> None:
    imported = set()
    for path in (ROOT / "fdd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).split(".")[0])
    # Detectron2 and panopticapi are in no registry under their own names; Detectron2 brings yacs.
    # PyTorch brings triton where there can be a GPU; elsewhere nobody needs it.
    imported -= {*sys.stdlib_module_names, "fdd", "detectron2", "panopticapi", "yacs", "triton"}
    assert {"torch", "tabulate"} <= imported
    required = {Requirement(text).name for text in metadata.get_all("Requires-Dist")}
    names = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml"}
    assert {names.get(name, name) for name in imported} <= required


def test_no_package_is_pinned_twice() -> None:
    seen: dict[str, str] = {}
    for path in sorted(REQUIREMENTS.glob("*.txt")):
        for name in read_pins(path.name):
            assert name not in seen, f"{name} is pinned in {seen[name]} and in {path.name}"
            seen[name] = path.name


@pytest.mark.parametrize("name", ["detectron2.txt", "panopticapi.txt"])
def test_uploads_of_third_parties_are_pinned_by_hash(name: str) -> None:
    (pin,) = read_pins(name)
    text = (REQUIREMENTS / name).read_text(encoding="utf-8")
    assert text.count("--hash=sha256:") >= 1, f"requirements/{name}: {pin} has no hash"


@pytest.mark.parametrize("distribution", ["sal-detectron2", "panopticapi-lite"])
def test_dependencies_of_the_uploads_are_installed_by_name(distribution: str) -> None:
    try:
        needed = [Requirement(text) for text in requires(distribution) or []]
    except PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed here")
    # They are installed with --no-deps. black only formats saved configs, the others serve
    # converters that FDD does not use.
    unused = {"black", "scikit-image", "platformdirs"}
    pins = read_pins("runtime.txt")
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pins or name in unused, f"{distribution} needs {requirement}"


def test_version_is_the_same_everywhere(metadata) -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    match = re.search(r"^version: (\S+)$", citation, re.M)
    assert match is not None and match.group(1) == metadata["Version"]


def test_every_module_can_be_imported() -> None:
    for path in (ROOT / "fdd").rglob("*.py"):
        if path.name != "__main__.py":
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            importlib.import_module(name.removesuffix(".__init__"))


def test_import_without_detectron2_names_the_way_out() -> None:
    code = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'detectron2' else real(name, *a)\n"
        "import fdd"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "ImportError: fdd needs Detectron2" in done.stderr and "INSTALL.md" in done.stderr
