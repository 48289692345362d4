"""Two processes with gloo on the CPU."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from engine_toys import assert_same_weights, make_trainer, registered, toy_cfg, weights_of

OPTIONS = (
    "MODEL.META_ARCHITECTURE", "EngineToyNoDropout", "SOLVER.IMS_PER_BATCH", 4,
    "SOLVER.ACCUMULATE_STEPS", 2, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2,
    "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.1,
)  # fmt: skip


def _process(rank, world_size, root, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    comm.create_local_process_group(world_size)
    with registered(root):
        trainer = make_trainer(toy_cfg(folder / "two", *OPTIONS))
        trainer.train()
        torch.save(weights_of(trainer), folder / f"weights_{rank}.pth")

        # Go on from the middle, in both processes.
        comm.synchronize()
        if rank == 0:
            (folder / "two" / "last_checkpoint").write_text("model_0000001.pth")
        comm.synchronize()
        trainer = make_trainer(toy_cfg(folder / "two", *OPTIONS), resume=True)
        trainer.train()
        torch.save(weights_of(trainer), folder / f"resumed_{rank}.pth")

        # A loss that breaks in one process ends both, with the same message and sound weights.
        trainer = make_trainer(toy_cfg(folder / "nan", *OPTIONS))
        before = weights_of(trainer)
        toy = trainer.model.module
        forward = toy.forward
        if rank == 1:
            toy.forward = lambda *a, **k: {n: v * math.nan for n, v in forward(*a, **k).items()}
        try:
            trainer.train()
        except FloatingPointError as error:
            (folder / f"error_{rank}").write_text(str(error))
        assert_same_weights(before, weights_of(trainer), 0)

        # A drawn seed is the same everywhere.
        trainer = make_trainer(toy_cfg(folder / "seed", *OPTIONS, "SEED", -1))
        (folder / f"seed_{rank}").write_text(str(trainer.seed))


def test_two_processes_equal_one(toy_root, toy_set, tmp_path):
    one = make_trainer(toy_cfg(tmp_path / "one", *OPTIONS))
    one.train()
    mp.spawn(_process, args=(2, toy_root, tmp_path), nprocs=2)

    for name in ("weights_0", "weights_1", "resumed_0", "resumed_1"):
        assert_same_weights(weights_of(one), torch.load(tmp_path / f"{name}.pth"), 2e-5)
    assert_same_weights(
        torch.load(tmp_path / "weights_0.pth"), torch.load(tmp_path / "resumed_0.pth")
    )
    errors = [(tmp_path / f"error_{rank}").read_text() for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert "iteration 0" in errors[0] and errors[0].count("img_") >= 4
    assert (tmp_path / "seed_0").read_text() == (tmp_path / "seed_1").read_text()
