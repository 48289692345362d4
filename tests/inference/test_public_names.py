"""Names that the package offers without its modules."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fdd.inference


@pytest.mark.parametrize("name", fdd.inference.__all__)
def test_a_public_name_is_that_of_its_module(name: str) -> None:
    assert getattr(fdd.inference, name).__name__ == name
    assert name in dir(fdd.inference)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"fdd\.inference.*no attribute 'predict_all'"):
        _ = fdd.inference.predict_all


def test_the_package_alone_imports_no_torch() -> None:
    code = "import sys, fdd.inference, fdd.export_formats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
