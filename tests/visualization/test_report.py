"""The HTML report: self-contained, well-formed, safe, sorted."""

from __future__ import annotations

import errno
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from fdd.visualization import read_curves, write_report
from fdd.visualization.curves import make_chart
from fdd.visualization.report import TEMPLATES, encode_image, format_value
from report_toys import assert_self_contained, read_tree, words

CATEGORIES = [
    {"name": "cat & dog", "isthing": True, "color": [200, 30, 30]},
    {"name": "<b>трава</b>", "isthing": False},
]


def picture(value: int = 90) -> np.ndarray:
    return np.full((40, 60, 3), value, np.uint8)


@pytest.fixture
def page(tmp_path: Path) -> str:
    samples = [
        {"file_name": "good.jpg", "pq": 80.0, "panels": {"Points": picture()}},
        {"file_name": "никакой.jpg", "panels": {"Points": picture()}},
        {"file_name": "bad<script>alert(1)</script>.jpg", "pq": 3.0, "panels": {"A": picture()}},
        {"file_name": "nan.jpg", "pq": float("nan"), "caption": "a < b", "panels": {}},
        {"file_name": "zero.jpg", "pq": 0, "panels": {"A": np.zeros((0, 3, 3), np.uint8)}},
    ]
    summary = {
        "train_seconds": 3725.0,
        "PQ": 48.25,
        "device": '"cpu" <1>',
        "nearest_PQ": None,
        "iterations": 3000,
        "Per class": {"cat & dog": 12.5},
    }
    curves = {"total_loss": [(0, 3.0), (10, 2.0), (20, float("nan")), (30, 1.0)], "none": []}
    path = write_report(
        tmp_path / "new" / "отчёт.html", "A & <B>", summary, iter(samples), CATEGORIES, curves
    )
    return path.read_text(encoding="utf-8")


def test_text_is_escaped_and_nothing_is_loaded(page: str) -> None:
    assert_self_contained(page)
    assert "<script>alert" not in page and "<b>" not in page
    shown = words(read_tree(page))
    assert "A & <B>" in shown and '"cpu" <1>' in shown and "<b>трава</b>" in shown


def test_rows_are_worst_first_and_unscored_last(page: str) -> None:
    root = read_tree(page)
    assert [row.get("data-name") for row in root.iter("article")] == [
        "zero.jpg",
        "bad<script>alert(1)</script>.jpg",
        "good.jpg",
        "никакой.jpg",
        "nan.jpg",
    ]
    sorts = [e.get("data-sort") for e in root.iter("button") if e.get("data-sort")]
    assert sorts == ["worst", "best", "name"]


def test_figures_are_readable(page: str) -> None:
    shown = [text.strip() for text in read_tree(page).itertext()]
    for value in ("48.2", "1 h 2 min", "–", "3,000", "12.5", "PQ 80.0"):
        assert value in shown
    # The order of the cards is the page's, not the summary's.
    assert shown.index("Prediction PQ") < shown.index("Training time")
    assert "prefers-color-scheme: dark" in page and "color-scheme: light dark" in page


def test_without_samples_and_figures(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", "empty", {}, [], CATEGORIES)
    root = read_tree(path.read_text(encoding="utf-8"))
    assert not list(root.iter("article")) and "No images were given." in words(root)


def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "r.html"
    path.write_text("old")
    broken = [{"file_name": "x", "panels": {"A": np.zeros((2, 2, 3))}}]
    with pytest.raises(ValueError, match="float64"):
        write_report(path, "t", {}, broken, CATEGORIES)

    def full_disk(self: Path, text: str, **options: str) -> None:
        self.write_bytes(text.encode()[:99])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match=r"No space left.*r\.html"):
        write_report(path, "t", {}, [], CATEGORIES)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_large_pictures_are_reduced() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (800, 1200, 3), dtype=np.uint8)
    large, small = encode_image(noise, 4000), encode_image(noise, 300)
    assert large.startswith("data:image/jpeg;base64,") and len(small) < len(large) / 8
    assert encode_image(picture()).startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("train_seconds", 5.04, "5.0 s"),
        ("train_seconds", 59.7, "1 min 0 s"),
        ("train_seconds", 7260, "2 h 1 min"),
        ("memory_bytes", 5 * 2**30, "5.00 GiB"),
        ("memory_bytes", 300 * 2**20, "300 MiB"),
        ("PQ", np.float32(12.34), "12.3"),
        ("PQ", float("nan"), "–"),
        ("lr", 0.00012, "0.00012"),
        ("n", True, "True"),
        ("n", np.int64(12345), "12,345"),
        ("x", float("inf"), "inf"),
    ],
)
def test_format_value(key: str, value: object, text: str) -> None:
    assert format_value(key, value) == text


def curve_svg(name: str, values: list[tuple[float, float]]) -> str:
    return TEMPLATES.get_template("chart.html").render(chart=make_chart(name, values))


@pytest.mark.parametrize(
    "values",
    [
        [],
        [(5, 1.0)],
        [(0, 2.0), (1, 2.0)],
        [(0, 0.0), (1, 0.0)],
        [(k, float("nan") if k % 7 == 0 else 1e-5 * k) for k in range(100)],
        [(k, 1e9 * (k - 50)) for k in range(20000)],
        [(0, 1.0), (1, float("inf")), (2, 3.0)],
    ],
)
def test_curves_are_valid_svg_inside_their_frame(values: list[tuple[float, float]]) -> None:
    svg = curve_svg("a < b", values)
    root = ET.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert not re.search(r'[">](-?inf|nan)', svg)
    for line in root.iter("polyline"):
        points = np.array([p.split(",") for p in line.attrib["points"].split()], dtype=float)
        assert (points >= 0).all() and (points <= [width, height]).all()
        assert len(points) <= 402
    assert len(svg) < 60_000


def test_curve_goes_down_when_values_do() -> None:
    line = ET.fromstring(curve_svg("x", [(0, 3.0), (10, 1.0)])).find("polyline")
    (x0, y0), (x1, y1) = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
    assert x0 < x1 and y0 < y1


def test_read_curves(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    lines = [
        {"iteration": 39, "total_loss": 2.0, "lr": 0.1, "time": 0.3},
        {"iteration": 19, "total_loss": 3.0, "loss_mask": 1.0},
        {"iteration": 39, "total_loss": 1.5, "panoptic_seg/PQ": 12.0, "data": "text"},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"iteration": 59, "total_lo'
    path.write_text(text, encoding="utf-8")
    assert read_curves(path) == {
        "total_loss": [(19, 3.0), (39, 1.5)],
        "loss_mask": [(19, 1.0)],
        "panoptic_seg/PQ": [(39, 12.0)],
    }
    assert read_curves(path, ["lr", "absent"]) == {"lr": [(39, 0.1)]}
