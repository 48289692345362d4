"""Autocast on the meta device does what the CPU's does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fdd.profiling import count_step
from fdd.profiling.meta_device import meta_autocast

BF16 = torch.bfloat16


class Net(nn.Module):
    def __init__(self, use_checkpoint: bool = False) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = (
                checkpoint(self.inner, x, use_reentrant=False)
                if self.use_checkpoint
                else (self.inner(x))
            )
        with torch.autocast(x.device.type, enabled=False):
            assert F.linear(x.float(), self.inner[2].weight.T).dtype is torch.float32
        return x.float().square().sum()


@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_meta_and_cpu_autocast_cost_the_same(use_checkpoint: bool) -> None:
    costs = []
    for device in ("cpu", "meta"):
        net = Net(use_checkpoint).to(device)
        x = torch.ones(64, 16, device=device)
        costs.append(
            count_step(net, lambda net=net, x=x: net(x), parts={"inner": "inner"}, amp_dtype=BF16)
        )
    on_cpu, on_meta = costs
    assert on_meta.by_part() == on_cpu.by_part()
    assert on_meta.peak == on_cpu.peak


def test_types_follow_the_operator() -> None:
    linear, norm = nn.Linear(4, 4, device="meta"), nn.LayerNorm(4, device="meta")
    x = torch.empty(2, 4, device="meta")
    with meta_autocast(BF16):
        low = linear(x)
        assert low.dtype is BF16
        assert norm(low).dtype is torch.float32
        assert (low @ low.mT).dtype is BF16
        assert torch.amp.is_autocast_available("meta")
        with torch.autocast("meta", enabled=False):
            assert linear(x).dtype is torch.float32
        assert linear(x).dtype is BF16
    assert linear(x).dtype is torch.float32


def test_everything_is_put_back() -> None:
    before = torch.autocast, torch.amp.is_autocast_available, torch.is_autocast_enabled
    with pytest.raises(KeyError), meta_autocast(BF16):
        raise KeyError
    assert before == (torch.autocast, torch.amp.is_autocast_available, torch.is_autocast_enabled)
    with meta_autocast(None):
        assert torch.autocast is before[0]


def test_other_devices_keep_their_autocast() -> None:
    linear = nn.Linear(4, 4)
    with meta_autocast(BF16):
        assert linear(torch.ones(2, 4)).dtype is torch.float32
        with torch.autocast("cpu", dtype=BF16):
            assert linear(torch.ones(2, 4)).dtype is BF16
