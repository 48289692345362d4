"""Pseudo label branch and auxiliary semantic branch: one stack of layers, two sets of queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from fdd.modeling.label_branch.location_prior import ExtentPrior, LocationPrior, Places
from fdd.modeling.layers import MaskStack, Memory

#: Logit of a padded instance: no probability.
PADDED = -torch.inf


@dataclass(frozen=True)
class BranchOutput:
    """Logits of every supervised layer at stride 8, first to last.

    Attributes:
        instance: list of (B, N, h, w) float32; softmax over N is P^pse. Padded instances are -inf,
            except in an image without instances, whose logits are all finite. Empty where the
            pseudo label branch does not run.
        semantic: list of (B, C, h, w) float32; softmax over C is P^sem. Empty where the semantic
            branch does not run.
        embedding: (B, D, h, w) float32 unit vectors of the embedding head, if there is one.
        prior: (B, N, h, w) float32, the instance logits of a branch whose own maps are zero:
            location prior and class bias. None without a location prior.
        extents: the part of the prior that is known between the cells, too: what of the instance
            logits need not be interpolated. None where there is none.
        residual: (B, N, h, w) float32, to be added to the last layer's instance logits for a label
            that obeys its points (:mod:`fdd.modeling.pseudo_labels.click_residual`), if asked for.
        features: the backbone's maps, (B, C_i, h_i, w_i) each; empty unless a label maker looks at
            them.
    """

    instance: list[Tensor]
    semantic: list[Tensor]
    embedding: Tensor | None = None
    prior: Tensor | None = None
    extents: ExtentPrior | None = None
    residual: Tensor | None = None
    features: tuple[Tensor, ...] = ()


class PseudoLabelBranch(nn.Module):
    """Estimate one map an instance, and (auxiliary) one a class, from shared weights.

    Both branches run in one pass: N instance queries and C semantic queries side by side, with a
    self-attention mask that keeps the two sets, and padding, apart. The result equals two passes.
    """

    @configurable
    def __init__(
        self,
        *,
        dim: int,
        num_classes: int,
        num_heads: int,
        ffn_dim: int,
        num_layers: int,
        run_instances: bool = True,
        run_semantic: bool = True,
        share_layers: bool = True,
        share_pos: bool = True,
        inject: str = "query",
        logit_head: str = "linear_affine",
        deep_supervision: bool = True,
        position_std: float = 1.0,
        residual_init: str = "xavier",
        location_prior: LocationPrior | None = None,
        use_checkpoint: bool = False,
    ):
        """
        Args:
            num_classes: things and stuff together.
            run_instances: False leaves the pseudo label branch out, for label makers that need the
                semantic branch alone. Then nothing is shared.
            run_semantic: False leaves the auxiliary branch out (lambda_sem = 0, Table 1); the
                position embeddings stay.
            share_layers, share_pos: Table 2. Unshared layers are a second stack; unshared positions
                a second table for the instances, still selected by class.
            inject: "query": generated vectors are queries, class embeddings their positions.
                "pos": class contents are queries, generated vectors their positions (Table 3).
            logit_head: "linear_affine", or "relu_affine" with a ReLU before the class-wise affine.
            deep_supervision: logits of every layer, or of the last only.
            position_std: spread of the class position embeddings at the start. They are added in
                every layer and are equal for the instances of a class, whose own differences they
                drown where they are as large as the queries (about 1).
            residual_init: see :class:`fdd.modeling.layers.MaskLayer`.
            location_prior: added to the instance logits of every layer; None: none.

        Raises:
            ValueError: neither branch is to run.
        """
        super().__init__()
        if not (run_instances or run_semantic):
            raise ValueError("neither pseudo label branch nor semantic branch is to run")
        self.num_classes, self.inject, self.logit_head = num_classes, inject, logit_head
        both = run_instances and run_semantic
        self.run_instances, self.run_semantic = run_instances, run_semantic
        self.share_layers = share_layers and both
        if run_semantic or inject == "pos":
            self.semantic_query = nn.Embedding(num_classes, dim)
        if run_semantic or inject == "query":
            self.position = nn.Embedding(num_classes, dim)
        own_pos = inject == "query" and both and not share_pos
        self.instance_position = nn.Embedding(num_classes, dim) if own_pos else None
        for table in (getattr(self, "position", None), self.instance_position):
            if table is not None:
                nn.init.normal_(table.weight, std=position_std)

        def stack() -> MaskStack:
            return MaskStack(
                dim=dim,
                num_heads=num_heads,
                ffn_dim=ffn_dim,
                num_layers=num_layers,
                self_attention=True,
                predict_all=deep_supervision,
                residual_init=residual_init,
                use_checkpoint=use_checkpoint,
            )

        self.stack, self.affine = stack(), ClassAffine(num_classes)
        separate = both and not share_layers
        self.semantic_stack = stack() if separate else None
        self.semantic_affine = ClassAffine(num_classes) if separate else self.affine
        self.location_prior = location_prior if run_instances else None

    @classmethod
    def from_config(cls, cfg: CfgNode, run_instances: bool) -> dict[str, Any]:
        fdd = cfg.MODEL.FDD
        prior = None
        # Without things there is nothing that has a place.
        if run_instances and fdd.LOCATION_PRIOR.ENABLED and fdd.NUM_THINGS > 0:
            extent_start = fdd.LOCATION_PRIOR.EXTENT_START
            prior = LocationPrior(
                num_things=fdd.NUM_THINGS,
                start=fdd.LOCATION_PRIOR.START,
                extent_start=extent_start if fdd.LOCATION_PRIOR.EXTENT else None,
                use_sizes=fdd.LOCATION_PRIOR.SIZES,
            )
        return {
            "dim": fdd.HIDDEN_DIM,
            "num_classes": fdd.NUM_THINGS + fdd.NUM_STUFF,
            "num_heads": fdd.NUM_HEADS,
            "ffn_dim": fdd.PSEUDO.FFN_DIM,
            "num_layers": fdd.PSEUDO.NUM_LAYERS,
            "run_instances": run_instances,
            "run_semantic": fdd.LAMBDA_SEM > 0,
            "share_layers": fdd.SHARE_LAYERS,
            "share_pos": fdd.SHARE_POS,
            "inject": fdd.INJECT,
            "logit_head": fdd.PSEUDO.LOGIT_HEAD,
            "deep_supervision": fdd.PSEUDO.DEEP_SUPERVISION,
            "position_std": fdd.PSEUDO.POSITION_STD,
            "residual_init": fdd.PSEUDO.RESIDUAL_INIT,
            "location_prior": prior,
            "use_checkpoint": fdd.CHECKPOINT,
        }

    def instance_queries(self, generated: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Content and position of the instance queries, both (B, N, D)."""
        index = classes.clamp(min=0)
        if self.inject == "pos":
            return self.semantic_query(index), generated
        table = self.position if self.instance_position is None else self.instance_position
        return generated, table(index)

    def forward(
        self,
        generated: Tensor | None,
        classes: Tensor,
        memory: Memory,
        last_only: bool = False,
        places: Places | None = None,
    ) -> BranchOutput:
        """
        Args:
            generated: Q^g, (B, N, D); None where no pseudo label branch runs.
            classes: Y, (B, N) int64, -1 where padded.
            memory: tokens of the levels that masks are made of.
            last_only: last layer's logits only.
            places: of the location prior; only read where there is one.
        """
        batch, most = classes.shape
        if generated is None:
            return self.semantics_alone(batch, memory, last_only)
        if not self.run_semantic:
            return self.instances_alone(generated, classes, memory, last_only, places)
        query, pos = self.instance_queries(generated, classes)
        real = classes >= 0
        prior, extents = self._location_logits(places, classes)
        sem_query = self.semantic_query.weight.expand(batch, -1, -1)
        sem_pos = self.position.weight.expand(batch, -1, -1)
        if self.semantic_stack is None:
            query, pos = torch.cat([query, sem_query], 1), torch.cat([pos, sem_pos], 1)
            allowed = _allowed(real, self.num_classes)
            masks, _ = self.stack(query, pos, memory, allowed, last_only)
            instance, semantic = [m[:, :most] for m in masks], [m[:, most:] for m in masks]
        else:
            instance, _ = self.stack(query, pos, memory, _allowed(real, 0), last_only)
            semantic, _ = self.semantic_stack(sem_query, sem_pos, memory, None, last_only)
        every = torch.arange(self.num_classes, device=classes.device).expand(batch, -1)
        semantic = [self.semantic_affine(self._head(m), every) for m in semantic]
        instance = [self._instance_logits(m, classes, prior) for m in instance]
        alone = self._prior_alone(prior, classes)
        return BranchOutput(instance, semantic, prior=alone, extents=extents)

    def instances_alone(
        self,
        generated: Tensor,
        classes: Tensor,
        memory: Memory,
        last_only: bool = False,
        places: Places | None = None,
        projected: list[list[Tensor]] | None = None,
    ) -> BranchOutput:
        """The same without semantics, which the instances do not see.

        Args:
            generated, classes, memory, last_only, places: of :meth:`forward`.
            projected: of the stack's :meth:`~fdd.modeling.layers.MaskStack.project`, where it is
                known already.
        """
        query, pos = self.instance_queries(generated, classes)
        prior, extents = self._location_logits(places, classes)
        allowed = _allowed(classes >= 0, 0)
        masks, _ = self.stack(query, pos, memory, allowed, last_only, projected=projected)
        logits = [self._instance_logits(m, classes, prior) for m in masks]
        return BranchOutput(logits, [], prior=self._prior_alone(prior, classes), extents=extents)

    def _location_logits(
        self, places: Places | None, classes: Tensor
    ) -> tuple[Tensor | None, ExtentPrior | None]:
        if self.location_prior is None:
            return None, None
        assert places is not None
        prior, extents = self.location_prior(places, classes)
        return prior, extents

    def semantics_alone(self, batch: int, memory: Memory, last_only: bool = False) -> BranchOutput:
        """:meth:`forward` without instances, which the semantics do not see; empty where the
        semantic branch does not run.

        Args:
            batch: images. memory, last_only: of :meth:`forward`.
        """
        if not self.run_semantic:
            return BranchOutput([], [])
        stack = self.stack if self.semantic_stack is None else self.semantic_stack
        query = self.semantic_query.weight.expand(batch, -1, -1)
        pos = self.position.weight.expand(batch, -1, -1)
        masks, _ = stack(query, pos, memory, None, last_only)
        every = torch.arange(self.num_classes, device=query.device).expand(batch, -1)
        return BranchOutput([], [self.semantic_affine(self._head(m), every) for m in masks])

    def _prior_alone(self, prior: Tensor | None, classes: Tensor) -> Tensor | None:
        if prior is None:
            return None
        bias = self.affine.bias[classes.clamp(min=0)]
        return (prior + bias[..., None, None]).detach()

    def _head(self, mask: Tensor) -> Tensor:
        return mask.relu() if self.logit_head == "relu_affine" else mask

    def _instance_logits(self, mask: Tensor, classes: Tensor, prior: Tensor | None) -> Tensor:
        logits = self.affine(self._head(mask), classes.clamp(min=0))
        if prior is not None:
            logits = logits + prior
        real = classes >= 0
        padded = ~real & real.any(1, keepdim=True)
        return logits.masked_fill(padded[:, :, None, None], PADDED)


class ClassAffine(nn.Module):
    """One scale and bias a class, as in PSPS's semantic head; starts as the identity."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_classes))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, mask: Tensor, classes: Tensor) -> Tensor:
        """(B, N, h, w) maps and (B, N) classes -> (B, N, h, w)."""
        return mask * self.scale[classes][..., None, None] + self.bias[classes][..., None, None]


def _allowed(real: Tensor, num_semantic: int) -> Tensor:
    """Who may look at whom, bool (B, N + C, N + C): real instances among themselves, classes among
    themselves, and everybody at itself, so that a padded query has a row too."""
    batch, most = real.shape
    total = most + num_semantic
    allowed = torch.eye(total, dtype=torch.bool, device=real.device).repeat(batch, 1, 1)
    allowed[:, :most, :most] |= real[:, None] & real[:, :, None]
    allowed[:, most:, most:] = True
    return allowed
