"""Tables: columns of all names, units, half pixels, and lines in every message."""

import time

import pytest

from fdd.points import PointLabelError
from fdd.points.classes import parse_classes
from fdd.points.importers import import_points
from fdd.points.importers.csv_table import read, recognizes
from import_toys import EXPORTS, farm, save_image, segments

CLASSES = parse_classes({"things": ["cow"], "stuff": ["grass"]})
QUPATH = {
    "image": "Image",
    "category": "Classification",
    "x": "Centroid X px",
    "y": "Centroid Y px",
}


def table(path, *rows, header="image,category,instance,x,y", end="\n", encoding="utf-8"):
    path.write_bytes(end.join([header, *rows, ""]).encode(encoding))
    return path


def coordinates(images):
    return [(p.x, p.y) for image in images for p in image.points]


def test_plain_table(tmp_path):
    imported = import_points(EXPORTS / "csv" / "points.csv", farm(tmp_path), CLASSES)
    assert imported.format == "csv"
    assert [i.file_name for i in imported.dataset.images] == ["field.jpg", "sub/shed, old.png"]
    assert segments(imported.dataset, 0) == [
        ("cow", [(12.5, 3.25), (14.0, 4.0)]),
        ("grass", [(2.0, 18.0)]),
        ("cow", [(25.0, 9.5)]),
    ]
    assert segments(imported.dataset, 1) == [("cow", [(4.0, 5.0)])]


def test_qupath(tmp_path):
    source = EXPORTS / "csv" / "qupath.tsv"
    imported = import_points(source, farm(tmp_path), CLASSES, columns=QUPATH)
    assert segments(imported.dataset) == [("cow", [(12.5, 3.25)]), ("cow", [(25.0, 9.5)])]


def test_imagej(tmp_path):
    source = EXPORTS / "csv" / "imagej"
    options = {"image": "{stem}.jpg", "category": "cow"}
    dataset = import_points(source, farm(tmp_path), CLASSES, **options).dataset
    assert [i.file_name for i in dataset.images] == ["field.jpg", "sub/shed.jpg"]
    assert segments(dataset, 0) == [("cow", [(12.5, 3.25)]), ("cow", [(25.0, 9.5)])]


def test_units_are_shares_of_the_displayed_image(tmp_path):
    save_image(tmp_path / "a.jpg", 8, 5, orientation=6)  # displayed 5 wide and 8 high
    path = table(tmp_path / "a.csv", "a.jpg,cow,,50,25")
    dataset = import_points(path, tmp_path, CLASSES, units="percent").dataset
    assert segments(dataset) == [("cow", [(2.5, 2.0)])]
    table(path, "a.jpg,cow,,1,1")
    dataset = import_points(path, tmp_path, CLASSES, units="normalized").dataset
    assert segments(dataset) == [("cow", [(5.0, 8.0)])]
    table(path, "a.jpg,cow,,101,50")
    with pytest.raises(PointLabelError, match=r"line 2: the point \(5.05, 4\).* 5 x 8 pixels"):
        import_points(path, tmp_path, CLASSES, units="percent")


@pytest.mark.parametrize("rows", [["a.jpg,cow,,0.5,0.25", "b.jpg,cow,,1,0"], ["a.jpg,cow,,0.9,1"]])
def test_coordinates_within_0_and_1_need_their_unit(tmp_path, rows):
    """Or every point would be in the first pixel, and --drop shared-pixel would hide it."""
    for name in ("a.jpg", "b.jpg"):
        save_image(tmp_path / name, 8, 4)
    path = table(tmp_path / "a.csv", *rows)
    for options in ({}, {"drop": ("shared-pixel",)}):
        with pytest.raises(PointLabelError, match="lie within 0 and 1") as caught:
            import_points(path, tmp_path, CLASSES, **options)
        text = str(caught.value)
        assert f"({len(rows)} points)" in text and "--drop" not in text
        for option in ("--units normalized", "--units pixel", "--units percent", "--pixel-size"):
            assert option in text
    dataset = import_points(path, tmp_path, CLASSES, units="normalized").dataset
    x, y = (float(n) for n in rows[0].split(",")[-2:])
    assert dataset.images[0].segments[0].points == [(8 * x, 4 * y)]
    dataset = import_points(path, tmp_path, CLASSES, units="pixel").dataset
    assert dataset.images[0].segments[0].points == [(x, y)]


def test_one_coordinate_beyond_1_says_pixels(tmp_path):
    path = table(tmp_path / "a.csv", "a.jpg,cow,,0.5,0.25", "b.jpg,cow,,1,1.5")
    assert coordinates(read(path)) == [(0.5, 0.25), (1, 1.5)]
    table(path, "a.jpg,cow,,0.5,-0.25")
    assert coordinates(read(path)) == [(0.5, -0.25)]  # outside, which the import says
    table(path, "a.jpg,cow,,0.5,0.25")
    assert coordinates(read(path, pixel_size=0.01)) == [(50, 25)]


def test_conventions(tmp_path):
    path = table(tmp_path / "a.csv", "a.jpg,cow,,7,0", "a.jpg,cow,,2.5,4")
    assert coordinates(read(path)) == [(7, 0), (2.5, 4)]
    assert coordinates(read(path, pixel_centers=True)) == [(7.5, 0.5), (3.0, 4.5)]
    assert coordinates(read(path, pixel_size=0.5)) == [(14, 0), (5, 8)]
    assert coordinates(read(path, pixel_size=0.5, pixel_centers=True)) == [(14.5, 0.5), (5.5, 8.5)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_ways_to_write_a_table(tmp_path, end, encoding, mark):
    rows = ["büro.jpg,cow,3,1.5,2", "", "büro.jpg, cow ,,4,5"]
    header = "Image,CATEGORY,instance, x ,Y"
    path = table(
        tmp_path / "a.csv",
        *(row.replace(",", mark) for row in rows),
        header=header.replace(",", mark),
        end=end,
        encoding=encoding,
    )
    (image,) = read(path)
    assert image.file_name == "büro.jpg" and coordinates([image]) == [(1.5, 2), (4, 5)]
    assert [p.label for p in image.points] == ["cow", "cow"]
    assert [p.instance for p in image.points] == ["3", None]
    assert [p.where.split(", ")[-1] for p in image.points] == ["line 2", "line 4"]


def test_delimiter_can_be_said(tmp_path):
    path = table(tmp_path / "a.csv", "a.jpg#cow#1#2", header="image#category#x#y")
    for delimiter in ("#",):
        assert coordinates(read(path, delimiter=delimiter)) == [(1, 2)]
    with pytest.raises(PointLabelError, match=r"line 1: no column 'image'"):
        read(path)
    with pytest.raises(ValueError, match=r"delimiter 'ab'; expected one character, or comma"):
        read(path, delimiter="ab")
    table(path, "a.jpg\tcow\t1\t2", header="image\tcategory\tx\ty")
    assert coordinates(read(path, delimiter="tab")) == [(1, 2)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_line_in_front_that_names_the_delimiter(tmp_path, first, end):
    rows = ("image;category;x;y", "a.jpg;cow;1;2", "a.jpg;cow;1;far")
    path = table(tmp_path / "a.csv", *rows[:2], header=first, end=end)
    assert recognizes(path, None) and coordinates(read(path)) == [(1, 2)]
    table(path, *rows, header=first, end=end)
    with pytest.raises(PointLabelError, match="line 4: coordinate 'far'"):
        read(path)


def test_what_r_and_pandas_write_for_no_instance(tmp_path):
    """Or all objects of an image would be one."""
    none = ("NA", "nan", "None", "null", " ", "")
    path = table(tmp_path / "a.csv", *(f"a.jpg,cow,{n},1,2" for n in (*none, "0", "NA1")))
    (image,) = read(path)
    assert [p.instance for p in image.points] == [None] * len(none) + ["0", "NA1"]


def test_decimal_commas(tmp_path):
    with pytest.raises(
        PointLabelError, match=r"(?s)line 2: '12,5' has a decimal comma; write 12.5.*line 3: '9,5'"
    ):
        read(EXPORTS / "csv" / "norway.csv")
    found = read(EXPORTS / "csv" / "norway.csv", decimal="comma")
    assert coordinates(found)[:1] == [(12.5, 3.25)]
    path = table(tmp_path / "a.csv", 'a.jpg,cow,,"-1,5e1",7', 'a.jpg,cow,,"0,25","1.234,5"')
    with pytest.raises(PointLabelError, match=r"line 3: '1.234,5' has a point, not only"):
        read(path, decimal="comma")
    table(path, 'a.jpg,cow,,"-1,5e1",7')
    assert coordinates(read(path, decimal="comma")) == [(-15, 7)]
    with pytest.raises(ValueError, match=r"decimal ','; allowed: point, comma"):
        read(path, decimal=",")
    path = table(tmp_path / "a.csv", "a.jpg,cow,12,5,3,25", header="image,category,x,y")
    with pytest.raises(PointLabelError, match=r"line 2: 6 fields, the header has 4. Are there dec"):
        read(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,cow,1,x,2", "coordinate 'x' is not a finite number"),
        ("a.jpg,cow,1,,2", "coordinate '' is not a finite number"),
        ("a.jpg,cow,1,NaN,2", "coordinate 'NaN' is not a finite number"),
        ("a.jpg,cow,1,1,1e999", "coordinate '1e999' is not a finite number"),
        (",cow,1,1,2", "no image"),
        ("a.jpg,cow,1,1", "4 fields, the header has 5"),
        ("a.jpg,cow,1,1,2,3", "6 fields, the header has 5"),
        ('a.jpg,"cow,1,1,2', "not a valid row .* Is a quotation mark missing"),
        ('a.jpg,"cow"s,1,1,2', "not a valid row"),
    ],
)
def test_unsound_rows(tmp_path, row, message):
    path = table(tmp_path / "a.csv", "a.jpg,cow,1,1,2", row)
    with pytest.raises(PointLabelError, match=rf"a\.csv, line 3: {message}"):
        read(path)


def test_all_unsound_rows_are_listed(tmp_path):
    path = table(tmp_path / "a.csv", *["a.jpg,cow,1,x,2"] * 50)
    with pytest.raises(PointLabelError, match=r"(?s)50 problems.*line 21.*and 30 more") as caught:
        read(path)
    assert len(caught.value.problems) == 50 and "line 51" in caught.value.problems[-1]


def test_trailing_delimiters(tmp_path):
    path = table(tmp_path / "a.csv", "a.jpg,cow,1,2,,", header="image,category,x,y")
    assert coordinates(read(path)) == [(1, 2)]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("a.jpg,cow,1,12.5,3", "looks like data; expected names of columns"),
        ("image,class,x,y", r"no column 'category'; found 'image', .*--column category=NAME"),
        ("image,categories,x,y", r"--column category=categories, or --category"),
        ("image,category,x,x,y", "2 columns are called 'x'; rename one"),
        ("image,category,Centroid X px,y", "no column 'x'.*--column x="),
    ],
)
def test_headers(tmp_path, header, message):
    path = table(tmp_path / "a.csv", header=header)
    with pytest.raises(PointLabelError, match=rf"a\.csv, line 1: .*{message}"):
        read(path)


def test_only_possible_columns_are_proposed(tmp_path):
    header, row = "image,categories,xx,note", "a.jpg,cow,7,y is far"
    path = table(tmp_path / "a.csv", row, header=header)
    with pytest.raises(PointLabelError, match=r"--column category=categories"):
        read(path)
    # The names are near; words are no coordinate, and the image is the image.
    columns = {"category": "categories", "x": "xx"}
    with pytest.raises(PointLabelError, match="no column 'y'") as caught:
        read(path, columns=columns)
    assert "None of them can be it" in str(caught.value) and "--column" not in str(caught.value)
    table(path, 'a.jpg,"[{""x"": 1}]",7,8', header="image,categories,x,y")
    with pytest.raises(PointLabelError, match="no column 'category'") as caught:
        read(path)
    assert "--column" not in str(caught.value) and "--category" in str(caught.value)


def test_csv_of_label_studio(tmp_path):
    """Keypoints are JSON in a cell there: no column can be named."""
    path = table(
        tmp_path / "a.csv",
        'a.jpg,1,"[{""x"": 12.5, ""y"": 3, ""keypointlabels"": [""cow""]}]",7,2,9.1',
        header="image,id,kp-1,annotator,annotation_id,lead_time",
    )
    for said in ("Label Studio's CSV", "as JSON"):
        with pytest.raises(PointLabelError, match=said) as caught:
            import_points(path, tmp_path, CLASSES)
    assert "--column" not in str(caught.value)


@pytest.mark.parametrize("export", ["cvat/annotations.xml", "label_studio/tasks.json"])
def test_exports_that_are_no_tables(export):
    """Read as tables, their first line would become columns."""
    with pytest.raises(PointLabelError, match="not a table") as caught:
        read(EXPORTS / export)
    assert "--column" not in str(caught.value)


def test_mapped_instances_must_be_there(tmp_path):
    path = table(tmp_path / "a.csv", "a.jpg,cow,1,2", header="image,category,x,y")
    assert coordinates(read(path)) == [(1, 2)]
    with pytest.raises(PointLabelError, match=r"no column 'track'"):
        read(path, columns={"instance": "track"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"z": "depth"}}, "no column is called 'z'; expected image, category"),
        ({"pixel_size": 0.0}, "pixel size 0.0; expected a positive"),
    ],
)
def test_contradicting_options(tmp_path, options, message):
    path = table(tmp_path / "a.csv", "a.jpg,cow,1,1,2")
    with pytest.raises(ValueError, match=message):
        read(path, **options)


def test_empty_tables(tmp_path):
    assert read(table(tmp_path / "a.csv")) == []
    for content in (b"", b"\n \n", b"\xef\xbb\xbf"):
        (tmp_path / "b.csv").write_bytes(content)
        with pytest.raises(PointLabelError, match=r"b\.csv: "):
            read(tmp_path / "b.csv")
    with pytest.raises(PointLabelError, match=r"line 1: not UTF-8 text"):
        (tmp_path / "b.csv").write_bytes(b"image,category\xff,x,y\n")
        read(tmp_path / "b.csv")
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none: no file that ends in \.csv or"):
        read(tmp_path / "none")


def test_a_hundred_thousand_points_take_seconds(tmp_path):
    for i in range(20):
        save_image(tmp_path / f"{i}.png", 1000, 100)
    rows = [f"{n % 20}.png,cow,{n // 60},{n // 100},{n % 100}" for n in range(100_000)]
    path = table(tmp_path / "a.csv", *rows)
    start = time.process_time()
    imported = import_points(path, tmp_path, CLASSES)
    assert time.process_time() - start < 20
    assert imported.classes[0].points == 100_000
