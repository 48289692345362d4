"""From raw points to point labels: grouping, counts, and everything that is refused."""

import pytest

from fdd.points import PointLabelError
from fdd.points.classes import parse_classes
from fdd.points.importers.assemble import assemble
from fdd.points.importers.image_folder import ImageFolder
from import_toys import raw_image, save_image, segments

CLASSES = parse_classes(
    {"things": [{"name": "cow", "aliases": ["Cow", "bull"]}, "calf"], "stuff": ["grass", "sky"]},
    ["ruler", ""],
)


@pytest.fixture
def folder(tmp_path):
    save_image(tmp_path / "field.jpg")
    save_image(tmp_path / "herd" / "shed.png", 12, 10)
    save_image(tmp_path / "herd" / "barn.png", 50, 40)
    return ImageFolder(tmp_path)


def make(folder, *images, **options):
    return assemble(list(images), CLASSES, folder, **options)


def test_points_become_segments(folder):
    image = raw_image(
        "field.jpg",
        ("cow", 1, 1, "a"),
        ("grass", 5, 5, "a"),
        ("bull", 2, 1, "a"),  # another spelling: the same object
        ("calf", 3, 1, "a"),  # another class: another object, as LabelMe has it
        ("cow", 9, 1),
        ("cow", 8, 1),
        (" grass ", 6, 5, "b"),
        ("sky", 7, 7),
        ("cow", 4, 1, 0),
        ("cow", 4, 2, 0),
    )
    dataset, notes = make(folder, image)
    assert segments(dataset) == [
        ("cow", [(1, 1), (2, 1)]),
        ("grass", [(5, 5), (6, 5)]),
        ("calf", [(3, 1)]),
        ("cow", [(9, 1)]),
        ("cow", [(8, 1)]),
        ("sky", [(7, 7)]),
        ("cow", [(4, 1), (4, 2)]),
    ]
    assert [s.id for s in dataset.images[0].segments] == [1, 2, 3, 4, 5, 6, 7]
    assert notes.duplicates == 0 and not notes.ignored


def test_order_of_points_moves_nothing_between_segments(folder):
    points = [("cow", x, y, x // 10) for x in range(1, 30, 4) for y in (1, 7)]
    points += [("grass", x, 12) for x in range(0, 30, 5)]
    sets = []
    for order in (points, points[::-1]):
        dataset, _ = make(folder, raw_image("field.jpg", *order))
        sets.append({(name, frozenset(xy)) for name, xy in segments(dataset)})
    assert sets[0] == sets[1] and len(sets[0]) == 4


def test_duplicates_are_dropped_and_counted(folder):
    image = raw_image(
        "field.jpg",
        ("cow", 1, 1, 1),
        ("cow", 1, 1, 1),
        ("grass", 5, 5),
        ("grass", 5, 5),
        ("cow", 9, 9),
        ("cow", 9, 9),  # without an instance: the same click twice, not two objects
        ("cow", 1.5, 1, 1),  # on the same pixel of the same object, elsewhere: kept
    )
    dataset, notes = make(folder, image)
    assert segments(dataset) == [
        ("cow", [(1, 1), (1.5, 1)]),
        ("grass", [(5, 5)]),
        ("cow", [(9, 9)]),
    ]
    assert notes.duplicates == 3


def test_ignored_labels_are_dropped_and_counted(folder):
    image = raw_image("field.jpg", ("ruler", 999, 999), ("ruler ", 1, 1), ("", 1, 1), ("cow", 1, 1))
    dataset, notes = make(folder, image)
    assert segments(dataset) == [("cow", [(1, 1)])]
    assert notes.ignored == {"ruler": 2, "": 1}


def test_two_objects_on_one_pixel(folder):
    image = raw_image("field.jpg", ("cow", 4.2, 5.9), ("grass", 4.9, 5.1))
    with pytest.raises(
        PointLabelError,
        match=r"field\.jpg, point 1: on the same pixel \(x=4, y=5 of 'field\.jpg'\) as "
        r"field\.jpg, point 0 of another",
    ):
        make(folder, image)


def test_edges_belong_to_the_image(folder):
    corners = [("cow", 0, 0), ("cow", 30, 0), ("cow", 0, 20), ("cow", 30, 20)]
    dataset, _ = make(folder, raw_image("field.jpg", *corners))
    assert len(dataset.images[0].segments) == 4
    with pytest.raises(PointLabelError, match=r"on the same pixel"):  # the last one holds the edge
        make(folder, raw_image("field.jpg", ("cow", 30, 20), ("grass", 29.5, 19.5)))


def test_all_points_outside_are_listed(folder):
    points = [("cow", 30.01, 1), ("cow", -0.01, 1), ("cow", 1, 20.01), ("cow", 19, 29)]
    images = [
        raw_image("field.jpg", *points),
        raw_image("shed.png", *[("sky", 13, i) for i in range(9)] * 3),
    ]
    with pytest.raises(
        PointLabelError, match=r"(?s)31 problems found; nothing.*and 11 more"
    ) as caught:
        make(folder, *images, source="labels.xml")
    problems = caught.value.problems
    assert str(caught.value).startswith("labels.xml: ") and len(problems) == 31
    assert (
        "field.jpg, point 0: the point (30.01, 1) of 'cow' lies outside 'field.jpg'" in problems[0]
    )
    assert "30 x 20 pixels" in problems[0] and "resized copy" in problems[0]
    assert "x and y exchanged" in problems[3]
    assert "'herd/shed.png'" in problems[-1]


def test_problems_of_all_kinds_come_together(folder):
    with pytest.raises(PointLabelError) as caught:
        make(
            folder,
            raw_image("nowhere.jpg"),
            raw_image("field.jpg", ("cow", 99, 99)),
            raw_image("shed.png", width=10, height=12),
        )
    assert len(caught.value.problems) == 3
    assert "entry nowhere.jpg: no image 'nowhere.jpg'" in caught.value.problems[0]
    assert any("10 x 12" in problem for problem in caught.value.problems)


def test_an_image_twice(folder):
    images = [raw_image("field.jpg", ("cow", 1, 1)), raw_image("C:\\field.png", ("cow", 2, 2))]
    with pytest.raises(
        PointLabelError, match=r"entry C:\\field\.png: .* is the file 'field\.jpg', and so is"
    ):
        make(folder, *images)


def test_other_names_are_tried(folder):
    dataset, _ = make(folder, raw_image("8c2f-shed.png", other_names=("nope", "shed.png")))
    assert dataset.images[0].file_name == "herd/shed.png"
    with pytest.raises(PointLabelError, match=r"no image '8c2f-x.png' or 'x.png' below"):
        make(folder, raw_image("8c2f-x.png", other_names=("x.png",)))


def test_ids_of_images(tmp_path):
    for name in ("a.jpg", "a.png", "sub/a.jpg", "b.jpg", "c.jpg"):
        save_image(tmp_path / name, 4, 4)
    images = [raw_image(n) for n in ("a.jpg", "a.png", "sub/a.jpg", "b.jpg")]
    images.append(raw_image("c.jpg", image_id=7))
    dataset, _ = make(ImageFolder(tmp_path), *images)
    assert [i.image_id for i in dataset.images] == ["a.jpg", "a.png", "sub/a", "b", 7]
    images[-1].image_id = "b"
    with pytest.raises(PointLabelError, match=r"image 'b': this id is used"):
        make(ImageFolder(tmp_path), *images)


def test_images_without_points(folder):
    images = [raw_image("shed.png"), raw_image("field.jpg", ("cow", 1, 1))]
    names = {
        option: [i.file_name for i in make(folder, *images, images_without_points=option)[0].images]
        for option in ("listed", "keep", "skip")
    }
    assert names == {
        "listed": ["herd/shed.png", "field.jpg"],
        "keep": ["herd/shed.png", "field.jpg", "herd/barn.png"],
        "skip": ["field.jpg"],
    }
    assert make(folder, *images, images_without_points="skip")[1].skipped_images == 1
    with pytest.raises(ValueError, match=r"'none'; allowed: listed, keep, skip"):
        make(folder, *images, images_without_points="none")


def test_kept_images_must_be_readable(folder):
    (folder.root / "z.png").write_text("no image")
    folder = ImageFolder(folder.root)
    with pytest.raises(PointLabelError, match=r"z\.png: not a readable image"):
        make(folder, raw_image("field.jpg"), images_without_points="keep")
    assert len(make(folder, raw_image("field.jpg"))[0].images) == 1


def test_images_of_many_sizes(folder):
    dataset, _ = make(folder, *(raw_image(n, ("cow", 9, 9)) for n in ("shed.png", "barn.png")))
    assert [(i.width, i.height) for i in dataset.images] == [(12, 10), (50, 40)]


def test_no_images_at_all(folder):
    dataset, _ = make(folder)
    assert dataset.images == [] and len(dataset.categories) == 4


def test_nothing_given_is_changed(folder):
    image = raw_image("field.jpg", ("cow", 0.5, 0.5), normalized=True)
    dataset, _ = make(folder, image)
    assert segments(dataset) == [("cow", [(15, 10)])]
    assert (image.points[0].x, image.points[0].y) == (0.5, 0.5)


MESSY = (
    ("cow", 4.2, 5.9),  # alone, on a pixel with grass: lost
    ("grass", 4.9, 5.1),
    ("grass", 9, 9),
    ("cow", 12, 3, "b"),  # on a pixel with a calf; another point stays
    ("cow", 13, 3, "b"),
    ("calf", 12.5, 3.5, "b"),
    ("calf", 15, 3, "b"),
    ("cow", 31, 3),
    ("sky", 3, -1),
)


def test_points_that_fit_nowhere_can_be_left_out(folder):
    drop = ("outside", "shared-pixel")
    dataset, notes = make(folder, raw_image("field.jpg", *MESSY), drop=drop)
    assert segments(dataset) == [
        ("grass", [(9, 9)]),
        ("cow", [(13, 3)]),
        ("calf", [(15, 3)]),
    ]
    assert [s.id for s in dataset.images[0].segments] == [1, 2, 3]
    assert notes.left_out == {
        "points outside their image": 2,
        "points on one pixel with a point of another object": 4,
        "objects or regions of which no point is left": 1,
    }
    backwards, _ = make(folder, raw_image("field.jpg", *MESSY[::-1]), drop=drop)
    assert sorted(segments(backwards)) == sorted(segments(dataset))


def test_one_kind_left_out_leaves_the_other_an_error(folder):
    image = raw_image("field.jpg", *MESSY)
    for drop, said, count in (("outside", "shared-pixel", 2), ("shared-pixel", "outside", 2)):
        with pytest.raises(PointLabelError, match=f"--drop {said}") as caught:
            make(folder, image, drop=(drop,))
        assert len(caught.value.problems) == count
    with pytest.raises(ValueError, match="drop 'all'; allowed: outside, shared-pixel"):
        make(folder, image, drop=("all",))


def test_images_that_are_found_and_unsound_are_not_called_missing(folder):
    save_image(folder.root / "empty.png").write_bytes(b"")
    images = [raw_image("field.jpg", width=3, height=4), raw_image("herd/barn.png")]
    with pytest.raises(PointLabelError, match="says 3 x 4") as caught:
        make(folder, images[0])
    assert "Not one" not in str(caught.value)
    with pytest.raises(PointLabelError, match="labelled twice") as caught:
        make(folder, *images[1:], images[1].__class__("barn.png"))
    assert "Not one" not in str(caught.value)
    with pytest.raises(PointLabelError, match=r"empty\.png: .*the file is empty") as caught:
        make(ImageFolder(folder.root), raw_image("empty.png"))
    assert "Not one" not in str(caught.value)


def test_a_wrong_image_folder(folder):
    """Says so, and does not look for close names thousands of times."""
    images = [raw_image(f"fields{i}.jpg") for i in range(100)]
    with pytest.raises(PointLabelError, match=r"(?s)100 problems.*Not one of the images") as caught:
        make(folder, *images)
    assert sum("Close to it" in problem for problem in caught.value.problems) == 20


def test_an_image_in_doubt_is_not_called_missing(tmp_path):
    """Two messages about one image must not contradict each other."""
    for name in ("s1/a.jpg", "s2/a.jpg"):
        save_image(tmp_path / name, 4, 4)
    with pytest.raises(PointLabelError, match=r"may be any of 2 files") as caught:
        make(ImageFolder(tmp_path), raw_image("a.jpg", ("cow", 1, 1)))
    text = str(caught.value)
    assert "Not one" not in text and "'s1/a.jpg'" in text and "--images" in text
    # Either way out works.
    for folder, name in ((tmp_path / "s1", "a.jpg"), (tmp_path, "s1/a.jpg")):
        dataset, _ = make(ImageFolder(folder), raw_image(name, ("cow", 1, 1)))
        assert dataset.images[0].file_name == name


def test_labels_match_across_unicode_forms(folder):
    composed, decomposed = "k\u00fche", "ku\u0308he"
    ignored = "ma\u00dfe\u0301", "ma\u00df\u00e9"
    for ours, theirs in ((composed, decomposed), (decomposed, composed)):
        things = [{"name": "rind", "aliases": [ours]}, f"{ours} 2"]
        classes = parse_classes({"things": things}, [ignored[0]])
        points = [(theirs, 1, 1, 1), (ours, 2, 2, 1), (f"{theirs} 2", 9, 9), (ignored[1], 5, 5)]
        image = raw_image("field.jpg", *points)
        dataset, notes = assemble([image], classes, folder)
        assert [len(s.points) for s in dataset.images[0].segments] == [2, 1]
        assert sum(notes.ignored.values()) == 1


def test_fractions_on_one_pixel_are_not_to_be_dropped(folder):
    image = raw_image("field.jpg", ("cow", 0.2, 0.3), ("grass", 0.7, 0.1), ("cow", 0.9, 0.9))
    with pytest.raises(PointLabelError, match=r"within 0 and 1: are they fractions") as caught:
        make(folder, image)
    assert "--drop" not in str(caught.value)
