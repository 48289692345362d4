"""Draw curves of `fdd evaluate-clicks` side by side: one panel a data set, one line a strategy.

    python tools/draw_click_curves.py docs/ablations/click_records/*.json \\
        --output docs/images/clicks.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Of Okabe and Ito: told apart by the colour-blind, too.
_STYLES = {
    ("middle", "learned"): ("middle of the largest error", "#0072B2", "-"),
    ("suggested", "learned"): ("suggested places", "#009E73", "-"),
    ("points", "learned"): ("random points of each segment", "#E69F00", "--"),
    ("anywhere", "learned"): ("random places", "#D55E00", "--"),
    ("middle", "nearest"): ("nearest point, middle of the largest error", "#999999", ":"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("records", nargs="+", metavar="RECORD.json")
    parser.add_argument("--output", required=True, metavar="PICTURE")
    args = parser.parse_args()
    panels: dict[str, list[dict]] = {}
    for path in args.records:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        panels.setdefault(record["data"], []).append(record)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 3.4), squeeze=False, layout="constrained"
    )
    lines: dict[str, object] = {}
    for axis, (name, records) in zip(axes[0], panels.items(), strict=True):
        for (strategy, maker), (label, color, style) in _STYLES.items():
            for record in (r for r in records if r["strategy"] == strategy):
                if curve := record["makers"].get(maker):
                    clicks = record["clicks_a_segment"]
                    (line,) = axis.plot(clicks, curve["pq"], color=color, ls=style, marker=".")
                    lines.setdefault(label, line)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("clicks a segment")
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("PQ of an image's label")
    figure.legend(
        list(lines.values()),
        list(lines),
        loc="outside lower center",
        ncols=2,
        fontsize=9,
        frameon=False,
    )
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main()
