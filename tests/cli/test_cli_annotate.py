"""The command: what it opens and refuses, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from annotate_toys import CELL, begin, write_images
from fdd.cli.main import main
from fdd.points.dataset_file import read_dataset_file
from fdd.points.format import read_points

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``fdd annotate`` in a process of its own, and the address that it prints."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "fdd", "annotate", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        # A shell's background jobs, such as these tests may be in, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.match(r"Open (http://\S+)", line):
                yield process, found[1]
                break
        else:
            assert process.stderr is not None
            pytest.fail(f"no address: {lines} {process.stderr.read()}")
    finally:
        process.kill()
        process.communicate()


def click(url: str, x: float, y: float) -> tuple[int, dict[str, Any]]:
    """As the page does: enter, and put a point on the first image; status and answer."""
    parts = urlsplit(url)
    connection = HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    assert parse_qs(parts.query)["token"]
    connection.request("GET", f"/?{parts.query}")
    answer = connection.getresponse()
    answer.read()
    cookie = str(answer.getheader("Set-Cookie")).split(";")[0]
    body = (
        f'{{"revision": 0, "action": {{"kind": "add", "x": {x}, "y": {y}, "segment": null, '
        f'"category_id": {CELL}}}}}'
    )
    headers = {"Cookie": cookie, "Content-Type": "application/json"}
    connection.request("POST", "/api/images/0/edit", body, headers)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content


def first_points(dataset: Path) -> list[tuple[float, float]]:
    image = read_points(dataset.with_name("points.json")).images[0]
    return [p for segment in image.segments for p in segment.points]


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_folder_of_images_becomes_a_data_set_and_the_end_saves(tmp_path: Path, way) -> None:
    images = write_images(tmp_path / "photos")
    words = [str(images), "--classes", "cell, nucleus", "--stuff", "ground"]
    with running(*words) as (process, url):
        assert click(url, 20.5, 30.5)[0] == 200
        process.send_signal(way)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    dataset = tmp_path / "photos_points" / "dataset.yaml"
    classes = read_dataset_file(dataset).classes
    assert classes is not None
    assert [(c.name, c.isthing) for c in classes.categories] == [
        ("cell", True),
        ("nucleus", True),
        ("ground", False),
    ]
    assert first_points(dataset) == [(20.5, 30.5)]
    assert "Saved 1 point" in output and "fdd train --config-file" in output
    assert "Traceback" not in errors


def test_the_chosen_rule_is_named_and_makes_the_labels(tmp_path: Path) -> None:
    dataset = begin(tmp_path)
    with running(str(dataset), "--preview", "extent") as (process, url):
        assert click(url, 20.5, 30.5)[1]["label"]["maker"] == "extent"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_killed_command_loses_no_click(tmp_path: Path) -> None:
    dataset = begin(tmp_path)
    with running(str(dataset)) as (process, url):
        assert click(url, 20.5, 30.5)[0] == 200
        process.kill()
    with running(str(dataset)) as (process, _):
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert first_points(dataset) == [(20.5, 30.5)]


def test_a_training_without_points_is_not_begun_and_the_page_is_served(tmp_path: Path) -> None:
    dataset = begin(tmp_path)
    with running(str(dataset), "--train") as (process, url):
        assert click(url, 20.5, 30.5)[0] == 200
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0 and first_points(dataset) == [(20.5, 30.5)]


def test_a_second_command_on_the_same_points_is_refused(tmp_path: Path, capsys) -> None:
    dataset = begin(tmp_path)
    with running(str(dataset)):
        assert main(["annotate", str(dataset)]) == 2
    assert "points.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{images}"], "--classes car,person"),
        (["{images}", "--classes", " , "], "--classes car,person"),
        (["{root}/nothing.yaml"], "nothing.yaml"),
        (["{dataset}", "--classes", "car"], "--classes"),
        (["{dataset}", "--output", "x"], "--output"),
        (["{dataset}", "--port", "70000"], "--port is 70000"),
        (["{dataset}", "--config-file", "x.yaml"], "--model"),
        (["{dataset}", "--weights", "best"], "--model"),
        (["{dataset}", "--preview", "extent", "--model", "x"], "--preview extent"),
        (["{dataset}", "--preview", "dnn", "--opts", "MODEL.WEIGHTS", "no.pkl"], "no.pkl"),
        (
            ["{images}", "--classes", "a", "--preview", "dnn", "--opts", "MODEL.WEIGHTS", ""],
            "MODEL.WEIGHTS is empty",
        ),
        (["{dataset}", "--model", "{root}/no_run"], "no_run"),
    ],
)
def test_what_it_refuses(tmp_path: Path, capsys, words: list[str], said: str) -> None:
    dataset = begin(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    names = {"images": tmp_path / "images", "root": tmp_path, "dataset": dataset}
    assert main(["annotate", *(word.format(**names) for word in words)]) == 2
    assert said in capsys.readouterr().err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
