"""A page with classes, and how tests read pages: as a reader without a script, or offline."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
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


_VOID = {"meta", "img", "br", "link", "input", "line", "circle", "polyline"}


class _Tree(HTMLParser):
    """The page as an XML tree; noscript is read as a reader without a script does."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.builder, self.open = ET.TreeBuilder(), []
        self.feed(text)
        assert self.open == [], f"never closed: {self.open}"
        self.root = self.builder.close()

    def handle_starttag(self, tag, attrs):
        self.builder.start(tag, {k: v or "" for k, v in attrs})
        if tag in _VOID:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.builder.start(tag, {k: v or "" for k, v in attrs})
        self.builder.end(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> out of order"
        self.builder.end(tag)

    def handle_data(self, data):
        self.builder.data(data)


def read_tree(text: str) -> ET.Element:
    """A page as an XML tree; fails where a tag is not closed, or out of order."""
    return _Tree(text).root


def words(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def assert_self_contained(text: str) -> None:
    """Nothing is loaded from elsewhere, and there is one script: the page's."""
    for element in read_tree(text).iter():
        assert element.tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name, value in element.attrib.items():
            if name in ("src", "href", "srcset", "poster", "action", "data", "xlink:href"):
                assert value == "" or value.startswith(("data:image/", "#")), (name, value[:50])
            if name == "style":
                assert "url" not in value or value.startswith("--image:url(data:image/")
    code = re.sub(r"base64,[\w+/=]+", "", text)
    assert not re.search(
        r"https?:|//[a-z]|url\((?!#|data:image/)|@import|fetch\(|XMLHttp|WebSocket", code
    )
    assert sum(element.tag == "script" for element in read_tree(text).iter()) == 1
