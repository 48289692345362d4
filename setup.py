"""Packaging of FDD.

The configs travel inside the wheel as fdd/configs; in a checkout they stay beside the package.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    # Read, not imported: importing fdd needs PyTorch and Detectron2, building its wheel does not.
    text = (ROOT / "fdd" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"', text, re.M)
    if match is None:
        raise RuntimeError(f'no line `__version__ = "..."` in {ROOT / "fdd" / "__init__.py"}')
    return match.group(1)


def read_long_description() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


packages = find_packages(include=["fdd", "fdd.*"])
package_dir = {}
if (ROOT / "configs").is_dir():
    packages.append("fdd.configs")
    package_dir["fdd.configs"] = "configs"

setup(
    name="fdd",
    version=read_version(),
    description="Panoptic segmentation trained from points, on Detectron2",
    long_description=read_long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=packages,
    package_dir=package_dir,
    package_data={
        "fdd": ["**/*.json", "**/*.html", "**/*.css", "**/*.js", "**/*.png", "py.typed"],
        "fdd.configs": ["*.yaml", "**/*.yaml"],
    },
    entry_points={"console_scripts": ["fdd = fdd.cli.main:main"]},
    python_requires=">=3.10",
    # PyTorch before 2.4 has no custom operators in Python and no fused AdamW on the CPU; what is
    # tested is what requirements/ pins.
    # Detectron2 and panopticapi are not named here because no registry has them under these names
    # (see INSTALL.md).
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy>=1.24",
        "scipy>=1.10",
        "pillow>=9.4",
        "opencv-python-headless>=4.7",
        "pycocotools>=2.0.6",
        "fvcore>=0.1.5,<0.1.6",
        "iopath>=0.1.7,<0.1.10",
        "jinja2>=3",
        "matplotlib>=3.6",
        "tabulate>=0.8.9",
        "tqdm>=4.60",
        "pyyaml>=5.1",
    ],
    extras_require={"dev": ["pytest>=8", "ruff>=0.9", "mypy>=1.11"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    zip_safe=False,
)
