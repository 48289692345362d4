"""The command, from its arguments to the files it leaves behind."""

from __future__ import annotations

import json
from urllib.error import URLError

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from engine_toys import MASKS, POINTS, make_trainer, toy_cfg
from fdd.engine import CheckpointError, build_test_loader, build_train_loader


def results_of(path):
    return json.loads(path.read_text())["results"]["panoptic_seg"]


def test_train_evaluate_resume(command, tmp_path):
    out = tmp_path / "out"
    results = command("SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "1")
    # The toy calls every pixel stuff: found, with an IoU of about two thirds.
    assert results["panoptic_seg"]["PQ_th"] == 0
    assert 60 < results["panoptic_seg"]["PQ_st"] < 75
    assert results_of(out / "results.json")["PQ"] == results["panoptic_seg"]["PQ"]
    assert (out / "model_final.pth").is_file() and (out / "model_best.pth").is_file()
    used = yaml.safe_load((out / "config.yaml").read_text())
    assert used["MODEL"]["FDD"]["WARMUP_ITERS"] == 4, "an epoch, as it was used in place of -1"
    log = (out / "log.txt").read_text()
    assert "7 images, 2 iterations" in log, "fdd's own log lines are in the file"
    assert torch.cuda.is_available() or "using the CPU" in log

    trained = (out / "results.json").read_bytes()
    final = str(out / "model_final.pth")
    expected = "[['panoptic_seg', 'PQ_th', 0.0, 0.1]]"
    again = command("--eval-only", "MODEL.WEIGHTS", final, "TEST.EXPECTED_RESULTS", expected)
    assert again == results
    assert results_of(out / "eval_results.json")["PQ"] == results["panoptic_seg"]["PQ"]
    assert (out / "results.json").read_bytes() == trained, "the run's own stays"
    with pytest.raises(SystemExit):
        wrong = expected.replace("0.0", "9.0")
        command("--eval-only", "MODEL.WEIGHTS", final, "TEST.EXPECTED_RESULTS", wrong)

    command("--resume", "SOLVER.MAX_ITER", "3")
    assert torch.load(out / "model_final.pth")["iteration"] == 2


def test_evaluate_pseudo_labels(command, tmp_path):
    command("SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()")
    final = str(tmp_path / "out" / "model_final.pth")
    results = command("--eval-pseudo-labels", "MODEL.WEIGHTS", final)
    # The toy gives every pixel to the thing, which covers a third: missed.
    assert results["pseudo_labels"]["learned/PQ"] == 0
    saved = json.loads((tmp_path / "out" / "pseudo_label_results.json").read_text())
    assert saved["results"] == results
    with pytest.raises(ValueError, match="no points"):
        command("--eval-pseudo-labels", MASKS, "--resume")


def test_pseudo_labels_are_checked_before_the_model_is_built(command, monkeypatch):
    def too_late(*_):
        raise AssertionError("built a model")

    monkeypatch.setattr("detectron2.modeling.build_model", too_late)
    with pytest.raises(ValueError, match=r"LABEL_MAKER"):
        command("--eval-pseudo-labels", "MODEL.FDD.LABEL_MAKER", "guess")
    monkeypatch.delattr(MetadataCatalog.get(POINTS), "panoptic_json")
    with pytest.raises(ValueError, match=r"no panoptic masks"):
        command("--eval-pseudo-labels")


def test_label_quality_is_checked_before_the_model_is_built(command, monkeypatch, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.touch()
    with pytest.raises(ValueError, match=r"EngineToy.*no label_quality"):
        command("--eval-label-quality", "MODEL.WEIGHTS", str(weights))

    def too_late(*_):
        raise AssertionError("built a model")

    monkeypatch.setattr("detectron2.modeling.build_model", too_late)
    with pytest.raises(ValueError, match=r"--eval-label-quality names 'nowhere'"):
        command("--eval-label-quality", "nowhere")
    with pytest.raises(ValueError, match=r"LABEL_MAKER"):
        command("--eval-label-quality", "MODEL.FDD.LABEL_MAKER", "guess")


def test_evaluating_nothing_is_an_error(command):
    with pytest.raises(ValueError, match=r"MODEL.WEIGHTS is empty"):
        command("--eval-only")
    with pytest.raises(ValueError, match=r"DATASETS.TEST is empty"):
        command("--eval-only", "DATASETS.TEST", "()")


def test_arguments(train_net):
    def parsed(*argv):
        args = train_net.parse_args(list(argv))
        return args.eval_pseudo_labels, args.opts

    assert parsed("--eval-only", "SEED", "1") == (None, ["SEED", "1"])
    assert parsed("--eval-pseudo-labels") == ([], [])
    assert parsed("--eval-pseudo-labels", "a_p1", "b_p1") == (["a_p1", "b_p1"], [])
    options = ["MODEL.WEIGHTS", "x", "SEED", "1"]
    assert parsed("--eval-pseudo-labels", "a_p1", *options) == (["a_p1"], options)
    assert parsed("--eval-pseudo-labels", "--num-gpus", "2", *options) == ([], options)
    args = train_net.parse_args(["--eval-label-quality", "a_p1", "b_p1", *options])
    assert args.eval_label_quality == ["a_p1", "b_p1"] and args.opts == options
    assert args.eval_pseudo_labels is None
    assert train_net.parse_args(["--eval-label-quality"]).eval_label_quality == []
    assert train_net.parse_args(["--eval-only"]).eval_label_quality is None


def test_train_loader(toy_set, tmp_path):
    cfg = toy_cfg(tmp_path, "SOLVER.ACCUMULATE_STEPS", 2)
    stream = iter(build_train_loader(cfg))
    batches = [next(stream) for _ in range(8)]
    later = next(iter(build_train_loader(cfg, start_iter=3)))
    assert [x["image_id"] for x in later] == [x["image_id"] for x in batches[6]]
    for x, y in zip(later, batches[6], strict=True):
        torch.testing.assert_close(x["image"], y["image"], rtol=0, atol=0)
    sizes = {tuple(x["image"].shape) for batch in batches for x in batch}
    assert len(sizes) > 3, "the augmentation draws sizes"
    for batch in batches:
        assert len({x["width"] > x["height"] for x in batch}) == 1
    with pytest.raises(ValueError, match="seed >= 0"):
        build_train_loader(toy_cfg(tmp_path, "SEED", -1))


def test_test_loader_hides_the_points(toy_set, tmp_path):
    cfg = toy_cfg(tmp_path)
    with_points = list(build_test_loader(cfg, POINTS, with_points=True))
    without = list(build_test_loader(cfg, POINTS))
    assert [len(x["classes"]) for (x,) in with_points] == [2] * 7
    assert [len(x["classes"]) for (x,) in without] == [0] * 7
    assert "points" in DatasetCatalog.get(POINTS)[0]


def test_pictures_of_the_labels(toy_set, tmp_path):
    trainer = make_trainer(toy_cfg(tmp_path, "VIS_PERIOD", 2, "SOLVER.MAX_ITER", 3))
    trainer.train()
    pictures = trainer.storage._vis_data
    # Writers clear what they wrote; the pictures of iteration 1 went into the event file.
    assert not pictures
    (events,) = tmp_path.glob("events.*")
    assert events.read_bytes().count(b"training/0") >= 1
    assert trainer.model.training


@pytest.mark.parametrize(
    "what", ["fdd.visualization.training_sheet", "engine_toys.EngineToy.estimate_labels"]
)
def test_a_picture_that_fails_ends_nothing(toy_set, tmp_path, monkeypatch, caplog, what):
    def broken(*_, **__):
        raise IndexError("off the sheet")

    monkeypatch.setattr(what, broken)
    trainer = make_trainer(toy_cfg(tmp_path, "VIS_PERIOD", 1, "SOLVER.MAX_ITER", 1))
    trainer.train()
    assert trainer.model.training
    assert "Cannot draw image img_" in caplog.text
    assert (tmp_path / "model_final.pth").is_file()


@pytest.mark.parametrize("processes", [1, 2])
def test_masks_are_looked_into_once(toy_set, tmp_path, monkeypatch, processes):
    """By the command, and not again by each of the processes that it starts."""
    from fdd.engine import checks
    from fdd.engine import command as module

    options = ("DATASETS.TEST", (MASKS,), "SOLVER.MAX_ITER", 1)
    config = tmp_path / "config.yaml"
    config.write_text(toy_cfg(tmp_path / "out", *options).dump())
    monkeypatch.setattr(module, "collect_env_info", lambda: "")
    launch = "fdd.engine.processes.launch"
    monkeypatch.setattr(launch, lambda process, *_, args, **__: process(*args))
    calls, look = [], checks.check_pngs
    monkeypatch.setattr(checks, "check_pngs", lambda *a, **k: (calls.append(a), look(*a, **k))[1])
    words = ["--config-file", str(config), "--num-gpus", str(processes)]
    module.run(module.parse_args(words))
    assert len(calls) == 1 and (tmp_path / "out" / "model_final.pth").exists()


@pytest.mark.parametrize(
    "words",
    [[], ["--resume"], ["--eval-only"], ["--eval-pseudo-labels"], ["--eval-label-quality"]],
)
def test_weights_are_looked_for_before_a_model_is_built(command, tmp_path, monkeypatch, words):
    """Whose whole structure would stand in the log before what is wrong."""

    def too_late(*_):
        raise AssertionError("built a model")

    monkeypatch.setattr("detectron2.modeling.build_model", too_late)
    monkeypatch.setattr("detectron2.engine.defaults.build_model", too_late)

    def unreachable(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("iopath.common.file_io.download", unreachable)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    gone = tmp_path / "gone.pth"
    with pytest.raises(FileNotFoundError, match=f"checkpoint {gone} does not exist"):
        command(*words, "MODEL.WEIGHTS", str(gone))
    with pytest.raises(CheckpointError, match=r"nowhere\.invalid.*cannot be downloaded"):
        command(*words, "MODEL.WEIGHTS", "https://nowhere.invalid/model.pth")
    if words[:1] not in ([], ["--resume"]):
        with pytest.raises(ValueError, match="nothing to evaluate"):
            command(*words)
