"""The inference path as a program: equal to the model, and on its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from export_toys import toy_input, write_run
from fdd.data.augmentation import ResizeShortestEdge
from fdd.inference import program_export
from fdd.inference.program_export import canvas_of, export_program, load_program, run_program
from fdd.inference.trained_model import load_trained
from fdd.modeling.panoptic_branch import postprocess

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program") / "run"
    return write_run(folder, {"INPUT.MIN_SIZE_TEST": 96, "INPUT.FORMAT": "BGR"})


@pytest.fixture(scope="module")
def model(run):
    return load_trained(run, opts=["MODEL.DEVICE", "cpu"]).model


@pytest.fixture(scope="module")
def exported(run):
    return export_program(run, run.parent / "any.pt2")


@pytest.fixture(scope="module")
def fixed(run):
    """For one size, made divisible: 128 x 192."""
    return export_program(run, run.parent / "one.pt2", size=(100, 192))


@pytest.fixture(scope="module")
def program(exported):
    return load_program(exported.path)


@pytest.fixture(scope="module")
def fixed_program(fixed):
    return load_program(fixed.path)


def picture(height, width, seed=0):
    """uint8 (3, H, W), RGB."""
    return toy_input(height, width, [0], seed=seed)["image"]


@torch.no_grad()
def by_model(model, image):
    x = {"image": image.flip(0), "height": image.shape[1], "width": image.shape[2]}  # BGR
    found = model.panoptic_branch.predict(model.encode(model.preprocess([x])))
    return {k: v[0] for k, v in vars(found).items()}, model([x])[0]["panoptic_seg"]


def on_canvas(image, info, fill=0.0):
    height, width = image.shape[1:]
    canvas = torch.full((3, *canvas_of(info, height, width)), fill)
    canvas[:, :height, :width] = image
    return canvas, torch.tensor([height, width])


# On a canvas that is full, and with some or nearly all of the last cells beside the image.
@pytest.mark.parametrize("size", [(128, 192), (160, 129), (191, 256), (100, 110)])
def test_outputs_are_the_models(model, program, size):
    image = picture(*size)
    expected, (ids, segments) = by_model(model, image)
    got = program[0](*on_canvas(image, program[1]))
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype and not got[name].requires_grad
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-5)
    assert got["thing_masks"].amax() > 0.1 and len(segments) > 1
    merged, described = postprocess.merge_masks(
        **got,
        num_things=program[1]["num_things"],
        padded_size=canvas_of(program[1], *size),
        image_size=size,
        output_size=size,
        **program[1]["merge"],
    )
    assert torch.equal(merged, ids)
    assert [s["category_id"] for s in described] == [s["category_id"] for s in segments]


def test_what_lies_beside_the_image_does_not_count(program):
    image = picture(140, 170)
    first = program[0](*on_canvas(image, program[1]))
    for fill in (255.0, float("nan")):
        other = program[0](*on_canvas(image, program[1], fill))
        assert all(torch.equal(value, other[name]) for name, value in first.items())


def test_bytes_are_pixels_too(program):
    canvas, size = on_canvas(picture(140, 170), program[1])
    a, b = program[0](canvas, size), program[0](canvas.byte(), size)
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_an_image_of_any_size_is_segmented_at_its_own(model, program):
    image = picture(300, 200).permute(1, 2, 0).numpy()
    ids, segments = run_program(*program, image)
    assert ids.shape == (300, 200) and len(segments) > 1
    assert {s["id"] for s in segments} == set(ids.unique().tolist()) - {0}
    # The model's own way, step by step.
    small = ResizeShortestEdge([96, 96], 1333).get_transform(image).apply_image(image)
    tensor = torch.from_numpy(np.ascontiguousarray(small[:, :, ::-1].transpose(2, 0, 1)))
    with torch.no_grad():
        expected = model([{"image": tensor, "height": 300, "width": 200}])[0]["panoptic_seg"][0]
    assert torch.equal(ids, expected)


def documented() -> str:
    """What docs/export.md tells those to do who have nothing but PyTorch, with a picture."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), flags=re.M | re.S)
    for line, ours in (
        ("image = torch.zeros(3, 384, 512)", 'image = torch.load("input.pt")'),
        ("height, width = 384, 500", 'height, width = torch.load("size.pt").tolist()'),
    ):
        assert code.count(line) == 1
        code = code.replace(line, ours)
    return code


def test_it_runs_where_only_pytorch_is(fixed, fixed_program, model, tmp_path):
    image = picture(120, 150)
    shutil.copy(postprocess.__file__, tmp_path / "postprocess.py")
    shutil.copy(fixed.path, tmp_path / "cells.pt2")
    canvas, size = on_canvas(image, fixed_program[1])
    torch.save(canvas, tmp_path / "input.pt")
    torch.save(size, tmp_path / "size.pt")
    code = f"""
import sys
for name in ("fdd", "detectron2", "fvcore", "torchvision"):
    sys.modules[name] = None
{documented()}
torch.save((panoptic, segments), "output.pt")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (ids, segments), (expected, described) = (
        torch.load(tmp_path / "output.pt"),
        by_model(model, image)[1],
    )
    assert torch.equal(ids, expected)
    assert [s["category_id"] for s in segments] == [s["category_id"] for s in described]


def test_the_file_says_how_to_use_it(exported, program):
    info = program[1]
    assert (info["canvas"], info["size_divisibility"], info["min_canvas"]) == (None, 64, 128)
    assert (info["min_size"], info["num_things"], len(info["categories"])) == (96, 3, 5)
    assert exported.sizes == "any size" and exported.difference <= 1e-5 and exported.same == 1
    assert exported.bytes == exported.path.stat().st_size
    assert canvas_of(info, 1, 129) == (128, 192) and canvas_of(info, 128, 640) == (128, 640)


def test_a_program_for_one_size(fixed, fixed_program, model):
    program, info = fixed_program
    assert info["canvas"] == [128, 192] and fixed.sizes == "up to 128 x 192 px"
    image = picture(120, 150)
    expected, _ = by_model(model, image)
    got = program(*on_canvas(image, info))
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"the image has 96 x 193 px.*takes 128 x 192"):
        canvas_of(info, 96, 193)


def test_a_program_that_is_wrong_is_not_written(run, tmp_path, monkeypatch):
    def blind(size, grid, device):
        return torch.ones(grid, dtype=torch.bool, device=device)

    def untraced(model, info):  # what would be traced, which takes its time
        return SimpleNamespace(module=lambda: program_export.InferencePath(model).eval())

    monkeypatch.setattr(program_export, "_trace", untraced)
    monkeypatch.setattr(program_export, "_top_left", blind)
    with pytest.raises(ValueError, match=r"does not agree with the model.*nothing was written"):
        export_program(run, tmp_path / "wrong.pt2", size=(128, 128))
    assert list(tmp_path.iterdir()) == []


def test_files_and_names_that_make_no_sense(run, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.pt2"):
        export_program(run, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"--size is 0 x 64"):
        export_program(run, tmp_path / "model.pt2", size=(0, 64))
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_program(tmp_path / "model.pt2")
    (tmp_path / "text.pt2").write_text("text")
    with pytest.raises(
        ValueError, match=r"text\.pt2: not a program of torch\.export, or cut short"
    ):
        load_program(tmp_path / "text.pt2")
    stranger = torch.export.export(torch.nn.Linear(1, 1), (torch.zeros(1),))
    torch.export.save(stranger, tmp_path / "stranger.pt2")
    with pytest.raises(ValueError, match="not written by `fdd model export`"):
        load_program(tmp_path / "stranger.pt2")


def test_centers_are_found_alike_at_any_size(tmp_path):
    run = write_run(tmp_path / "run", {"MODEL.FDD.PAN.DETECTOR": "centers"})
    exported = export_program(run, tmp_path / "centers.pt2")
    assert exported.difference < 1e-3 and exported.same == 1
    model = load_trained(run, opts=["MODEL.DEVICE", "cpu"]).model
    program, info = load_program(exported.path)
    for size in ((64, 64), (100, 190)):
        image = picture(*size)
        got = program(*on_canvas(image, info))
        x = {"image": image, "height": size[0], "width": size[1]}
        with torch.no_grad():
            want = model.panoptic_branch.predict(model.encode(model.preprocess([x])))
        torch.testing.assert_close(got["thing_scores"], want.thing_scores[0], atol=1e-5, rtol=1e-4)
