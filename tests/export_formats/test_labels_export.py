"""Exports of a tiny model with random weights: what is in them, and how they are gone on with."""

import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from panopticapi.evaluation import pq_compute
from PIL import Image

import fdd.inference.label_export as label_export
from fdd.data import register_panoptic
from fdd.data.catalog import forget
from fdd.data.dataset_files import register_dataset_file
from fdd.evaluation import PanopticEvaluator
from fdd.inference.label_export import Views, build_view_loader
from fdd.inference.trained_model import load_trained
from labels_toys import IMAGES, export, read_export, write_images, write_run


@pytest.fixture(scope="module")
def plain(toy, tmp_path_factory):
    """An export with the defaults, and maps of confidence."""
    folder = tmp_path_factory.mktemp("plain")
    summary = export(toy, folder, confidence_maps=True)
    return folder, summary


def files_of(folder):
    return {
        p.relative_to(folder): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and ".export" not in p.parts
    }


class TestContent:
    def test_labels_are_those_that_the_model_estimates(self, toy, plain):
        """Computed here from the mapper and the model alone."""
        document, maps = read_export(plain[0])
        trained = load_trained(toy / "run", full=True)
        dicts = DatasetCatalog.get(register_dataset_file(toy / "toy.yaml"))
        loader = build_view_loader(trained.cfg, dicts, Views(trained.cfg))
        category = {70: 4, 3: 11, 512: 6, 9: 11, 8: 4, 66000: 9}
        for (item,), record in zip(loader, document["annotations"], strict=True):
            x = item["views"][0]
            want = trained.model.estimate_labels([x])[0]
            label = want["pseudo_labels"]["learned"].numpy()
            # The second piece of sky is part of the first one's segment.
            ids = np.array([*(70 if n == 8 else n for n in x["instance_ids"]), 0])
            got = maps[x["image_id"]]
            assert np.array_equal(got, ids[label])
            assert {s["id"]: s["category_id"] for s in record["segments_info"]} == {
                n: category[n] for n in np.unique(got) if n
            }

    def test_every_segment_is_measured_on_its_png(self, plain):
        document, maps = read_export(plain[0])
        for annotation in document["annotations"]:
            ids = maps[annotation["image_id"]]
            name = annotation["file_name"]
            with Image.open(plain[0] / "confidence" / name) as picture:
                confidence = np.array(picture) / 255
            assert {s["id"] for s in annotation["segments_info"]} == {*np.unique(ids)} - {0}
            for segment in annotation["segments_info"]:
                mask = ids == segment["id"]
                rows, columns = np.nonzero(mask)
                x, y, width, height = segment["bbox"]
                assert segment["area"] == mask.sum() and segment["iscrowd"] == 0
                assert (columns.min(), rows.min()) == (x, y)
                assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)
                assert segment["score"] == pytest.approx(confidence[mask].mean(), abs=2e-3)

    def test_images_and_classes_are_those_of_the_points_file(self, toy, plain):
        document, _ = read_export(plain[0])
        points = json.loads((toy / "points.json").read_text())
        keys = ("id", "file_name", "height", "width")
        assert document["images"] == [{k: i[k] for k in keys} for i in points["images"]]
        assert [(c["id"], c["name"], c["isthing"]) for c in document["categories"]] == [
            (11, "cell", 1),
            (6, "dog", 1),
            (4, "sky", 0),
            (9, "sea", 0),
        ]
        assert all(len(c["color"]) == 3 for c in document["categories"])

    def test_summary(self, plain):
        document, maps = read_export(plain[0])
        summary = plain[1]
        segments = [s for a in document["annotations"] for s in a["segments_info"]]
        assert (summary.images, summary.labelled, summary.resumed) == (4, 3, 0)
        assert summary.segments == len(segments)
        assert summary.things == sum(s["category_id"] in (11, 6) for s in segments)
        pixels = sum(m.size for m in maps.values())
        assert summary.void == sum((m == 0).sum() for m in maps.values()) / pixels
        assert not maps["none"].any() and (maps["first"] != 0).all()
        assert summary.complete and not summary.unreadable

    def test_doubtful_pixels_become_void_and_their_segments_vanish(self, toy, plain, tmp_path):
        _, before = read_export(plain[0])
        export(toy, tmp_path / "all", confidence_maps=True)
        pictures = [Image.open(path) for path in (tmp_path / "all" / "confidence").rglob("*.png")]
        middle = int(np.median(np.concatenate([np.array(p).ravel() for p in pictures])))
        folder, limit = tmp_path / "sure", (middle + 0.5) / 255
        summary = export(toy, folder, min_confidence=limit, confidence_maps=True)
        document, after = read_export(folder)
        assert 0.1 < summary.void < 0.99
        for annotation in document["annotations"]:
            image_id, name = annotation["image_id"], annotation["file_name"]
            with Image.open(folder / "confidence" / name) as picture:
                confidence = np.array(picture)
            kept = after[image_id] != 0
            assert np.array_equal(after[image_id][kept], before[image_id][kept])
            assert kept[confidence > middle].all() and (confidence[~kept] <= middle).all()
        gone = {(i, n) for i, m in before.items() for n in {*np.unique(m)} - {*np.unique(after[i])}}
        assert gone <= {*summary.vanished}

    def test_a_rule_has_no_confidence(self, toy, tmp_path):
        summary = export(toy, tmp_path, maker="nearest", formats=("coco",))
        document, maps = read_export(tmp_path)
        points = json.loads((toy / "points.json").read_text())["images"]
        for image in points:
            for segment in image["segments"]:
                wanted = 70 if segment["id"] == 8 else segment["id"]
                for x, y in segment["points"]:
                    assert maps[image["id"]][int(y), int(x)] == wanted
        assert summary.confidence is None
        assert not any("score" in s for a in document["annotations"] for s in a["segments_info"])
        instances = json.loads((tmp_path / "instances.json").read_text())
        assert instances["annotations"] and "score" not in instances["annotations"][0]


class TestAveraging:
    def test_a_batch_changes_no_label(self, toy, plain, tmp_path):
        root = tmp_path / "more"
        shutil.copytree(toy, root)
        points = json.loads((root / "points.json").read_text())
        # Two more images of one size, between the others.
        points["images"].insert(1, {**points["images"][0], "id": "again"})
        points["images"].append({**points["images"][0], "id": "once more"})
        (root / "points.json").write_text(json.dumps(points))
        export(toy, tmp_path / "out", str(root / "toy.yaml"), batch=5)
        document, maps = read_export(tmp_path / "out")
        assert [i["id"] for i in document["images"]] == [i["id"] for i in points["images"]]
        before = read_export(plain[0])[1]
        for image_id, ids in maps.items():
            assert (ids == before.get(image_id, before["first"])).mean() > 0.999

    def test_a_mirrored_data_set_has_the_mirrored_labels(self, toy, tmp_path):
        mirrored = tmp_path / "mirrored"
        write_images(mirrored, mirrored=True)
        # JPEG is not the same mirrored.
        for root in (mirrored, tmp_path / "plain"):
            if not root.exists():
                shutil.copytree(toy / "images", root / "images")
                shutil.copy(toy / "points.json", root)
                shutil.copy(toy / "toy.yaml", root)
        with Image.open(toy / "images" / IMAGES["2"][0]) as picture:
            turned = np.array(picture)[:, ::-1]
        name = IMAGES["2"][0].replace(".jpg", ".png")
        Image.fromarray(np.ascontiguousarray(turned)).save(mirrored / "images" / name)
        (mirrored / "images" / IMAGES["2"][0]).unlink()  # found by its stem
        results = []
        for root in (tmp_path / "plain", mirrored):
            output = root / "labels"
            export(
                toy, output, str(root / "toy.yaml"), scales=(1.0, 1.5), flip=True,
                confidence_maps=True,
            )  # fmt: skip
            results.append(output)
        (one, plain_maps), (_, mirrored_maps) = map(read_export, results)
        for annotation in one["annotations"]:
            image_id, name = annotation["image_id"], annotation["file_name"]
            assert np.array_equal(plain_maps[image_id][:, ::-1], mirrored_maps[image_id])
            a, b = (np.array(Image.open(r / "confidence" / name)) for r in results)
            assert np.array_equal(a[:, ::-1], b)


class TestRoundTrip:
    def test_our_own_loader_reads_it(self, toy, plain):
        name = "labels_round_trip"
        register_panoptic(name, toy / "images", plain[0] / "panoptic.json", plain[0] / "panoptic")
        try:
            dicts = DatasetCatalog.get(name)
        finally:
            forget(name)
        document, _ = read_export(plain[0])
        assert [d["image_id"] for d in dicts] == [*IMAGES]
        for d, annotation in zip(dicts, document["annotations"], strict=True):
            assert [s["id"] for s in d["segments_info"]] == [
                s["id"] for s in annotation["segments_info"]
            ]

    def test_it_scores_100_against_itself(self, plain):
        document, maps = read_export(plain[0])
        evaluator = PanopticEvaluator(
            panoptic_json=str(plain[0] / "panoptic.json"), panoptic_root=str(plain[0] / "panoptic")
        )
        evaluator.reset()
        order = {c["id"]: n for n, c in enumerate(document["categories"])}
        for annotation in document["annotations"]:
            segments = [
                {"id": s["id"], "category_id": order[s["category_id"]]}
                | {"isthing": order[s["category_id"]] < 2}
                for s in annotation["segments_info"]
            ]
            ids = torch.from_numpy(maps[annotation["image_id"]])
            evaluator.process(
                [{"image_id": annotation["image_id"]}], [{"panoptic_seg": (ids, segments)}]
            )
        results = evaluator.evaluate()["panoptic_seg"]
        assert results["PQ"] == pytest.approx(100)

    def test_panopticapi_takes_it(self, plain):
        path = str(plain[0] / "panoptic.json")
        results = pq_compute(path, path, str(plain[0] / "panoptic"), str(plain[0] / "panoptic"))
        assert results["All"]["pq"] == pytest.approx(1)


class TestGoingOn:
    def _kill_after(self, monkeypatch, count):
        """End the process, so to say, when ``count`` images are labelled."""
        real, calls = label_export.estimate_averaged, []

        def estimate(*args):
            calls.append(1)
            if len(calls) > count:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(label_export, "estimate_averaged", estimate)
        return calls

    def test_a_killed_export_has_no_list_and_is_gone_on_with(
        self, toy, plain, tmp_path, monkeypatch
    ):
        with monkeypatch.context() as patch:
            self._kill_after(patch, 2)
            with pytest.raises(KeyboardInterrupt):
                export(toy, tmp_path, confidence_maps=True, formats=("coco", "yolo"))
        assert not [*tmp_path.glob("*.json")] and not (tmp_path / "yolo").exists()
        assert len([*tmp_path.rglob("panoptic/**/*.png")]) == 2
        calls = self._kill_after(monkeypatch, 4)
        summary = export(toy, tmp_path, confidence_maps=True)
        assert len(calls) == 2 and summary.resumed == 2 and summary.images == 4
        assert files_of(tmp_path) == files_of(plain[0])

    def test_a_finished_export_needs_no_network_for_another_form(self, toy, tmp_path, monkeypatch):
        export(toy, tmp_path)
        calls = self._kill_after(monkeypatch, 0)
        summary = export(toy, tmp_path, formats=("semantic", "yolo"))
        assert not calls and summary.resumed == 4 and len(summary.written) == 3
        assert (tmp_path / "semantic.json").exists() and (tmp_path / "yolo/data.yaml").exists()

    def test_other_settings_are_refused_or_replace_it(self, toy, tmp_path):
        export(toy, tmp_path, formats=("semantic",))
        before = files_of(tmp_path)
        for change in ({"flip": True}, {"min_confidence": 0.2}, {"maker": "nearest"}):
            with pytest.raises(
                ValueError, match=f"holds an export with another {next(iter(change))} "
            ):
                export(toy, tmp_path, **change)
        assert files_of(tmp_path) == before
        export(toy, tmp_path, maker="nearest", overwrite=True)
        assert not (tmp_path / "semantic").exists()
        assert read_export(tmp_path)[0]["info"]["maker"] == "nearest"

    def test_other_points_or_weights_are_other_settings(self, toy, tmp_path):
        root = tmp_path / "copy"
        shutil.copytree(toy, root)
        export(root, tmp_path / "labels")
        points = root / "points.json"
        points.write_text(points.read_text() + "\n")
        with pytest.raises(ValueError, match="another points file"):
            export(root, tmp_path / "labels")
        checkpoint = root / "run" / "model_final.pth"
        weights = torch.load(checkpoint)
        next(iter(weights["model"].values())).add_(1)
        torch.save(weights, checkpoint)
        with pytest.raises(ValueError, match="another checkpoint, another points file"):
            export(root, tmp_path / "labels")


class TestUnreadableImages:
    @pytest.fixture
    def broken(self, toy, tmp_path):
        root = tmp_path / "broken"
        shutil.copytree(toy, root)
        path = root / "images" / IMAGES["2"][0]
        path.write_bytes(path.read_bytes()[:200])
        return root

    def test_the_others_are_done_and_no_list_is_written(self, broken, toy, tmp_path):
        summary = export(broken, tmp_path / "out", formats=("coco",), batch=2)
        assert len(summary.unreadable) == 1 and "image '2'" in summary.unreadable[0]
        assert "second.jpg" in summary.unreadable[0]
        assert not summary.complete and summary.images == 3
        assert not [*(tmp_path / "out").glob("*.json")]
        # Mended, only that image is to be done.
        shutil.copy(toy / "images" / IMAGES["2"][0], broken / "images" / IMAGES["2"][0])
        summary = export(broken, tmp_path / "out")
        assert summary.complete and summary.resumed == 3 and summary.images == 4

    def test_they_can_be_left_out(self, broken, tmp_path):
        summary = export(broken, tmp_path / "out", skip_unreadable=True, workers=1)
        assert summary.complete and len(summary.unreadable) == 1
        document, _ = read_export(tmp_path / "out")
        assert [i["id"] for i in document["images"]] == ["first", 2, "none"]

    def test_an_image_that_is_mended_comes_into_the_forms_that_are_there(
        self, broken, toy, tmp_path
    ):
        out, forms = tmp_path / "out", ("semantic", "coco", "yolo", "detectron2")
        export(broken, out, formats=forms, skip_unreadable=True)
        shutil.copy(toy / "images" / IMAGES["2"][0], broken / "images" / IMAGES["2"][0])
        summary = export(broken, out)
        assert len(summary.written) == 5
        export(broken, tmp_path / "at once", formats=forms)
        assert files_of(out) == files_of(tmp_path / "at once")

    def test_nothing_readable_is_no_data_set(self, broken, tmp_path):
        for name, _ in IMAGES.values():
            (broken / "images" / name).write_bytes(b"")
        summary = export(broken, tmp_path / "out", skip_unreadable=True)
        assert len(summary.unreadable) == 4 and not summary.complete
        assert not (tmp_path / "out" / "panoptic.json").exists()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scales": (1.0, 0.0)}, "numbers above 0"),
            ({"scales": (1.0, 1.0)}, "different numbers"),
            ({"scales": (float("nan"),)}, "numbers above 0"),
            ({"scales": ()}, "numbers above 0"),
            ({"min_confidence": 50}, "expected 0 to 1"),
            ({"formats": ("yaml",)}, "'yaml' is unknown; allowed: panoptic, semantic, coco"),
            ({"maker": "nearst"}, "'nearst' is unknown; allowed: .*nearest"),
            ({"maker": "full"}, "copies true masks"),
            ({"maker": "nearest", "flip": True}, "'nearest' gives no probabilities"),
            ({"maker": "polygon", "min_confidence": 0.5}, "gives no probabilities"),
            ({"maker": "nearest", "confidence_maps": True}, "gives no probabilities"),
            ({"batch": 0}, "at least 1 image"),
            ({"workers": -1}, "0 workers or more"),
        ],
    )
    def test_options(self, toy, tmp_path, options, message):
        with pytest.raises(ValueError, match=message):
            export(toy, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    def test_folders_of_others_before_anything_is_loaded(self, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(ValueError, match=r"other files \(thesis.tex\)"):
            label_export.export_labels("no model", "no.yaml", tmp_path)

    def test_models_that_learned_no_labels(self, toy, tmp_path):
        write_run(tmp_path / "full", toy / "toy.yaml", {"MODEL.FDD.PAN_SUPERVISION": "full"})
        write_run(tmp_path / "rule", toy / "toy.yaml", {"MODEL.FDD.LABEL_MAKER": "polygon"})
        run, dataset = label_export.export_labels, str(toy / "toy.yaml")
        options = label_export.ExportOptions
        with pytest.raises(ValueError, match=r"full masks .*--maker"):
            run(tmp_path / "full", dataset, tmp_path / "out")
        with pytest.raises(ValueError, match="label maker is 'polygon', which gives no prob"):
            run(tmp_path / "rule", dataset, tmp_path / "out", options(flip=True))
        with pytest.raises(ValueError, match="'learned', which needs the pseudo label branch"):
            run(tmp_path / "rule", dataset, tmp_path / "out", options(maker="learned"))
        assert not (tmp_path / "out").exists()
        assert run(tmp_path / "full", dataset, tmp_path / "a", options(maker="nearest")).complete
        assert run(tmp_path / "full", dataset, tmp_path / "c", options(maker="dnn")).complete
        assert run(tmp_path / "rule", dataset, tmp_path / "b").complete

    def test_a_maker_with_parts_that_the_model_lacks(self, toy, tmp_path):
        run, dataset = label_export.export_labels, str(toy / "toy.yaml")
        options = label_export.ExportOptions(maker="distance")
        key = "MODEL.FDD.DISTANCE.EMBEDDING"
        with pytest.raises(
            ValueError, match=f"trained for label maker 'distance', add {key} False"
        ):
            run(toy / "run", dataset, tmp_path / "out", options)
        assert run(toy / "run", dataset, tmp_path / "out", options, opts=[key, "False"]).complete

    def test_other_classes(self, toy, tmp_path):
        write_images(tmp_path)
        points = tmp_path / "points.json"
        text = points.read_text()
        points.write_text(text.replace('"dog"', '"cat"'))
        with pytest.raises(ValueError, match=r"class 1 is 'dog' .* checkpoint, 'cat' .* data set"):
            export(toy, tmp_path / "out", str(tmp_path / "toy.yaml"))
        points.write_text(text.replace('"dog", "isthing": true', '"dog", "isthing": false'))
        with pytest.raises(ValueError, match="NUM_THINGS is 2"):
            export(toy, tmp_path / "out", str(tmp_path / "toy.yaml"))
