"""What of a log is for the terminal."""

from __future__ import annotations

import logging
import sys

import pytest

from fdd.engine.logs import set_up_logs, without_dumps


@pytest.mark.parametrize(
    "begin",
    [
        "[11/30 12:00:00 detectron2]: Environment info",
        "[11/30 12:00:00 detectron2]: Contents of my: config.yaml",
        "[11/30 12:00:00 detectron2]: Running with full config",
        "\x1b[32m[11/30 12:00:00 d2.engine.defaults]: \x1b[0mModel",
    ],
)
def test_dumps_are_a_line_that_says_where_they_are(begin: str) -> None:
    lines = [f"  line {n}: of it" for n in range(40)]
    assert without_dumps("\n".join([f"{begin}:", *lines])) == f"{begin}: 40 lines, in log.txt"


@pytest.mark.parametrize(
    "text",
    [
        "[11/30 12:00:00 fdd]: Training is done: 3 iterations\nNext:\n  fdd report\n  fdd predict",
        "[11/30 12:00:00 fdd]: a table:\n| a | b |\n| 1 | 2 |\n| 3 | 4 |\n",
        "[11/30 12:00:00 fdd]: Model: resnet",
    ],
)
def test_all_else_stays(text: str) -> None:
    assert without_dumps(text) == text


def test_the_file_has_them_whole(tmp_path, monkeypatch) -> None:
    name = "detectron2"
    logger = logging.getLogger(name)
    before = logger.handlers[:], logger.level
    set_up_logs(str(tmp_path), names=[name])
    try:
        logger.info("Running with full config:\n%s", "a: 1\nb: 2\nc: 3\nd: 4")
    finally:
        for handler in set(logger.handlers) - set(before[0]):
            handler.flush()
            logger.removeHandler(handler)
        logger.setLevel(before[1])
    assert "\nd: 4" in (tmp_path / "log.txt").read_text()
    assert sys.stdout is not None
