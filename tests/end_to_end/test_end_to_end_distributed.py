"""However images are spread over processes and micro-batches, the gradient is that of one batch."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from fdd.data import FDDDatasetMapper
from fdd.engine import Trainer
from run_toys import TRAIN, make_trainer, registered, run_cfg

# Steps do not move the weights, so that the gradients of all steps belong to the same ones.
CHANGES = {
    "SOLVER.BASE_LR": 1e-30,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "SOLVER.IMS_PER_BATCH": 4,
    # At 64 px one token is left to the coarsest level, and its normalisation over a few numbers
    # makes noise of 1e-7 into noise of 5e-5.
    "INPUT.MIN_SIZE_TEST": 128,
    "MODEL.FDD.ENCODER.DROPOUT": 0.0,
    "MODEL.FDD.PAN.DROPOUT": 0.0,
}
# Images of the two steps. The last image of the first step has no points; of the second step, both
# images that the second process gets.
WITHOUT_POINTS = ((3,), (2, 3))


def steps_of(cfg):
    mapper = FDDDatasetMapper(cfg, is_train=False)
    dicts = DatasetCatalog.get(TRAIN)
    steps = []
    for n, empty in enumerate(WITHOUT_POINTS):
        chosen = dicts[n : n + 4]
        steps.append(
            [mapper(d | ({"points": []} if i in empty else {})) for i, d in enumerate(chosen)]
        )
    return steps


def gradients(folder, accumulate_steps=1):
    """The gradients of both steps, [{name: gradient}, ...], and the total losses."""
    rank, world_size = comm.get_rank(), comm.get_world_size()

    class FixedImages(Trainer):
        @classmethod
        def build_train_loader(cls, cfg, start_iter=0, **options):
            for step in steps_of(cfg):
                share = len(step) // accumulate_steps
                for start in range(0, len(step), share):
                    part = share // world_size
                    batch = step[start : start + share]
                    yield batch[rank * part : (rank + 1) * part]

    found, losses = [], []

    def keep(trainer):
        named = trainer.model.named_parameters()
        found.append(
            {
                n.removeprefix("module."): None if p.grad is None else p.grad.clone()
                for n, p in named
                if p.requires_grad
            }
        )
        losses.append(trainer.storage.latest()["total_loss"][0])

    size = {"SOLVER.IMS_PER_BATCH": 4 // accumulate_steps}
    steps = {"SOLVER.ACCUMULATE_STEPS": accumulate_steps}
    cfg = run_cfg(folder, CHANGES | size | steps)
    make_trainer(cfg, FixedImages, after_step=keep).train()
    return found, losses


def _process(rank, world_size, shapes, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    comm.create_local_process_group(world_size)
    with registered(shapes):
        for accumulate_steps in (1, 2) if world_size == 2 else (1,):
            found, losses = gradients(folder / f"many_{accumulate_steps}", accumulate_steps)
            torch.save((found, losses), folder / f"many_{accumulate_steps}_{rank}.pth")
    dist.destroy_process_group()


def norm_of(gradients):
    return torch.stack([g.norm() for g in gradients]).norm()


def assert_same(expected, found):
    """Equal to 1e-5 of the whole gradient, and each parameter's to 2e-5 of its own."""
    assert expected.keys() == found.keys()
    total = norm_of(expected.values())
    assert torch.isfinite(total) and total > 0.1
    errors = {name: gradient - found[name] for name, gradient in expected.items()}
    assert norm_of(errors.values()) < 1e-5 * total
    for name, gradient in expected.items():
        # Some gradients are 0 but for rounding.
        scale = max(gradient.norm(), 1e-2 * total)
        assert errors[name].norm() < 2e-5 * scale, (name, float(errors[name].norm() / scale))


@pytest.fixture(scope="module")
def whole(_one_thread, shapes_root, tmp_path_factory):
    with registered(shapes_root / "shapes"):
        return gradients(tmp_path_factory.mktemp("whole"))


def test_images_differ_and_every_parameter_learns(shapes, whole, tmp_path):
    for step, empty in zip(steps_of(run_cfg(tmp_path)), WITHOUT_POINTS, strict=True):
        counts = [len(x["classes"]) for x in step]
        assert [n for n, count in enumerate(counts) if count == 0] == list(empty)
        assert len(set(counts)) >= 3
    for step in whole[0]:
        # Or DistributedDataParallel, which is told that there are none, would wait for ever.
        assert [name for name, gradient in step.items() if gradient is None] == []


def test_two_halves_accumulated(shapes, whole, tmp_path):
    found, losses = gradients(tmp_path, accumulate_steps=2)
    for expected, gradient in zip(whole[0], found, strict=True):
        assert_same(expected, gradient)
    assert losses == pytest.approx(whole[1], rel=1e-5)


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes(shapes, whole, tmp_path, count):
    """Of four, one has an image without points in the first step, two in the second."""
    context = mp.spawn(_process, args=(count, shapes, tmp_path), nprocs=count, join=False)
    # join() comes back when any of them ends.
    deadline = time.monotonic() + 60 * count
    while not context.join(timeout=5):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the processes wait for each other")
    found = sorted(tmp_path.glob("many_*.pth"))
    assert len(found) == 4
    for file in found:
        gradients_found, losses = torch.load(file)
        for expected, gradient in zip(whole[0], gradients_found, strict=True):
            assert_same(expected, gradient)
        if file.stem.endswith("_0"):
            assert losses == pytest.approx(whole[1], rel=1e-5)
