"""FDD as a Detectron2 meta-architecture: the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.structures import ImageList
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from fdd.modeling.backbone import name_strides_alike
from fdd.modeling.device import no_autocast, upload
from fdd.modeling.distance_embedding import (
    DistanceEmbedding,
    EmbeddingCriterion,
    count_contrasted_images,
)
from fdd.modeling.encoder import DeformableEncoder
from fdd.modeling.extents import drop_outside, measure_record
from fdd.modeling.label_branch import (
    BranchOutput,
    LabelCriterion,
    Places,
    PseudoLabelBranch,
    QueryGenerator,
)
from fdd.modeling.label_makers import get_label_maker
from fdd.modeling.label_maps import POINT_STRIDE
from fdd.modeling.layers import Memory, check_backend, use_backend
from fdd.modeling.panoptic_branch import (
    PanopticBranch,
    PanopticCriterion,
    PanopticTargets,
    PointBoxes,
    build_point_targets,
    build_targets,
    merge_masks,
)
from fdd.modeling.pseudo_labels.click_residual import click_features
from fdd.modeling.pseudo_labels.diagnostics import LabelDiagnostics
from fdd.modeling.pseudo_labels.estimation import (
    LabelSettings,
    dense_labels,
    estimate_image,
    final_labels,
    with_residual,
)
from fdd.modeling.pseudo_labels.leave_one_out import hide_points
from fdd.modeling.pseudo_labels.quality import image_quality
from fdd.modeling.pseudo_labels.shares import with_shares
from fdd.modeling.structures import (
    NORMALIZERS,
    PointBatch,
    ReadyMemory,
    StepContext,
    batch_points,
    count_normalizers,
)
from fdd.modeling.thing_sizes import ThingSizes

# Of more training images than this, sizes of things are measured in some.
_MOST_MEASURED = 5000


@META_ARCH_REGISTRY.register()
class FDD(nn.Module):
    """Fully data-driven pseudo labels from points, and the panoptic head that learns from them.

    Backbone and encoder make feature tokens. In training the query generator turns points into
    queries, the pseudo label branch turns these into a dense label, and the panoptic branch learns
    from the label. At test time only backbone, encoder and panoptic branch run.
    """

    #: Weights that an inference checkpoint may lack.
    training_only_prefixes = ("query_generator.", "label_branch.", "distance_embedding.")
    #: Of these, what labels can be estimated without, though the checkpoint has it.
    baseline_prefixes = ("distance_embedding.",)

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        encoder: DeformableEncoder,
        query_generator: QueryGenerator | None,
        label_branch: PseudoLabelBranch | None,
        distance_embedding: DistanceEmbedding | None = None,
        panoptic_branch: PanopticBranch,
        label_criterion: LabelCriterion,
        embedding_criterion: EmbeddingCriterion,
        panoptic_criterion: PanopticCriterion,
        diagnostics: LabelDiagnostics,
        in_features: list[str],
        num_things: int,
        num_stuff: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        input_format: str,
        size_divisibility: int,
        warmup_iters: int,
        label_settings: LabelSettings,
        merge: dict[str, float],
        point_boxes: PointBoxes | None = None,
        prompt_subsets: float = 0.0,
        channels_last: bool = False,
        compile_static: bool = False,
        attention_backend: str = "auto",
    ):
        """
        Args:
            query_generator, label_branch: the training-only parts; None leaves them out (labels by
                a rule, full masks, or an inference checkpoint; the generator alone where only the
                semantic branch runs).
            distance_embedding: for label maker "distance".
            num_things, num_stuff: contiguous classes, things first.
            pixel_mean, pixel_std: per channel, in ``input_format`` order.
            input_format: "RGB" or "BGR".
            size_divisibility: images are padded to a multiple of it, at least the coarsest stride.
            warmup_iters: iterations until the losses on pseudo labels have their full weight.
            merge: thresholds of :func:`fdd.modeling.panoptic_branch.postprocess.merge_masks`.
            point_boxes: how boxes are made where the panoptic branch learns from points alone;
                None: it learns from dense labels.
            prompt_subsets: share of the training images whose queries are made of a random subset
                of their points; the losses see all of them.
            channels_last: memory format of the backbone's input.
            compile_static: compile backbone and encoder layers (``torch.compile``, when they first
                run); names of the weights stay as they are.
            attention_backend: of deformable attention, one of
                :func:`fdd.modeling.layers.deform_attn.attention_backend_names`.
        """
        super().__init__()
        self.backbone, self.encoder = backbone, encoder
        self.query_generator, self.label_branch = query_generator, label_branch
        self.distance_embedding, self.panoptic_branch = distance_embedding, panoptic_branch
        self.in_features, self.num_things, self.num_stuff = in_features, num_things, num_stuff
        self.input_format, self.size_divisibility = input_format, size_divisibility
        self.warmup_iters, self.label_settings = warmup_iters, label_settings
        self.merge, self.point_boxes, self.prompt_subsets = merge, point_boxes, prompt_subsets
        self.label_criterion, self.panoptic_criterion = label_criterion, panoptic_criterion
        self.embedding_criterion, self.diagnostics = embedding_criterion, diagnostics
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            name_strides_alike(self.backbone)
        use_backend(self, attention_backend)
        if compile_static:
            for module in (self.backbone, *self.encoder.layers):
                module.compile()
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        fdd, test = cfg.MODEL.FDD, cfg.MODEL.FDD.PAN.TEST
        check_backend(fdd.ATTENTION_BACKEND, cfg.MODEL.DEVICE)
        label_settings = LabelSettings.from_config(cfg)
        needs = get_label_maker(label_settings.maker).needs
        warmup = fdd.WARMUP_ITERS
        warmup = int(0.05 * cfg.SOLVER.MAX_ITER) if warmup < 0 else warmup
        # The order decides the random numbers of each part: it is the same for all label makers.
        backbone = build_backbone(cfg)
        query_generator = label_branch = None
        if needs & {"instance", "semantic"}:
            query_generator = QueryGenerator(cfg)
            label_branch = PseudoLabelBranch(cfg, "instance" in needs)
        return {
            "backbone": backbone,
            "encoder": DeformableEncoder(cfg, backbone.output_shape()),
            "query_generator": query_generator if "instance" in needs else None,
            "label_branch": label_branch,
            "panoptic_branch": PanopticBranch(cfg),
            "distance_embedding": DistanceEmbedding.build(cfg),
            "label_criterion": LabelCriterion(cfg),
            "embedding_criterion": EmbeddingCriterion(cfg),
            "panoptic_criterion": PanopticCriterion(cfg),
            "diagnostics": LabelDiagnostics(
                fdd.NUM_THINGS,
                label_settings,
                warmup,
                fdd.PSEUDO.COLOR_WEIGHT,
                # Half of the run: labels that are still being learned are expected to be worse.
                compare_from=cfg.SOLVER.MAX_ITER // 2,
            ),
            "in_features": list(fdd.IN_FEATURES),
            "num_things": fdd.NUM_THINGS,
            "num_stuff": fdd.NUM_STUFF,
            "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": list(cfg.MODEL.PIXEL_STD),
            "input_format": cfg.INPUT.FORMAT,
            "size_divisibility": fdd.SIZE_DIVISIBILITY,
            "warmup_iters": warmup,
            "label_settings": label_settings,
            "merge": {
                "score_threshold": test.SCORE_THRESH,
                "mask_threshold": test.MASK_THRESH,
                "thing_overlap": test.THING_OVERLAP,
                "stuff_overlap": test.STUFF_OVERLAP,
            },
            "point_boxes": PointBoxes.from_config(cfg) if fdd.PAN_SUPERVISION == "point" else None,
            "prompt_subsets": fdd.PSEUDO.PROMPT_SUBSETS,
            "channels_last": fdd.CHANNELS_LAST,
            "compile_static": fdd.COMPILE,
            "attention_backend": fdd.ATTENTION_BACKEND,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def labels_need_encoding(self) -> bool:
        """Whether a label maker needs outputs of the network."""
        return self.label_branch is not None or self.label_settings.looks_at("features")

    def count_normalizers(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """This batch's share of the losses' normalisers, (6,) float32 on the CPU; (7,) with an
        embedding head.

        Sum it over accumulated batches and processes and give it to :meth:`forward`.
        """
        counts = count_normalizers(self._supervised(batched_inputs), self.num_things)
        if self.distance_embedding is None:
            return counts
        more = count_contrasted_images(batched_inputs, self.num_things, self.num_stuff)
        return torch.cat([counts, more])

    def forward(
        self, batched_inputs: list[dict[str, Any]], normalizers: Tensor | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """
        Args:
            batched_inputs: outputs of :class:`fdd.data.FDDDatasetMapper`; at test time ``image``
                (uint8 or float (3, H, W) in ``input_format``, [0, 255]), ``height`` and ``width``
                (original size) are enough.
            normalizers: global counts (see :meth:`count_normalizers`), of all processes and
                accumulated batches; summed over the processes here if not given.

        Returns:
            In training, weighted scalar losses by name. Else a dict an image with ``panoptic_seg``:
            an int32 (height, width) map of segment ids, 0 for void, and its ``segments_info``
            (``id``, contiguous ``category_id``, ``isthing``, ``score``, ``area``).
        """
        images = self.preprocess(batched_inputs)
        memory = self.encode(images)
        if self.training:
            return self.losses(batched_inputs, images, memory, normalizers)
        return self.predict(batched_inputs, images, memory)

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalised images, padded to one size."""
        images = [upload(x["image"], self.device).float() for x in batched_inputs]
        for x, image in zip(batched_inputs, images, strict=True):
            if image.dim() != 3 or image.shape[0] != len(self.pixel_mean):
                raise ValueError(
                    f"image {x.get('image_id')!r} ({x.get('file_name')}) has shape "
                    f"{tuple(image.shape)}; expected ({len(self.pixel_mean)}, H, W)"
                )
        normal = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(normal, self.size_divisibility)

    def small_rgb(self, images: ImageList, grid: tuple[int, int]) -> Tensor:
        """The images on a coarse grid, (B, 3, h, w) RGB in [0, 255], for the colour prior."""
        small = F.interpolate(images.tensor, size=grid, mode="bilinear", align_corners=False)
        small = small * self.pixel_std + self.pixel_mean
        return small if self.input_format == "RGB" else small.flip(1)

    def encode(self, images: ImageList) -> Memory:
        """F^e, the encoder's tokens of all levels."""
        maps = self.backbone_maps(images)
        memory = self.encoder(list(maps), images.image_sizes)
        if not self.label_settings.looks_at("features"):
            return memory
        return replace(memory, features=tuple(m.detach() for m in maps))

    def backbone_maps(self, images: ImageList) -> tuple[Tensor, ...]:
        """The backbone's maps, (B, C_i, h_i, w_i) each, of the levels that the encoder takes."""
        features = self.backbone(images.tensor.contiguous(memory_format=self.memory_format))
        return tuple(features[f] for f in self.in_features)

    def estimate(
        self, memory: Memory, points: PointBatch, last_only: bool = False
    ) -> BranchOutput | None:
        """Outputs of the active label branches, and the backbone's maps if a label maker uses them;
        None where only rules make labels."""
        if self.label_branch is None:
            return BranchOutput([], [], features=memory.features) if memory.features else None
        queries = None if self.query_generator is None else self.query_generator(memory, points)
        places = self._places(memory, points)
        output = self.label_branch(queries, points.classes, memory.finest(3), last_only, places)
        embedding = None if self.distance_embedding is None else self.distance_embedding(memory)
        return replace(output, embedding=embedding, features=memory.features)

    def estimate_final(self, memory: Memory, points: PointBatch) -> BranchOutput | None:
        """The last layer's outputs, by shares of the area where that is set: as labels outside of
        the joint training have them, but for the residual of the clicks."""
        output = self.estimate(memory, points, last_only=True)
        return None if output is None else self._with_shares(output, memory, points)

    def _places(self, memory: Memory, points: PointBatch) -> Places | None:
        prior = None if self.label_branch is None else self.label_branch.location_prior
        if prior is None:
            return None
        return prior.places(points, self.num_things, memory.split(memory.valid)[0])

    def _with_shares(
        self, output: BranchOutput, memory: Memory, points: PointBatch
    ) -> BranchOutput:
        if not self.label_settings.shares:
            return output
        return with_shares(output, points, memory.split(memory.valid)[0], self.num_things)

    def estimate_obeying(
        self, memory: Memory, points: PointBatch, image_sizes: list[tuple[int, int]]
    ) -> BranchOutput | None:
        """:meth:`estimate_final` with the residual of the clicks if the labels have it: what labels
        are made of outside of training."""
        output = self.estimate_final(memory, points)
        return with_residual(output, memory, points, image_sizes, self.label_settings)

    @torch.no_grad()
    def estimate_without_points(self, images: ImageList, sources: Collection[str]) -> BranchOutput:
        """What label makers look at that does not depend on points, as :meth:`estimate_final` has
        it; no instance is estimated.

        Args:
            images: of :meth:`preprocess`.
            sources: names of ``label_makers.SOURCES``; of these "semantic", "embedding" and
                "features" are in the output, as far as the model has them.
        """
        maps = self.backbone_maps(images)
        output, embedding = BranchOutput([], []), None
        if {"semantic", "embedding"} & {*sources}:
            memory = self.encoder(list(maps), images.image_sizes)
            if "semantic" in sources and self.label_branch is not None:
                finest = memory.finest(3)
                output = self.label_branch.semantics_alone(len(images), finest, last_only=True)
            if "embedding" in sources and self.distance_embedding is not None:
                embedding = self.distance_embedding(memory)
        features = maps if "features" in sources else ()
        return replace(output, embedding=embedding, features=features)

    @torch.no_grad()
    def make_ready(self, memory: Memory, image_sizes: list[tuple[int, int]]) -> ReadyMemory:
        """What :meth:`estimate_ready` needs of images whatever their points; so that a label can
        follow its clicks.

        Raises:
            ValueError: no pseudo label branch runs.
        """
        if self.query_generator is None or self.label_branch is None:
            raise ValueError(
                "the model has no pseudo label branch: its labels are made by "
                f"{self.label_settings.maker!r}"
            )
        clicks, finest = self.label_settings.clicks, memory.finest(3)
        return ReadyMemory(
            memory=finest,
            image_sizes=image_sizes,
            feature=self.query_generator.project(memory),
            projected=self.label_branch.stack.project(finest.tokens),
            looks=None if clicks is None else click_features(memory, image_sizes, clicks),
        )

    @torch.no_grad()
    def estimate_ready(self, ready: ReadyMemory, points: PointBatch) -> BranchOutput:
        """:meth:`estimate_obeying` of the instances alone, without what is known of the images."""
        assert self.query_generator is not None and self.label_branch is not None
        memory, settings = ready.memory, self.label_settings
        output = self.label_branch.instances_alone(
            self.query_generator(memory, points, ready.feature),
            points.classes,
            memory,
            last_only=True,
            places=self._places(memory, points),
            projected=ready.projected,
        )
        output = self._with_shares(output, memory, points)
        sizes, looks = ready.image_sizes, ready.looks
        obeying = with_residual(output, memory, points, sizes, settings, looks)
        assert obeying is not None
        return obeying

    def losses(
        self,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
        memory: Memory,
        normalizers: Tensor | None,
    ) -> dict[str, Tensor]:
        """All training losses of a batch; see :meth:`forward`."""
        step = self.step_context(batched_inputs, images, memory, normalizers)
        output = self.estimate(memory, self._prompts(batched_inputs, step))
        with no_autocast(self.device), torch.no_grad():
            sizes, settings = step.image_sizes, self.label_settings
            output = with_residual(output, memory, step.points, sizes, settings)
            targets, labels = self._panoptic_targets(output, step)
        losses = self.label_criterion(output, step)
        losses |= self.embedding_criterion(output, labels, step)
        losses |= self.panoptic_criterion(self.panoptic_branch, memory, targets, step)
        fewer = partial(self.estimate, memory, last_only=True)
        self.diagnostics.log(batched_inputs, output, step.points, targets.is_thing, images, fewer)
        # DDP averages gradients over the processes; the counts are global: this must be a sum.
        return {name: comm.get_world_size() * loss for name, loss in losses.items()}

    @torch.no_grad()
    def panoptic_example(
        self, batched_inputs: list[dict[str, Any]], *, refine: bool = True
    ) -> tuple[Memory, PanopticTargets, StepContext]:
        """What the panoptic branch learns a batch from, without gradient: tokens, targets of the
        labels as they are estimated now, refined where labels are and ``refine`` is true, and the
        losses' common data, whose counts are this batch's alone. Needs an event storage."""
        images = self.preprocess(batched_inputs)
        memory = self.encode(images)
        own_counts = self.count_normalizers(batched_inputs)
        step = self.step_context(batched_inputs, images, memory, own_counts)
        output = self.estimate_obeying(memory, step.points, step.image_sizes)
        with no_autocast(self.device):
            refined = batched_inputs if refine else None
            targets, _ = self._panoptic_targets(output, step, refined=refined)
        return memory, targets, step

    def step_context(
        self,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
        memory: Memory,
        normalizers: Tensor | None,
    ) -> StepContext:
        """What the losses of this step share."""
        padded = tuple(images.tensor.shape[-2:])
        iteration = get_event_storage().iter
        # From the trainer's iteration, so that a resumed run continues where it was.
        warmup = min(iteration / self.warmup_iters, 1.0) if self.warmup_iters > 0 else 1.0
        with no_autocast(self.device):
            rgb = self.small_rgb(images, memory.shapes[0])
        return StepContext(
            points=batch_points(self._supervised(batched_inputs), padded, self.device),
            image_sizes=images.image_sizes,
            padded_size=padded,
            rgb=rgb,
            counts=self._global_counts(batched_inputs, normalizers),
            iteration=iteration,
            warmup=warmup,
        )

    def measure_sizes(self, dicts: Sequence[dict[str, Any]]) -> None:
        """Learn how large things of each class are by their points, before a training.

        Args:
            dicts: Detectron2 dataset dicts with ``points`` (see :mod:`fdd.data.loading`), of the
                training images; of more than a few thousand, some are looked at.
        """
        prior = None if self.label_branch is None else self.label_branch.location_prior
        if prior is not None:
            step = max(1, -(-len(dicts) // _MOST_MEASURED))
            measured = [measure_record(record, self.num_things) for record in dicts[::step]]
            prior.set_sizes(ThingSizes.of(measured, self.num_things))

    def _supervised(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The inputs with the cells that the losses are to see."""
        prior = None if self.label_branch is None else self.label_branch.location_prior
        if prior is None or prior.extent_slope is None or self.point_boxes is not None:
            return batched_inputs
        return [drop_outside(x, self.num_things) for x in batched_inputs]

    def _prompts(self, batched_inputs: list[dict[str, Any]], step: StepContext) -> PointBatch:
        """The points that the queries are made of: all, or here and there a random subset."""
        if self.query_generator is None or self.prompt_subsets == 0:
            return step.points
        fewer = hide_points(batched_inputs, self.prompt_subsets, self.label_settings)
        return batch_points(fewer, step.padded_size, self.device)

    def _panoptic_targets(
        self,
        output: BranchOutput | None,
        step: StepContext,
        refined: list[dict[str, Any]] | None = None,
    ) -> tuple[PanopticTargets, Tensor | None]:
        """What the panoptic branch learns from: dense labels (also given back), or points alone
        (Table 8). With the step's inputs as ``refined``, the labels are as good as they get."""
        points, sizes, settings = step.points, step.image_sizes, self.label_settings
        num_classes = {"num_things": self.num_things, "num_stuff": self.num_stuff}
        if self.point_boxes is not None:
            return build_point_targets(points, sizes, self.point_boxes, **num_classes), None
        if refined is None:
            labels, known = dense_labels(output, points, sizes, step.padded_size, settings)
        else:
            labels, known = final_labels(output, refined, points, sizes, step.padded_size, settings)
        classes, hosts = points.classes, points.host_classes
        targets = build_targets(
            labels,
            known,
            classes,
            hosts,
            sizes,
            stride=settings.stride,
            void=points.void_at(POINT_STRIDE),
            **num_classes,
        )
        return targets, labels

    def predict(
        self, batched_inputs: list[dict[str, Any]], images: ImageList, memory: Memory
    ) -> list[dict[str, Any]]:
        """Mask-wise merging of the panoptic branch's candidates, at the original sizes."""
        candidates = self.panoptic_branch.predict(memory)
        results = []
        for i, (x, size) in enumerate(zip(batched_inputs, images.image_sizes, strict=True)):
            merged = merge_masks(
                candidates.thing_masks[i].float(),
                candidates.thing_scores[i].float(),
                candidates.thing_classes[i],
                candidates.stuff_masks[i].float(),
                candidates.stuff_scores[i].float(),
                image_size=tuple(size),
                padded_size=tuple(images.tensor.shape[-2:]),
                output_size=(x.get("height", size[0]), x.get("width", size[1])),
                num_things=self.num_things,
                **self.merge,
            )
            results.append({"panoptic_seg": merged})
        return results

    @torch.no_grad()
    def estimate_labels(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Dense labels of images with points, at their original sizes, beside rule-based ones.

        Returns:
            One dict an image, tensors on the CPU: ``pseudo_labels`` (maker name -> int32
            (height, width) instance index, -1 none; what the network has a part in obeys its points
            as the configuration says and, as "learned_free" or "distance_free", does not),
            ``confidence`` float32 and ``semantic`` int32, (height, width) each, where the branches
            run, ``classes`` (N,) and ``instance_ids``.
        """
        images = self.preprocess(batched_inputs)
        points = batch_points(batched_inputs, tuple(images.tensor.shape[-2:]), self.device)
        output = None
        if self.labels_need_encoding:
            output = self.estimate_obeying(self.encode(images), points, images.image_sizes)
        return [
            estimate_image(x, i, output, tuple(size), self.label_settings)
            for i, (x, size) in enumerate(zip(batched_inputs, images.image_sizes, strict=True))
        ]

    @torch.no_grad()
    def label_quality(
        self, batched_inputs: list[dict[str, Any]], max_rounds: int = 10
    ) -> list[dict[str, Any]]:
        """Quality of the labels of images with points, measured without masks.

        Returns:
            One dict an image; see :func:`fdd.modeling.pseudo_labels.quality.image_quality`.
        """
        images = self.preprocess(batched_inputs)
        memory = self.encode(images) if self.labels_need_encoding else None
        return [
            image_quality(
                x,
                i,
                images,
                memory,
                self.estimate,
                self.label_settings,
                self.num_things,
                max_rounds,
            )
            for i, x in enumerate(batched_inputs)
        ]

    def _global_counts(
        self, batched_inputs: list[dict[str, Any]], normalizers: Tensor | None
    ) -> dict[str, Tensor]:
        """Normalisers by name, of all processes and accumulated batches."""
        if normalizers is None:
            normalizers = upload(self.count_normalizers(batched_inputs), self.device)
            if comm.get_world_size() > 1:
                torch.distributed.all_reduce(normalizers)
        names = NORMALIZERS + ("contrasted_images",) * (self.distance_embedding is not None)
        return dict(zip(names, upload(normalizers, self.device).unbind(0), strict=True))
