#!/usr/bin/env python3
"""Cut a prepared panoptic set with points down to its first images that satisfy a stated rule.

The rule looks at the masks only, never at results: at least MIN_INSTANCES things, each covering at
least MIN_SHARE of the image. Useful for overfit checks and for quick experiments.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from fdd.points import read_points, write_points
from fdd.points.files import write_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--panoptic-json", required=True, type=Path, help="COCO panoptic JSON")
    parser.add_argument("--panoptic-root", type=Path, help="its PNGs (default: beside it)")
    parser.add_argument("--points-json", required=True, type=Path, nargs="+", help="point labels")
    parser.add_argument("--output", required=True, type=Path, help="folder of the smaller set")
    parser.add_argument("--count", type=int, default=8, help="number of images")
    parser.add_argument("--min-instances", type=int, default=3, help="things it must have ...")
    parser.add_argument("--min-share", type=float, default=0.02, help="... with this share of it")
    return parser.parse_args(argv)


def choose(content: dict[str, Any], count: int, min_instances: int, min_share: float) -> list[Any]:
    """Ids of the first ``count`` images, by name, with enough large things.

    Raises:
        SystemExit: when there are fewer such images.
    """
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    images = {image["id"]: image for image in content["images"]}
    chosen = []
    for annotation in sorted(content["annotations"], key=lambda a: a["file_name"]):
        image = images[annotation["image_id"]]
        least = min_share * image["height"] * image["width"]
        large = [
            s
            for s in annotation["segments_info"]
            if s["category_id"] in things and not s.get("iscrowd", 0) and s["area"] >= least
        ]
        if len(large) >= min_instances:
            chosen.append(annotation["image_id"])
    if len(chosen) < count:
        raise SystemExit(f"only {len(chosen)} images satisfy the rule; {count} are wanted")
    return chosen[:count]


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    content = json.loads(args.panoptic_json.read_text())
    chosen = choose(content, args.count, args.min_instances, args.min_share)
    keep = set(chosen)
    content["images"] = [i for i in content["images"] if i["id"] in keep]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in keep]
    source = args.panoptic_root or args.panoptic_json.with_suffix("")
    masks = args.output / args.panoptic_json.stem
    masks.mkdir(parents=True, exist_ok=True)
    for annotation in content["annotations"]:
        name = annotation["file_name"]
        shutil.copyfile(source / name, masks / name)
    write_json(args.output / args.panoptic_json.name, content, allow_nan=True)
    for path in args.points_json:
        points = read_points(path)
        points.images = [image for image in points.images if image.image_id in keep]
        if len(points.images) != len(keep):
            raise SystemExit(f"{path} holds {len(points.images)} of the {len(keep)} images")
        write_points(args.output / path.name, points)
    print(f"{len(chosen)} images in {args.output}: {', '.join(map(str, chosen))}")


if __name__ == "__main__":
    main()
