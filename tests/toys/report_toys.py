"""A page with classes, for the tests of its text and of what it does in a browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fdd.visualization.report import Card, Column, ReportText, write_report

CATEGORIES = [
    {"name": "cell & co", "isthing": True, "color": [200, 30, 30]},
    {"name": "ядро=1#2", "isthing": True},
    {"name": "<ground>", "isthing": False},
    {"name": "unseen", "isthing": False},
]
COLUMNS = [Column("images", "Images", "How many.", percent=False), Column("pq", "PQ", "Higher.")]
CLASSES = [{"images": 3, "pq": 60.0}, {"images": 2, "pq": 41.25}, {"images": 1, "pq": None}, None]
SAMPLES = [
    {"file_name": "b2.png", "pq": 50.0, "classes": {0: 90.0, 1: 10.0}, "values": {"instances": 4}},
    {"file_name": "b10.png", "pq": 20.0, "classes": {0: 30.0}, "values": {"instances": 9}},
    {"file_name": "a/c.png", "pq": 80.0, "classes": {0: 60.0, 2: None}, "values": {"instances": 1}},
    {"file_name": "void.png", "pq": None, "classes": {1: None}, "warnings": ["no <points>"]},
]


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def write_toy_page(path: Path, repeat: int = 1) -> Path:
    """Worst first: b10, b2, a/c, void; each with two pictures."""
    samples = [
        {
            **sample,
            "file_name": sample["file_name"] if not n else f"more/{n}_{sample['file_name']}",
            "figures": {"Label PQ": f"{sample['pq']}"},
            "panels": {"Image": picture(k), "Label": picture(k + 50)},
        }
        for n in range(repeat)
        for k, sample in enumerate(SAMPLES)
    ]
    text = ReportText(
        intro="Of a & b",
        cards=[Card("Images", "4", "All <of> them", lead=True)],
        columns=COLUMNS,
        classes=CLASSES,
        order_by="label PQ",
        foot={"Model": "runs/<x>.pth"},
        fold_curves=True,
    )
    curves = {"total_loss": [(0.0, 2.0), (9.0, 1.0)]}
    return write_report(path, "Toy", {}, iter(samples), CATEGORIES, curves, text=text)
