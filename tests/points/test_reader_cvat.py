"""CVAT for images 1.1: coordinates, instances, what is refused, and hostile XML."""

from __future__ import annotations

import io
import time
import zipfile

import pytest

from fdd.points import PointLabelError
from fdd.points.importers import cvat
from fdd.points.importers.cvat import parse_xml
from reader_helpers import EXPORTS, coords, instances, write_json

EXPORT = EXPORTS / "cvat" / "annotations.xml"
IMAGE = '<image id="0" name="a.png" width="5" height="4">'


def annotations(inside, root="annotations"):
    return f'<?xml version="1.0" encoding="utf-8"?>\n<{root}>\n{inside}\n</{root}>\n'


def read_text(tmp_path, text, **options):
    path = tmp_path / "annotations.xml"
    path.write_text(text, encoding="utf-8")
    return cvat.read(path, **options)


def read_shape(tmp_path, shape, **options):
    """The shape stands in line 4."""
    (image,) = read_text(tmp_path, annotations(f"{IMAGE}\n{shape}\n</image>"), **options)
    return image


def test_the_export_keeps_cvat_s_coordinates_from_the_corner_of_the_image():
    first, second = cvat.read(EXPORT)
    assert (first.file_name, first.width, first.height) == ("plates/first.png", 5, 4)
    assert (second.file_name, second.width, second.height) == ("second é.png", 40, 30)
    # 5.00, 4.00 is the lower right corner of an image of 5 x 4.
    assert coords(first) == [
        ("cell", 0.5, 0.5),
        ("cell", 1.25, 2.0),
        ("cell", 5.0, 4.0),
        ("cell", 3.0, 0.0),
    ]
    assert first.points[1].where.endswith("annotations.xml, line 37")


def test_a_shape_is_an_instance_and_a_group_id_joins_shapes_of_a_label():
    first, second = cvat.read(EXPORT)
    assert [len(points) for points in instances(first)] == [1, 3]
    assert instances(second) == [
        [("cell", 10.0, 11.0), ("cell", 12.5, 11.0)],
        [("background", 30.0, 20.0)],
        [("hen", 20.0, 5.0), ("hen", 24.0, 6.5)],
    ]
    assert second.notes == {"points marked as outside the image": 1}
    assert not first.notes


def test_equal_group_ids_of_two_files_are_not_one_instance(tmp_path):
    shape = '<points label="cell" points="1,1" group_id="3"/>'
    for name in ("a.xml", "b.xml"):
        (tmp_path / name).write_text(annotations(f"{IMAGE}{shape}</image>"))
    one, other = cvat.read(tmp_path)
    assert one.points[0].instance != other.points[0].instance


@pytest.mark.parametrize("tag", ["box", "polygon", "polyline", "ellipse", "cuboid", "mask"])
def test_other_shapes_are_refused_with_their_line_or_left_out_and_counted(tmp_path, tag):
    shape = f'<{tag} label="cell" points="1,1;2,2;3,1" xtl="1" ytl="1" xbr="2" ybr="2"/>'
    with pytest.raises(PointLabelError, match=f"line 4: a <{tag}>.*--skip-shapes"):
        read_shape(tmp_path, shape)
    image = read_shape(tmp_path, shape + '<points label="c" points="1,2"/>', skip_shapes=True)
    assert coords(image) == [("c", 1.0, 2.0)]
    assert image.notes == {f"<{tag}> shapes": 1}


def test_unknown_elements_are_passed_over_and_counted(tmp_path):
    image = read_shape(tmp_path, '<hologram label="x"><points label="y" points="1,1"/></hologram>')
    assert not image.points
    assert image.notes == {"unknown <hologram> elements": 1}


def test_a_video_export_says_which_export_to_choose(tmp_path):
    track = '<track id="0" label="cell"><points frame="0" points="1,1" outside="0"/></track>'
    with pytest.raises(PointLabelError, match=r"line 3: a <track>.*'CVAT for images 1.1'"):
        read_text(tmp_path, annotations(track))


def test_flipped_images_are_refused(tmp_path):
    text = EXPORT.read_text(encoding="utf-8").replace(">False</flipped>", "> True </flipped>")
    with pytest.raises(PointLabelError, match="turned over"):
        read_text(tmp_path, text)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ('<points label="c" points="1,2;3"/>', "the point '3'; expected 'x,y'"),
        ('<points label="c" points="1,2;"/>', "the point ''"),
        ('<points label="c" points="1,nan"/>', "'nan' is not a finite number"),
        ('<points label="c" points="1,2,3"/>', "'2,3' is not a finite number"),
        ('<points label="c" points="1_0,2"/>', "'1_0' is not a finite number"),
        ('<points label="c" points=""/>', "<points> has no 'points'"),
        ('<points points="1,2"/>', "<points> has no 'label'"),
        ('<points label="c" points="1,2" group_id="x"/>', "group_id is 'x'"),
    ],
)
def test_wrong_points_name_the_line(tmp_path, shape, said):
    with pytest.raises(PointLabelError, match=f"line 4: .*{said}"):
        read_shape(tmp_path, shape)


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("", "no <image>; nothing was exported"),
        ('<image id="0" width="5" height="4"/>', "line 3: <image> has no 'name'"),
        ('<image name="a.png" width="5.5" height="4"/>', "line 3: 'width' is '5.5'"),
        ('<image name="a.png" width="5" height="0"/>', "line 3: 'height' is '0'"),
        ('<image name="a.png">', "line 4, column 3: not valid XML: mismatched tag"),
        ("<a>" * 100, "nested over 64 deep"),
    ],
)
def test_wrong_documents_name_the_line(tmp_path, inside, said):
    with pytest.raises(PointLabelError, match=said):
        read_text(tmp_path, annotations(inside))


def test_another_tool_s_xml_is_not_taken_for_an_empty_export(tmp_path):
    with pytest.raises(PointLabelError, match="line 2: <annotation>; expected <annotations>"):
        read_text(tmp_path, annotations("<filename>a.png</filename>", root="annotation"))


@pytest.mark.parametrize("text", ["", "\n \n", "plain words", "<annotations><image", "\0\1"])
def test_what_is_no_xml_is_an_error_with_its_place(tmp_path, text):
    with pytest.raises(PointLabelError, match=r"annotations.xml, line \d, column \d+: not valid"):
        read_text(tmp_path, text)


def test_sizes_may_be_missing_and_huge_coordinates_are_handed_on(tmp_path):
    (image,) = read_text(
        tmp_path,
        annotations('<image name="C:\\data\\a.png"><points label="c" points="1e300,-5"/></image>'),
    )
    assert (image.file_name, image.width, image.height) == ("C:\\data\\a.png", None, None)
    assert coords(image) == [("c", 1e300, -5.0)]


BOMB = '<!DOCTYPE annotations [\n<!ENTITY a "lol">\n<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">\n]>'
REMOTE = '<!DOCTYPE annotations [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
DTD = '<!DOCTYPE annotations SYSTEM "http://example.com/evil.dtd">'


@pytest.mark.parametrize("dtd", [BOMB, REMOTE, DTD])
def test_document_types_are_refused_before_anything_expands(tmp_path, dtd):
    text = f'<?xml version="1.0"?>\n{dtd}\n<annotations>{IMAGE}&b;</image></annotations>'
    with pytest.raises(PointLabelError, match="line 2: a document type or entity declaration"):
        read_text(tmp_path, text)
    assert cvat.recognizes(tmp_path / "annotations.xml", None)  # so that this error is shown


def test_an_undeclared_entity_is_an_error(tmp_path):
    with pytest.raises(PointLabelError, match="line 4, column 1: not valid XML: undefined entity"):
        read_shape(tmp_path, "&b;")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_understood(tmp_path, encoding):
    text = EXPORT.read_text(encoding="utf-8").replace('encoding="utf-8"', "")
    path = tmp_path / "a.xml"
    path.write_bytes(text.encode(encoding))
    assert [i.file_name for i in cvat.read(path)] == ["plates/first.png", "second é.png"]
    assert cvat.recognizes(path, None)


def test_an_unknown_encoding_is_an_error(tmp_path):
    with pytest.raises(PointLabelError, match="line 1: unknown encoding: klingon"):
        read_text(tmp_path, '<?xml version="1.0" encoding="klingon"?><annotations/>')


def zipped(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_the_zip_archive_reads_like_the_file_in_it(tmp_path):
    path = zipped(
        tmp_path / "task.zip",
        {"images/first.png": b"x", "annotations.xml": EXPORT.read_bytes()},
    )
    assert cvat.recognizes(path, None)
    packed, plain = cvat.read(path), cvat.read(EXPORT)
    assert [coords(i) for i in packed] == [coords(i) for i in plain]
    assert packed[0].points[0].where.endswith("task.zip/annotations.xml, line 34")


def test_a_zip_bomb_is_refused_unopened(tmp_path):
    path = zipped(tmp_path / "task.zip", {"annotations.xml": b"<annotations>" + b" " * (20 << 20)})
    with pytest.raises(PointLabelError, match=r"unpacks to 20 MiB, [0-9,]+ times its size"):
        cvat.read(path)


def test_damaged_and_foreign_archives_are_errors(tmp_path):
    path = zipped(tmp_path / "task.zip", {"notes.txt": b"x"})
    with pytest.raises(PointLabelError, match=r"without annotations.xml"):
        cvat.read(path)
    assert not cvat.recognizes(path, None)
    zipped(path, {"annotations.xml": EXPORT.read_bytes()}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"first.png")] ^= 1  # the checksum no longer fits
    path.write_bytes(content)
    with pytest.raises(PointLabelError, match="a damaged zip archive: Bad CRC"):
        cvat.read(path)


def test_a_folder_s_exports_are_read_in_order_and_others_left_alone(tmp_path):
    for name in ("job_2", "job_1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "annotations.xml").write_text(
            annotations(f'<image name="{name}.png"/>'), encoding="utf-8"
        )
    (tmp_path / "job_1" / "._annotations.xml").write_bytes(b"\0\5\26\7")
    (tmp_path / "job_1" / "first.png").write_bytes(b"x")
    assert [i.file_name for i in cvat.read(tmp_path)] == ["job_1.png", "job_2.png"]


def test_nothing_to_read_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file that ends in .xml or .zip"):
        cvat.read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere.xml: no such file"):
        cvat.read(tmp_path / "nowhere.xml")


def test_recognizes_its_own_and_no_other(tmp_path):
    assert cvat.recognizes(EXPORT, None)
    other = tmp_path / "voc.xml"
    other.write_text(annotations("", root="annotation"))
    assert not cvat.recognizes(other, None)
    assert not cvat.recognizes(write_json(tmp_path / "a.json", {"a": "<annotations>"}), {})
    assert not cvat.recognizes(tmp_path, None)


def test_a_hundred_thousand_points_are_read_within_seconds_as_a_stream(tmp_path):
    one = '<points label="cell" points="1.5,2.5" occluded="0"></points>\n'
    many = ";".join(["1.5,2.5"] * 50_000)
    text = annotations(f'{IMAGE}{one * 50_000}<points label="cell" points="{many}"/></image>')
    started = time.process_time()
    (image,) = read_text(tmp_path, text)
    assert len(image.points) == 100_000
    assert len(instances(image)) == 50_001
    assert time.process_time() - started < 10


def test_the_parser_asks_for_a_piece_at_a_time():
    class Endless(io.RawIOBase):
        """A document without end, of which only so much may be asked."""

        given = 0

        def read(self, size=-1):
            assert 0 < size <= 1 << 20
            Endless.given += size
            return b"<annotations>" if Endless.given == size else b"<x/>" * (size // 4)

    def stop(path, attributes, line):
        if path == ("annotations", "x"):
            raise PointLabelError("seen")

    with pytest.raises(PointLabelError, match="seen"):
        parse_xml(Endless(), "endless", stop)
    assert Endless.given <= 1 << 20
