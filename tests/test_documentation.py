"""The documents: every key, command and file they name exists, and their programs run."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg
from PIL import Image

from fdd.cli.main import COMMANDS, find_command, make_parser
from fdd.config import _ALLOWED, add_fdd_config
from fdd.data.shapes import generate_shapes
from fdd.modeling.label_makers import label_maker_names

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *("README.md", "GETTING_STARTED.md", "MODEL_ZOO.md", "INSTALL.md", "CONTRIBUTING.md"),
    *("demo/README.md", "docs/method.md", "docs/configuration.md", "docs/custom_dataset.md"),
    *("docs/checks.md", "docs/labels.md", "docs/export.md", "docs/python.md", "docs/training.md"),
    *(
        "docs/annotate.md",
        "docs/troubleshooting.md",
        "docs/extend.md",
    ),
]
# Begun by a root of the config, so that e.g. environment variables are not taken for keys.
KEY = re.compile(r"`((?:MODEL|INPUT|SOLVER|TEST|DATASETS|DATALOADER)\.[A-Z0-9_.]*[A-Z0-9_])[ `]")
ROW = re.compile(r"^\| `([A-Z0-9_.]+)` \| `(.*?)` \| (.*) \|$", re.M)
# What a reader replaces by something of his own.
PLACEHOLDER = re.compile(r"^(?:my_\w+\.(?:py|yaml)|[A-Z_]+\.yaml|FILE)$")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, flags=re.M | re.S)


def commands(name: str) -> Iterator[list[str]]:
    """The words of each command of a document's shell blocks, without variables in front."""
    for block in code_blocks(read(name), "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                while words and re.match(r"[A-Z0-9_]+=", words[0]):
                    words.pop(0)
                if words:
                    yield words


ALL_COMMANDS = [(name, words) for name in DOCUMENTS for words in commands(name)]


def load_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"documented_{Path(path).stem}", ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def full_cfg() -> CfgNode:
    cfg = get_cfg()
    add_fdd_config(cfg)
    return cfg


def leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def added_keys() -> dict[str, Any]:
    before = dict(leaves(get_cfg()))
    return {key: value for key, value in leaves(full_cfg()) if key not in before}


def documented_rows() -> dict[str, tuple[str, str]]:
    return {key: (default, text) for key, default, text in ROW.findall(read_configuration())}


def read_configuration() -> str:
    return read("docs/configuration.md")


def test_every_key_is_documented_once_with_its_default() -> None:
    added, rows = added_keys(), documented_rows()
    assert len(added) > 50
    assert set(added) - set(rows) == set(), "not in docs/configuration.md"
    assert set(rows) - set(added) == set(), "in docs/configuration.md, but no key of FDD"
    found = [key for key, _, _ in ROW.findall(read_configuration())]
    assert len(found) == len(set(found))
    wrong = {k: (rows[k][0], v) for k, v in added.items() if rows[k][0] != repr(v)}
    assert not wrong, f"documented and actual defaults: {wrong}"


def test_allowed_values_are_documented() -> None:
    rows = documented_rows()
    for key, allowed in _ALLOWED.items():
        if key in rows:
            missing = [value for value in allowed if f"`{value!r}`" not in rows[key][1]]
            assert not missing, f"{key}: {missing} is allowed, but not documented"


def test_label_makers_are_documented() -> None:
    rows = documented_rows()
    for name in label_maker_names():
        assert f"`{name!r}`" in rows["MODEL.FDD.LABEL_MAKER"][1], f"label maker {name!r}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_keys_that_are_named_exist(name: str) -> None:
    cfg = full_cfg()
    for key in KEY.findall(read(name)):
        node: Any = cfg
        for part in key.split("."):
            assert isinstance(node, CfgNode) and part in node, f"{name}: no key {key}"
            node = node[part]


def test_short_keys_of_the_method_exist() -> None:
    cfg = full_cfg()
    names = re.findall(r"`([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)`", read("docs/method.md"))
    assert len(names) > 20
    known = {key for key, _ in leaves(cfg)} | {key for key, _ in leaves(cfg.MODEL.FDD)}
    known |= {*cfg, "MODEL.FDD"}
    assert set(names) <= known, f"no such keys: {set(names) - known}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_configs_that_are_named_exist(name: str) -> None:
    for path in re.findall(r"(?<![\w/.])configs/[\w/.-]+\.yaml", read(name)):
        assert (ROOT / path).is_file(), f"{name} names {path}"


def test_the_model_zoo_lists_every_published_config() -> None:
    text = read("MODEL_ZOO.md")
    configs = [p for d in ("voc", "coco", "shapes") for p in (ROOT / "configs" / d).glob("*.yaml")]
    assert len(configs) >= 6
    missing = [p.name for p in configs if "Base-" not in p.name and f"{p.name})" not in text]
    assert not missing, f"not in MODEL_ZOO.md: {missing}"


def test_scripts_and_targets_that_are_called_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), flags=re.M))
    called = 0
    for name, words in ALL_COMMANDS:
        if words[0] == "make":
            wanted = {w for w in words[1:] if "=" not in w}
            assert wanted <= targets, f"{name}: {words}"
        if words[0].startswith("python") and words[1:] and words[1].endswith(".py"):
            called += 1
            known = PLACEHOLDER.match(words[1]) or (ROOT / words[1]).is_file()
            assert known, f"{name}: no {words[1]}"
    assert called > 8


def arguments_of(script: str) -> list[Any]:
    found = [(n, w[2:]) for n, w in ALL_COMMANDS if w[0] == "python" and w[1:2] == [script]]
    assert found, f"no command with {script} in the documents"
    return found


def test_commands_of_train_net_are_understood() -> None:
    train_net = load_script("train_net.py")
    for name, words in arguments_of("train_net.py"):
        args = train_net.parse_args(words)
        cfg = full_cfg()
        cfg.merge_from_file(str(ROOT / args.config_file))
        cfg.merge_from_list(args.opts)  # KeyError, ValueError: a key or value that is not there
        assert args.opts, f"{name}: {words}"


@pytest.mark.parametrize("script", ["demo/demo.py", "tools/visualize_data.py"])
def test_commands_of_the_tools_are_understood(script: str) -> None:
    parser = load_script(script).get_parser()
    assert isinstance(parser, argparse.ArgumentParser)
    for name, words in arguments_of(script):
        args = parser.parse_args(words)  # SystemExit: an argument that is not there
        known = PLACEHOLDER.match(args.config_file) or (ROOT / args.config_file).is_file()
        assert known, f"{name}: {args.config_file}"
        full_cfg().merge_from_list(args.opts)


def test_commands_of_fdd_are_understood() -> None:
    seen = set()
    for name, words in ALL_COMMANDS:
        if words[0] == "fdd":
            command = find_command(words[1:])
            assert command, f"{name}: no command {words}"
            seen.add(command.name)
            # SystemExit: an argument that is not there, or one that is missing.
            args = make_parser(command).parse_args(words[1 + len(command.words) :])
            full_cfg().merge_from_list(getattr(args, "opts", None) or [])
    assert seen == {command.name for command in COMMANDS}, "a command is in no document"


def run_python(folder: Path, *words: str, **environment: str) -> str:
    """What a Python program prints in a folder, as a reader of the documents starts it."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **environment),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def write_blocks(name: str, folder: Path) -> list[str]:
    """Write a document's Python and YAML blocks to the files that their first lines name."""
    text = read(name)
    names = []
    for block in code_blocks(text, "python") + code_blocks(text, "yaml"):
        found = re.match(r"# (my_\w+\.(?:py|yaml))", block)
        assert found, f"a block without its file's name: {block[:60]!r}"
        block = block.replace('"configs/', f'"{ROOT.as_posix()}/configs/')
        (folder / found[1]).write_text(block, encoding="utf-8")
        names.append(found[1])
    return names


def test_the_data_set_in_python_trains(tmp_path: Path) -> None:
    write_blocks("docs/python.md", tmp_path)
    shapes = generate_shapes(tmp_path / "drawn", num_train=2, num_val=0, size=96)
    (tmp_path / "my_data" / "images").mkdir(parents=True)
    drawn = sorted((shapes / "train").glob("*.png"))
    for source, target in zip(drawn, ("first.jpg", "second.jpg"), strict=True):
        with Image.open(source) as image:
            image.convert("RGB").save(tmp_path / "my_data" / "images" / target)
    run_python(tmp_path, "my_points.py")
    small = [
        *("MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", "0"),
        *("MODEL.BACKBONE.NAME", "build_small_resnet_backbone", "MODEL.RESNETS.NORM", "BN"),
        *("MODEL.FDD.HIDDEN_DIM", "32", "MODEL.FDD.NUM_HEADS", "2", "DATALOADER.NUM_WORKERS", "0"),
        *("MODEL.FDD.PAN.NUM_QUERIES", "5", "INPUT.MIN_SIZE_TRAIN", "(96,)"),
        *("SOLVER.MAX_EPOCHS", "2", "SOLVER.EPOCH_STEPS", "(1,)"),
    ]
    log = run_python(
        tmp_path, "my_train.py", "--config-file", "my_config.yaml", "OUTPUT_DIR", "out", *small
    )
    assert "2 images, 2 iterations" in log
    assert (tmp_path / "out" / "model_final.pth").is_file()


EXTENSIONS = {
    "my_label_maker.py": "[ 0,  0,",
    "my_importer.py": "points=[(12.5, 40.5)]",
    "my_format.py": "a.jpg,1,cell,13.0,7.0",
    "my_backbone.py": "torch.Size([96, 128])",
    "my_loss.py": "loss_entropy: 0.",
}


@pytest.fixture(scope="module")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extensions")
    assert set(write_blocks("docs/extend.md", folder)) == {*EXTENSIONS, "my_train.py"}
    return folder


def test_extensions_run(extensions: Path) -> None:
    # In one process: most of the time goes into importing PyTorch.
    look = "; ".join(
        [
            "import runpy, sys",
            "[(print('==', f), runpy.run_path(f, run_name='__main__')) for f in sys.argv[1:]]",
        ]
    )
    parts = run_python(extensions, "-W", "ignore", "-c", look, *EXTENSIONS).split("== ")[1:]
    for part, (file, printed) in zip(parts, EXTENSIONS.items(), strict=True):
        assert part.startswith(file) and printed in part, part


def test_extensions_are_known_to_a_training(extensions: Path) -> None:
    look = "; ".join(
        [
            "import my_train, detectron2.modeling as m",
            "from fdd.modeling.label_makers import label_maker_names",
            "assert 'within' in label_maker_names()",
            "m.BACKBONE_REGISTRY.get('build_resnet18_backbone')",
            "m.META_ARCH_REGISTRY.get('FDDWithEntropy')",
        ]
    )
    run_python(extensions, "-c", look)


def find_name(dotted: str) -> Any:
    """The module, class or function of a dotted name; AttributeError where there is none."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            value = getattr(value, name)
        return value
    raise AttributeError(dotted)


@pytest.mark.parametrize("name", [*DOCUMENTS, "docs/performance.md", "docs/ablations.md"])
def test_python_names_that_are_named_exist(name: str) -> None:
    text = read(name)
    found = set(re.findall(r"\bfdd(?:\.[A-Za-z]\w*)+", text)) - {"fdd.json"}
    for module, names in re.findall(r"^from (fdd[\w.]*) import ([\w, ]+)$", text, flags=re.M):
        found |= {f"{module}.{imported.strip()}" for imported in names.split(",")}
    for dotted in found:
        find_name(dotted)


def test_the_api_index_is_up_to_date() -> None:
    made = load_script("tools/write_api_index.py").make_page()
    assert made == read("docs/api.md"), "run python tools/write_api_index.py"


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = json.loads(read("docs/notebooks/points_to_labels.ipynb"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells), "clear the outputs before committing"
    program = "\n\n".join("".join(cell["source"]) for cell in cells)
    drawn = 'draw_example(folder / "data"'
    assert program.count(drawn) == 1
    program = program.replace(drawn, f"{drawn}, num_images=4, num_val=1")
    (tmp_path / "cells.py").write_text(program, encoding="utf-8")
    printed = run_python(tmp_path, "cells.py", NOTEBOOK_STEPS="2")
    assert "4 images, " in printed and "nearest: PQ" in printed


def test_links_to_headings_lead_somewhere() -> None:
    """GitHub's anchors: lower case, without punctuation, hyphens for spaces."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "datasets" / "README.md"]
    broken = []
    for page in pages:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", text):
            other = (page.parent / target) if target else page
            if other.suffix != ".md" or not other.is_file():
                continue
            headings = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), flags=re.M)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            if anchor not in anchors:
                broken.append(f"{page.name}: {target}#{anchor}")
    assert not broken, f"no such headings: {broken}"
