"""Drawing: shapes, colours, void, hostile sizes."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import Metadata

from fdd.points.coco_panoptic import save_segment_ids
from fdd.visualization import (
    Palette,
    as_palette,
    contact_sheet,
    draw_instance_labels,
    draw_panoptic,
    draw_points,
    draw_semantic,
    expand_cells,
    instance_colors,
    make_panels,
    training_sheet,
)
from fdd.visualization.draw import to_rgb
from fdd.visualization.files import read_ground_truth, read_rgb, write_rgb
from fdd.visualization.layers import resize_labels
from fdd.visualization.text import legend_strip, shorten, text_size

CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": True, "color": [200, 30, 30]},
    {"id": 9, "name": "кошка ☺", "isthing": True},
    {"id": 2, "name": "grass", "isthing": False, "color": [30, 200, 30]},
]
PALETTE = Palette.from_categories(CATEGORIES)


def grey(height: int = 60, width: int = 80) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def assert_picture(picture: np.ndarray, *shape: int) -> None:
    assert picture.dtype == np.uint8 and picture.shape == (*shape, 3)


def test_instance_colors_are_distinct_stable_and_near_their_class() -> None:
    classes = np.array([0] * 400 + [2])
    colors = instance_colors(classes, PALETTE)
    assert len({tuple(c) for c in colors.tolist()}) == len(classes)
    assert colors[0].tolist() == [200, 30, 30] and colors[-1].tolist() == [30, 200, 30]
    # The k-th cat looks the same whatever else is in the image.
    mixed = instance_colors(np.array([2, 0, 1, 0]), PALETTE)
    np.testing.assert_array_equal(mixed[[1, 3]], colors[:2])
    # The first few differ in brightness, which every kind of colour vision sees.
    luma = colors[:5].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert np.diff(np.sort(luma)).min() > 5
    # A red class stays red.
    assert (colors[:50, 0].astype(int) >= colors[:50, 1:].max(axis=1)).all()


@pytest.mark.parametrize("color", [[0, 0, 0], [255, 255, 255], [128, 128, 128]])
def test_instance_colors_of_colourless_classes_still_differ(color: list[int]) -> None:
    palette = Palette.from_categories([{"name": "a", "color": color}])
    colors = instance_colors(np.zeros(30, int), palette)
    assert len({tuple(c) for c in colors.tolist()}) == 30


def test_class_ids_that_are_not_contiguous_are_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        instance_colors(np.array([7]), PALETTE)


def test_palette_from_metadata() -> None:
    own = Metadata(
        name="own",
        thing_classes=["a", "b"],
        stuff_classes=["a", "b"],
        thing_colors=[[1, 2, 3], [4, 5, 6]],
        thing_dataset_id_to_contiguous_id={5: 0},
    )
    palette = as_palette(own)
    assert palette.names == ("a", "b") and palette.isthing.tolist() == [True, False]
    assert palette.colors.tolist() == [[1, 2, 3], [4, 5, 6]]
    split = as_palette(Metadata(name="split", thing_classes=["a"], stuff_classes=["b", "c"]))
    assert split.names == ("a", "b", "c") and split.isthing.tolist() == [True, False, False]
    assert as_palette(Metadata(name="whole", categories=CATEGORIES)).names[1] == "кошка ☺"
    with pytest.raises(ValueError, match="'empty'"):
        as_palette(Metadata(name="empty"))


def test_points_are_drawn_where_they_are() -> None:
    picture = draw_points(grey(), [[20.5, 30.5], [60.5, 10.5]], [0, 1], [0, 2], PALETTE)
    assert_picture(picture, 60, 80)
    assert picture[30, 20].tolist() == [200, 30, 30]
    assert picture[10, 60].tolist() == [30, 200, 30]
    assert (picture[45:, 40:] == 128).all()
    # Markers are centred on their pixel.
    changed = (draw_points(grey(), [[20.5, 30.5]], [0], [0], PALETTE) != 128).any(axis=2)
    np.testing.assert_array_equal(changed[:, 10:31], changed[:, 10:31][:, ::-1])


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_point_outline_has_black_and_white_on_any_background(shade: int) -> None:
    image = np.full((100, 100, 3), shade, np.uint8)
    picture = draw_points(image, [[50.5, 50.5]], [0], [0], PALETTE, radius=8)
    row = picture[50, 30:72].astype(int)
    assert (row.sum(axis=1) < 60).any() and (row.sum(axis=1) > 700).any()


def test_marker_shape_tells_stuff_from_things_and_size_follows_the_image() -> None:
    image = grey(400, 400)
    disc = (draw_points(image, [[200.0, 200.0]], [0], [0], PALETTE, radius=20) != 128).any(axis=2)
    square = (draw_points(image, [[200.0, 200.0]], [0], [2], PALETTE, radius=20) != 128).any(axis=2)

    def fill(mask: np.ndarray) -> float:  # of its bounding box: pi / 4 for a disc, 1 for a square
        rows, cols = np.nonzero(mask)
        return mask.sum() / ((np.ptp(rows) + 1) * (np.ptp(cols) + 1))

    assert abs(fill(disc) - np.pi / 4) < 0.05 and fill(square) > 0.95
    large = grey(2000, 2000)
    near = (draw_points(image, [[50, 50]], [0], [0], PALETTE) != 128).any(axis=2).sum()
    far = (draw_points(large, [[50, 50]], [0], [0], PALETTE) != 128).any(axis=2).sum()
    assert far > 10 * near


def test_points_outside_and_not_finite_are_left_out() -> None:
    coords = [[np.nan, 5.0], [np.inf, 5.0], [-1e9, 5.0], [5.0, 1e12]]
    picture = draw_points(grey(), coords, [0] * 4, [0], PALETTE)
    np.testing.assert_array_equal(picture, grey())


def test_upscaling_moves_points_along() -> None:
    picture = draw_points(grey(20, 30), [[10.0, 5.0]], [0], [0], PALETTE, upscale_to=300)
    assert_picture(picture, 200, 300)
    assert picture[50, 100].tolist() == [200, 30, 30]


def test_points_and_index_must_agree() -> None:
    with pytest.raises(ValueError, match="2 points, but point_index has 1"):
        draw_points(grey(), [[1, 1], [2, 2]], [0], [0], PALETTE)
    with pytest.raises(ValueError, match=r"expected 0\.\.0"):
        draw_points(grey(), [[1, 1]], [1], [0], PALETTE)


def test_instance_labels_colour_every_instance_and_leave_void_bare() -> None:
    labels = np.full((60, 80), -1)
    labels[:20, :20], labels[:20, 20:40] = 0, 1
    picture = draw_instance_labels(grey(), labels, [0, 0], PALETTE, alpha=1.0, void="plain")
    assert_picture(picture, 60, 80)
    assert picture[5, 5].tolist() == [200, 30, 30]
    assert picture[5, 30].tolist() != picture[5, 5].tolist()
    assert (picture[labels < 0] == 128).all()
    outlined = (picture[5, 18:22] != picture[5, [5, 5, 30, 30]]).any()
    assert outlined, "there is no line between two instances"
    hatched = draw_instance_labels(grey(), labels, [0, 0], PALETTE, alpha=1.0)
    void = hatched[labels < 0]
    assert (void == 128).all(axis=1).mean() > 0.5 and (void != 128).any(axis=1).mean() > 0.1
    np.testing.assert_array_equal(hatched[labels >= 0], picture[labels >= 0])


def test_labels_of_another_size_and_many_instances() -> None:
    labels = np.arange(600).reshape(20, 30)
    picture = draw_instance_labels(
        grey(200, 300), labels, np.zeros(600, int), PALETTE, alpha=1.0, contours=False
    )
    cells = picture[5::10, 5::10].reshape(-1, 3)
    assert len(np.unique(cells, axis=0)) == 600


def test_label_errors() -> None:
    with pytest.raises(ValueError, match=r"-1\.\.0"):
        draw_instance_labels(grey(), np.ones((60, 80), int), [0], PALETTE)
    with pytest.raises(ValueError, match="'hatch'"):
        draw_instance_labels(grey(), np.zeros((60, 80), int), [0], PALETTE, void="dots")
    with pytest.raises(ValueError, match="permute"):
        draw_semantic(np.zeros((3, 60, 80), np.uint8), np.zeros((60, 80), int), PALETTE)
    with pytest.raises(ValueError, match="float32"):
        to_rgb(np.zeros((4, 4, 3), np.float32))


def test_resize_is_nearest_at_pixel_centres_and_keeps_large_ids() -> None:
    labels = np.array([[1, 2], [3, 1 << 23]])
    np.testing.assert_array_equal(resize_labels(labels, 4, 4), np.kron(labels, np.ones((2, 2))))
    np.testing.assert_array_equal(resize_labels(np.arange(9).reshape(3, 3), 1, 1), [[4]])


def test_expand_cells_covers_each_cell_and_the_rest() -> None:
    # 20 px at stride 8 have two cells with a centre inside; the last four pixels go to the second.
    np.testing.assert_array_equal(
        expand_cells(np.array([[0, 1]]), 8, 3, 20), [[0] * 8 + [1] * 12] * 3
    )


def test_panoptic_names_void_and_scores() -> None:
    seg = np.zeros((200, 300), np.int32)
    seg[:100], seg[100:150], seg[150:, :50] = 4, 70000, 9
    segments = [
        {"id": 70000, "category_id": 2, "isthing": False},
        {"id": 4, "category_id": 1, "isthing": True, "score": 0.5},
    ]
    image = grey(200, 300)
    plain = draw_panoptic(image, seg, segments, PALETTE, labels=False, void="plain", alpha=1)
    assert plain[50, 150].tolist() == PALETTE.colors[1].tolist()
    assert plain[125, 150].tolist() == [30, 200, 30]
    assert (plain[152:] == 128).all(), "0, and the id 9 that no segment has, are void"
    named = draw_panoptic(image, seg, segments, PALETTE, void="plain", alpha=1)
    changed = (named != plain).any(axis=2)
    assert changed[:100].any() and changed[100:150].any() and not changed[150:].any()
    scored = draw_panoptic(image, seg, segments, PALETTE, void="plain", alpha=1, scores=True)
    assert (scored[:100] != named[:100]).any()
    np.testing.assert_array_equal(scored[100:], named[100:])
    legend = draw_panoptic(image, seg, segments, PALETTE, legend=True)
    assert legend.shape[1] == 300 and legend.shape[0] > 200


def test_names_do_not_cover_one_another() -> None:
    seg = np.kron(np.arange(1, 65).reshape(8, 8), np.ones((12, 12), int))
    segments = [{"id": k, "category_id": 0} for k in range(1, 65)]
    assert_picture(draw_panoptic(grey(96, 96), seg, segments, PALETTE), 96, 96)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 2)])
@pytest.mark.parametrize("upscale_to", [0, 64])
def test_tiny_images(size: tuple[int, int], upscale_to: int) -> None:
    image, zeros = grey(*size), np.zeros(size, int)
    shape = to_rgb(image, upscale_to).shape[:2]
    more = {"upscale_to": upscale_to}
    assert_picture(draw_points(image, [[0.5, 0.5]], [0], [0], PALETTE, **more), *shape)
    assert_picture(draw_instance_labels(image, zeros, [0], PALETTE, **more), *shape)
    assert_picture(draw_instance_labels(image, zeros - 1, [], PALETTE, **more), *shape)
    assert_picture(draw_semantic(image, zeros, PALETTE, **more), *shape)
    info = [{"id": 0, "category_id": 0}]
    assert_picture(draw_panoptic(image, zeros, info, PALETTE, **more), *shape)
    panels = make_panels(image, PALETTE, points=[], prediction=(zeros, []))
    contact_sheet([panels], metadata=PALETTE)


def test_empty_image_and_no_instances() -> None:
    empty = np.zeros((0, 5, 3), np.uint8)
    none = np.zeros((0, 5), int)
    assert_picture(draw_points(empty, [], [], [], PALETTE, upscale_to=9), 0, 5)
    assert_picture(draw_instance_labels(empty, none, [], PALETTE), 0, 5)
    assert_picture(draw_panoptic(empty, none, [], PALETTE), 0, 5)
    np.testing.assert_array_equal(draw_points(grey(), [], [], [], PALETTE), grey())
    bare = draw_instance_labels(grey(), np.full((60, 80), -1), [], PALETTE, void="plain")
    np.testing.assert_array_equal(bare, grey())


def test_drawing_leaves_its_input_alone_and_repeats_itself() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    labels = rng.integers(-1, 3, (9, 12))
    before = image.copy(), labels.copy()
    info = [{"id": k, "category_id": k} for k in range(3)]

    def draw() -> list[np.ndarray]:
        return [
            draw_points(image, rng_coords, [0, 1, 2], [0, 1, 2], PALETTE),
            draw_instance_labels(image, labels, [0, 1, 2], PALETTE),
            draw_semantic(image, labels, PALETTE, legend=True),
            draw_panoptic(image, labels, info, PALETTE),
        ]

    rng_coords = rng.uniform(0, 90, (3, 2))
    for first, second in zip(draw(), draw(), strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_text_fits_and_shows_other_alphabets() -> None:
    name = "очень/длинное/имя/файла_0001.jpg"
    short = shorten(name, 12, 120)
    assert text_size(short, 12)[0] <= 120 and "…" in short and short.endswith("jpg")
    assert shorten("a", 12, 500) == "a" and shorten("abcdef", 12, 1) == "…"
    strip = legend_strip(PALETTE, [0, 1, 2], 90, size=12)
    assert strip.shape[1] == 90 and strip.shape[0] > 2 * 12, "the names wrap"
    assert (strip == [200, 30, 30]).all(axis=2).any()
    assert legend_strip(PALETTE, [], 90).shape == (0, 90, 3)


def test_contact_sheet_layout() -> None:
    red, blue = grey(30, 60), grey(100, 50)
    red[:], blue[:] = (255, 0, 0), (0, 0, 255)
    sheet = contact_sheet(
        [{"A": red, "B": blue}, {"B": red}], captions=["one", "имя.jpg"], cell_width=100, margin=10
    )
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 230
    left, right = sheet[:, 10:110], sheet[:, 120:220]
    assert (left == [255, 0, 0]).all(axis=2).sum() == 50 * 100
    assert (right == [255, 0, 0]).all(axis=2).sum() == 50 * 100
    blue_rows = (right == [0, 0, 255]).all(axis=2).any(axis=1).sum()
    assert blue_rows == 150, "portraits are limited to 1.5 times the width"
    assert (sheet.min(axis=2) < 60).any(axis=1).sum() > 0
    as_lists = contact_sheet(
        [[red, blue], [None, red]],
        ["A", "B"],
        captions=["one", "имя.jpg"],
        cell_width=100,
        margin=10,
    )
    np.testing.assert_array_equal(sheet, as_lists)
    same_titles = contact_sheet([[red, blue]], ["A", "A"], cell_width=100, margin=10)
    assert (same_titles[:, 10:110] == [255, 0, 0]).all(axis=2).any()
    assert (same_titles[:, 120:220] == [0, 0, 255]).all(axis=2).any()


def test_contact_sheet_errors_and_emptiness() -> None:
    with pytest.raises(ValueError, match="titles"):
        contact_sheet([[grey()]])
    with pytest.raises(ValueError, match="2 pictures"):
        contact_sheet([[grey(), grey()]], ["only one"])
    with pytest.raises(ValueError, match="0 captions"):
        contact_sheet([{"A": grey()}], captions=[])
    assert contact_sheet([]).ndim == 3
    assert contact_sheet([{"A": np.zeros((0, 4, 3), np.uint8)}]).ndim == 3


def test_panels_come_in_order_and_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    seg = torch.ones((60, 80), dtype=torch.int32)
    panels = make_panels(
        grey(),
        PALETTE,
        points=[{"category_id": 0, "coords": [[3.5, 4.5]]}, {"category_id": 2, "coords": []}],
        pseudo_label=torch.zeros((15, 20), dtype=torch.int32),
        classes=torch.tensor([0, 2]),
        semantic=torch.full((8, 10), -1),
        prediction=(seg, [{"id": 1, "category_id": 0}]),
        ground_truth=(seg, []),
    )
    assert list(panels) == [
        "Points",
        "Pseudo label",
        "Auxiliary semantics",
        "Prediction",
        "Ground truth",
    ]
    assert {p.shape for p in panels.values()} == {(240, 320, 3)}
    assert list(make_panels(grey(), PALETTE)) == ["Image"]
    with pytest.raises(ValueError, match="classes"):
        make_panels(grey(), PALETTE, pseudo_label=np.zeros((2, 2), int))


@pytest.mark.parametrize("count", [0, 2])
def test_training_sheet(count: int) -> None:
    torch = pytest.importorskip("torch")
    image = torch.zeros((3, 40, 60), dtype=torch.uint8)
    image[0] = 255
    batched = {
        "file_name": "снимок.jpg",
        "image": image,
        "classes": torch.arange(count),
        "point_coords": torch.full((count, 2), 8.0),
        "point_index": torch.arange(count),
    }
    label = torch.full((10, 15), count - 1, dtype=torch.int32)
    labels = {"pseudo_labels": {"learned": label, "nearest": torch.full_like(label, -1)}}
    bgr = training_sheet(batched, labels, PALETTE)
    rgb = training_sheet(batched, labels, PALETTE, image_format="RGB")
    assert bgr.dtype == np.uint8 and bgr.shape == rgb.shape
    assert (bgr == [0, 0, 255]).all(axis=2).sum() > 1000
    assert (rgb == [255, 0, 0]).all(axis=2).sum() > 1000
    assert np.array_equal(  # a rule's label takes the place of a learned one
        training_sheet(batched, {"pseudo_labels": {"nearest": label}}, PALETTE), bgr
    )
    more = training_sheet(batched, {**labels, "semantic": torch.full((5, 5), -1)}, PALETTE)
    assert more.shape[1] > bgr.shape[1]
    with pytest.raises(ValueError, match="'YUV'"):
        training_sheet(batched, labels, PALETTE, image_format="YUV")


def test_files_round_trip(tmp_path) -> None:
    ids = np.array([[0, 1, 255], [256, 65535, (1 << 24) - 1]])
    path = tmp_path / "папка" / "сегменты.png"
    save_segment_ids(path, ids)
    segments = [{"id": 1, "category_id": 0, "iscrowd": 1}, {"id": 256, "category_id": 1}]
    record = {"pan_seg_file_name": str(path), "segments_info": segments, "height": 2, "width": 3}
    seg, kept = read_ground_truth(record)
    np.testing.assert_array_equal(seg, ids)
    assert [s["id"] for s in kept] == [256]
    assert read_ground_truth({"points": []}) is None
    write_rgb(tmp_path / "a.png", grey())
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), grey())
    (tmp_path / "b.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.jpg"):
        read_rgb(tmp_path / "b.jpg")
    with pytest.raises(FileNotFoundError):
        read_rgb(tmp_path / "c.jpg")


def test_layers_over_the_image_are_the_pictures() -> None:
    """What a page puts together itself is what is drawn, but for the rounding of opacities."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    labels = np.kron(rng.integers(-1, 3, (4, 5)), np.ones((30, 32), int))
    made = {
        "points": [{"coords": [[10.5, 9.5], [99.0, 70.0]], "category_id": 0, "isthing": True}],
        "pseudo_label": labels,
        "rule": np.maximum(labels, 0),
        "classes": [0, 0, 2],
        "semantic": np.minimum(labels, 2),
        "prediction": (labels + 1, [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}]),
    }
    drawn = make_panels(image, PALETTE, **made, upscale_to=0)
    layers = make_panels(image, PALETTE, **made, upscale_to=0, layers=True)
    assert list(drawn) == list(layers) and len(drawn) == 5
    np.testing.assert_array_equal(drawn.pop("Points"), layers.pop("Points"))
    for title, layer in layers.items():
        assert layer.dtype == np.uint8 and layer.shape == (120, 160, 4)
        opacity = layer[:, :, 3:] / 255
        over = (1 - opacity) * image + opacity * layer[:, :, :3]
        assert np.abs(over - drawn[title]).max() <= 1.5, title
        assert (layer[:, :, 3] > 0).any()
