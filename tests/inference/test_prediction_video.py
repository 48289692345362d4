"""Videos in and out."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from fdd.inference import video
from fdd.inference.prediction import PredictionOptions, find_inputs, predict_files
from fdd.inference.video import VideoCodecError, VideoFileError, VideoReader, VideoWriter
from prediction_toys import HalfPredictor, save

#: Brightness of the frames of the toy; a codec does not keep them exactly.
LEVELS = np.arange(0, 250, 36)


@pytest.fixture
def clip(tmp_path) -> Path:
    """Seven frames of 64 x 48, red only, brighter from one to the next, 12.5 a second."""
    path = tmp_path / "in" / "clip.avi"
    path.parent.mkdir()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no Motion JPEG")
    for level in LEVELS:
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[..., 2] = level
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def mp4() -> None:
    code = cv2.VideoWriter.fourcc(*"mp4v")
    if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG) or code <= 0:
        pytest.skip("this OpenCV writes no .mp4")


def frames_of(path: Path) -> list[np.ndarray]:
    return [frame for _, frame in VideoReader(path)]


@pytest.mark.parametrize(("every", "numbers"), [(1, range(7)), (3, (0, 3, 6)), (9, (0,))])
def test_reads_every_nth_frame_in_rgb(clip, every, numbers) -> None:
    reader = VideoReader(clip, every)
    assert reader.expected == len(numbers)
    assert reader.fps == pytest.approx(12.5 / every)
    seen = list(reader)
    assert [n for n, _ in seen] == list(numbers)
    for n, frame in seen:
        assert frame.shape == (48, 64, 3) and frame.dtype == np.uint8
        assert abs(int(frame[24, 32, 0]) - LEVELS[n]) < 12 and frame[24, 32, 1:].max() < 12
    assert not reader.cut_short


def test_videos_that_cannot_be_read(tmp_path, clip) -> None:
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    (tmp_path / "empty.mp4").touch()
    for name in ("no.mp4", "empty.mp4"):
        with pytest.raises(VideoFileError, match=f"{name}: not a video that OpenCV can open"):
            VideoReader(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such video"):
        VideoReader(tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match="every 0 frames"):
        VideoReader(clip, 0)


def test_a_video_without_a_frame(monkeypatch, clip) -> None:
    reader = VideoReader(clip)
    monkeypatch.setattr(reader, "_capture", cv2.VideoCapture())
    with pytest.raises(VideoFileError, match="no frame"):
        list(reader)


def test_a_video_cut_short_is_noted(mp4, tmp_path) -> None:
    whole, path = tmp_path / "whole.avi", tmp_path / "cut.avi"
    code = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(whole), cv2.CAP_FFMPEG, code, 10, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(20):
        writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    options = PredictionOptions(frames=True, overlay=False)
    inputs = find_inputs([whole, path])
    report = predict_files(HalfPredictor(), inputs, tmp_path / "out", options)
    assert 20 < report.frames < 40, "what is there is used"
    assert len(report.notes) == 1 and "cut.avi: ends earlier" in report.notes[0]


def test_writes_what_can_be_read_again(mp4, tmp_path) -> None:
    path = tmp_path / "new" / "a.mp4"
    with VideoWriter(path, 5.0, (33, 21)) as writer:
        for level in (40, 120, 200):
            writer.write(np.full((21, 33, 3), (level, 0, 0), np.uint8))
        writer.write(np.full((60, 90, 3), (90, 0, 0), np.uint8))
        assert not path.exists(), "not before it is complete"
    reader = VideoReader(path)
    assert reader.fps == pytest.approx(5.0)
    frames = [frame for _, frame in reader]
    assert [f.shape for f in frames] == [(20, 32, 3)] * 4, "odd sides lose a pixel"
    for frame, level in zip(frames, (40, 120, 200, 90), strict=True):
        assert abs(int(frame[10, 16, 0]) - level) < 15 and frame[10, 16, 1:].max() < 15
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


def test_an_error_leaves_no_video(mp4, tmp_path) -> None:
    with (
        pytest.raises(RuntimeError, match="in between"),
        VideoWriter(tmp_path / "a.mp4", 5, (32, 32)),
    ):
        raise RuntimeError("in between")
    # A file that does not open again: what a full disk leaves.
    with (
        pytest.raises(OSError, match="disk full"),
        VideoWriter(tmp_path / "b.mp4", 5, (32, 32)) as w,
    ):
        w._writer.release()
        w._temporary.write_bytes(b"cut")
    assert not list(tmp_path.iterdir())


def test_a_video_gives_a_video(mp4, tmp_path, clip) -> None:
    out = tmp_path / "out"
    options = PredictionOptions(every=2, max_side=64)
    predictor = HalfPredictor()
    report = predict_files(predictor, find_inputs([clip.parent]), out, options)
    assert (report.inputs, report.images, report.frames) == (1, 0, 4)
    assert [p.relative_to(out).as_posix() for p in out.rglob("*.*")] == ["overlays/clip.mp4"]
    reader = VideoReader(out / "overlays" / "clip.mp4")
    assert reader.fps == pytest.approx(6.25), "as fast as before"
    frames = [frame for _, frame in reader]
    assert len(frames) == 4 and frames[0].shape == (48, 64, 3)
    # Void (lower right) is hatched in greys, the cat in its red: the frames are not swapped.
    assert frames[3][10, 5, 0] > frames[3][10, 5, 2] + 40
    np.testing.assert_array_equal(predictor.seen[1], frames_of(clip)[2])


def test_frames_become_files_on_demand(mp4, tmp_path, clip) -> None:
    save(clip.parent / "clip" / "000003.png")
    out = tmp_path / "out"
    options = PredictionOptions(every=3, frames=True, overlay=False)
    inputs = find_inputs([clip.parent], recursive=True)
    predict_files(HalfPredictor(), inputs, out, options)
    content = json.loads((out / "panoptic.json").read_text())
    assert [i["id"] for i in content["images"]] == [
        "clip/000003",
        *(f"clip_2/{n:06d}" for n in (0, 3, 6)),
    ], "a folder of the video's name keeps its own"
    assert [i["file_name"] for i in content["images"]][2] == "clip.avi#3"
    assert {p.relative_to(out).as_posix() for p in out.rglob("*.png")} == {
        f"panoptic/{i['id']}.png" for i in content["images"]
    }
    assert not (out / "overlays").exists()


def test_without_anything_to_write_a_video_is_refused(tmp_path, clip) -> None:
    predictor = HalfPredictor()
    with pytest.raises(ValueError, match="--frames"):
        predict_files(
            predictor, find_inputs([clip]), tmp_path / "out", PredictionOptions(overlay=False)
        )
    assert not predictor.seen


def test_without_a_codec_frames_become_pictures(tmp_path, monkeypatch, clip) -> None:
    monkeypatch.setattr(video, "_CODEC", "ZZZZ")
    with (
        pytest.raises(VideoCodecError, match="cannot write"),
        VideoWriter(tmp_path / "a.mp4", 5, (9, 9)),
    ):
        pass
    out = tmp_path / "out"
    report = predict_files(HalfPredictor(), find_inputs([clip]), out, PredictionOptions(every=4))
    assert [p.name for p in sorted((out / "overlays" / "clip").iterdir())] == [
        "000000.jpg",
        "000004.jpg",
    ]
    assert len(report.notes) == 1 and "pictures instead" in report.notes[0]
    assert not list(out.rglob("*.mp4"))


def test_a_broken_video_does_not_stop_the_others(mp4, tmp_path, clip) -> None:
    (clip.parent / "bad.mp4").write_bytes(b"nothing")
    save(clip.parent / "a.png")
    report = predict_files(HalfPredictor(), find_inputs([clip.parent]), tmp_path / "out")
    assert (report.inputs, report.images, report.frames) == (3, 1, 7)
    assert [path.name for path, _ in report.failures] == ["bad.mp4"]


def test_progress_knows_the_number_of_frames(tmp_path, clip) -> None:
    said = []

    def progress(items, total, what):
        said.append((total, what))
        return items

    options = PredictionOptions(every=2, frames=True, overlay=False)
    predict_files(
        HalfPredictor(), find_inputs([clip]), tmp_path / "out", options, progress=progress
    )
    assert said == [(4, "clip.avi")]


def test_a_video_that_has_gone_does_not_stop_the_others(tmp_path) -> None:
    gone = tmp_path / "gone.avi"
    gone.touch()
    inputs = find_inputs([gone, save(tmp_path / "a.png")])
    gone.unlink()
    report = predict_files(HalfPredictor(), inputs, tmp_path / "out")
    assert [path for path, _ in report.failures] == [gone] and report.images == 1
    assert (tmp_path / "out" / "panoptic.json").is_file()
