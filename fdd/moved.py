"""Old import paths: a module that moved is still found, with a warning that names its new place."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "install"]

#: Where what a module held is now: one module, or several where it was divided.
MOVED: dict[str, tuple[str, ...]] = {
    "fdd.ablations.figure": ("fdd.ablations.report",),
    "fdd.ablations.pretrain": ("fdd.ablations.execute",),
    "fdd.ablations.study_execute": ("fdd.ablations.execute",),
    "fdd.ablations.study_report": ("fdd.ablations.report",),
    "fdd.data.example_drawing": ("fdd.data.example",),
    "fdd.data.transport": ("fdd.data.packed_batch",),
    "fdd.engine.audit_runs": ("fdd.audit.supervision",),
    "fdd.doctor.examination": ("fdd.doctor.report", "fdd.doctor.probes"),
    "fdd.doctor.machine": ("fdd.doctor.probes",),
    "fdd.doctor.trials": ("fdd.doctor.probes",),
    "fdd.engine.export": ("fdd.inference.checkpoint_export",),
    "fdd.engine.file_trace": ("fdd.audit.file_trace",),
    "fdd.engine.label_export": ("fdd.inference.label_export",),
    "fdd.engine.label_options": ("fdd.inference.label_export",),
    "fdd.engine.label_report": ("fdd.inference.report", "fdd.inference.report_source"),
    "fdd.engine.label_report_text": ("fdd.inference.report_text", "fdd.inference.report_source"),
    "fdd.engine.label_sources": ("fdd.inference.label_export",),
    "fdd.engine.label_views": ("fdd.inference.label_export",),
    "fdd.engine.prediction_inputs": ("fdd.inference.prediction",),
    "fdd.engine.prediction_run": ("fdd.inference.prediction",),
    "fdd.engine.predictor": ("fdd.inference.predictor",),
    "fdd.engine.recipe": ("fdd.recipe.recipe",),
    "fdd.engine.recipe_file": ("fdd.recipe.recipe",),
    "fdd.engine.recipe_sizes": ("fdd.recipe.image_size",),
    "fdd.engine.run_lock": ("fdd.engine.run_folder",),
    "fdd.engine.sampler": ("fdd.engine.loader",),
    "fdd.engine.schedule": ("fdd.engine.optimizer",),
    "fdd.engine.step_report": ("fdd.engine.step",),
    "fdd.engine.supervision_audit": ("fdd.audit.supervision",),
    "fdd.engine.traced": ("fdd.inference.program_export",),
    "fdd.engine.trained": ("fdd.inference.trained_model", "fdd.engine.run_folder"),
    "fdd.engine.training_end": ("fdd.engine.command",),
    "fdd.engine.training_time": ("fdd.recipe.training_time", "fdd.points.wording"),
    "fdd.engine.true_masks": ("fdd.engine.evaluate",),
    "fdd.engine.video": ("fdd.inference.video",),
    "fdd.evaluation.counting": ("fdd.points.pixel_counts",),
    "fdd.evaluation.label_quality_evaluation": ("fdd.evaluation.label_quality",),
    "fdd.evaluation.label_quality_totals": ("fdd.evaluation.label_quality",),
    "fdd.evaluation.maps": ("fdd.evaluation.panoptic_quality",),
    "fdd.evaluation.panoptic_evaluation": ("fdd.evaluation.panoptic",),
    "fdd.evaluation.prediction_files": ("fdd.evaluation.panoptic",),
    "fdd.evaluation.pseudo_label_evaluation": ("fdd.evaluation.label_panoptic",),
    "fdd.evaluation.quality": ("fdd.evaluation.panoptic_quality",),
    "fdd.evaluation.workers": ("fdd.evaluation.mask_evaluator",),
    "fdd.labels": ("fdd.export_formats",),
    "fdd.labels.folder": ("fdd.export_formats.folder",),
    "fdd.labels.formats": ("fdd.export_formats.formats",),
    "fdd.labels.panoptic_writer": ("fdd.export_formats.panoptic", "fdd.points.files"),
    "fdd.labels.polygons": ("fdd.export_formats.polygons",),
    "fdd.labels.segments": ("fdd.export_formats.panoptic",),
    "fdd.modeling.build": ("fdd.modeling.meta_arch",),
    "fdd.modeling.click_residual": ("fdd.modeling.pseudo_labels.click_residual",),
    "fdd.modeling.label_averaging": ("fdd.modeling.pseudo_labels.averaging",),
    "fdd.modeling.label_diagnostics": ("fdd.modeling.pseudo_labels.diagnostics",),
    "fdd.modeling.label_estimation": ("fdd.modeling.pseudo_labels.estimation",),
    "fdd.modeling.label_quality": ("fdd.modeling.pseudo_labels.quality",),
    "fdd.modeling.label_makers.distance_graph": ("fdd.modeling.label_makers.distance",),
    "fdd.modeling.label_makers.evidence": ("fdd.modeling.label_makers.inputs",),
    "fdd.modeling.label_makers.full": ("fdd.modeling.label_makers.rules",),
    "fdd.modeling.label_makers.nearest": ("fdd.modeling.label_makers.rules",),
    "fdd.modeling.label_makers.point": ("fdd.modeling.label_makers.rules",),
    "fdd.modeling.label_makers.polygon": ("fdd.modeling.label_makers.rules",),
    "fdd.modeling.label_makers.requirements": ("fdd.modeling.label_makers.registry",),
    "fdd.modeling.label_makers.semantic_nearest": ("fdd.modeling.label_makers.rules",),
    "fdd.modeling.layers.deform_attn.arithmetic": ("fdd.modeling.layers.deform_attn.sparse",),
    "fdd.modeling.layers.deform_attn.bags": ("fdd.modeling.layers.deform_attn.sparse",),
    "fdd.modeling.layers.deform_attn.module": ("fdd.modeling.layers.deform_attn.attention",),
    "fdd.modeling.layers.deform_attn.op": ("fdd.modeling.layers.deform_attn.attention",),
    "fdd.modeling.layers.deform_attn.plain": ("fdd.modeling.layers.deform_attn.reference",),
    "fdd.modeling.layers.deform_attn.products": ("fdd.modeling.layers.deform_attn.sparse",),
    "fdd.modeling.layers.dropout": ("fdd.modeling.layers.transformer",),
    "fdd.modeling.layers.mask_head": ("fdd.modeling.layers.mask_stack",),
    "fdd.modeling.layers.mlp": ("fdd.modeling.layers.transformer",),
    "fdd.modeling.layers.position_encoding": ("fdd.modeling.layers.memory",),
    "fdd.modeling.layers.self_attention": ("fdd.modeling.layers.transformer",),
    "fdd.modeling.leave_one_out": ("fdd.modeling.pseudo_labels.leave_one_out",),
    "fdd.modeling.location_prior": ("fdd.modeling.label_branch.location_prior",),
    "fdd.modeling.losses.affinity": ("fdd.modeling.losses.color_prior",),
    "fdd.modeling.losses.class_agreement": ("fdd.modeling.losses.cross_entropy",),
    "fdd.modeling.losses.color_prior_kernels": ("fdd.modeling.losses.color_prior_triton",),
    "fdd.modeling.losses.color_prior_slices": ("fdd.modeling.losses.color_prior",),
    "fdd.modeling.losses.focal": ("fdd.modeling.losses.cross_entropy",),
    "fdd.modeling.losses.partial_ce": ("fdd.modeling.losses.cross_entropy",),
    "fdd.modeling.losses.point_masks": ("fdd.modeling.losses.cross_entropy",),
    "fdd.modeling.losses.self_training": ("fdd.modeling.losses.cross_entropy",),
    "fdd.modeling.matcher": ("fdd.modeling.panoptic_branch.matcher",),
    "fdd.modeling.panoptic_branch.point_targets": ("fdd.modeling.panoptic_branch.targets",),
    "fdd.modeling.postprocess": ("fdd.modeling.panoptic_branch.postprocess",),
    "fdd.modeling.prompts": ("fdd.modeling.pseudo_labels.leave_one_out",),
    "fdd.modeling.pseudo_label_branch": ("fdd.modeling.label_branch.branch",),
    "fdd.modeling.pseudo_label_losses": ("fdd.modeling.label_branch.criterion",),
    "fdd.modeling.pseudo_labels.prompts": ("fdd.modeling.pseudo_labels.leave_one_out",),
    "fdd.modeling.query_generator": ("fdd.modeling.label_branch.query_generator",),
    "fdd.modeling.targets": ("fdd.modeling.label_maps",),
    "fdd.points.check_rules": ("fdd.points.rules",),
    "fdd.points.check_rules.cells": ("fdd.points.rules.grid",),
    "fdd.points.check_rules.check": ("fdd.points.rules.check",),
    "fdd.points.check_rules.images": ("fdd.points.rules.images",),
    "fdd.points.check_rules.labels": (
        "fdd.points.format",
        "fdd.points.rules",
        "fdd.points.validation",
    ),
    "fdd.points.check_rules.listing": ("fdd.points.rules.listing",),
    "fdd.points.check_rules.masks": ("fdd.points.rules.masks",),
    "fdd.points.check_rules.mending": ("fdd.points.rules.fixes", "fdd.points.rules"),
    "fdd.points.check_rules.rules": ("fdd.points.findings",),
    "fdd.points.check_rules.sets": ("fdd.points.rules.class_lists",),
    "fdd.points.check_rules.suspicious": ("fdd.points.rules.suspicious",),
    "fdd.points.checks": ("fdd.points.validation", "fdd.points.structures"),
    "fdd.points.draws": ("fdd.points.sampling",),
    "fdd.points.image_header": ("fdd.points.image_files",),
    "fdd.points.importers.coco_keypoints": ("fdd.points.importers.coco",),
    "fdd.points.importers.coco_tables": ("fdd.points.importers.coco",),
    "fdd.points.importers.grouping": ("fdd.points.importers.assemble",),
    "fdd.points.importers.label_studio_images": ("fdd.points.importers.label_studio",),
    "fdd.points.importers.label_studio_regions": ("fdd.points.importers.label_studio",),
    "fdd.points.importers.labels": ("fdd.points.importers.class_names",),
    "fdd.points.importers.nothing": ("fdd.points.importers.pipeline",),
    "fdd.points.importers.parsing": ("fdd.points.parsing",),
    "fdd.points.importers.pointsup": ("fdd.points.importers.coco",),
    "fdd.points.importers.records": ("fdd.points.importers.registry",),
    "fdd.points.importers.run": ("fdd.points.importers.pipeline",),
    "fdd.points.importers.units": ("fdd.points.importers.pipeline",),
    "fdd.points.importers.xml_safe": ("fdd.points.importers.cvat",),
    "fdd.points.mask_pair_sampling": ("fdd.points.mask_pairs",),
    "fdd.points.panoptic": ("fdd.points.coco_panoptic",),
    "fdd.points.panoptic_document": ("fdd.points.coco_panoptic.document", "fdd.points.findings"),
    "fdd.points.panoptic_png": ("fdd.points.coco_panoptic.png",),
    "fdd.points.strict_json": ("fdd.points.parsing",),
    "fdd.profiling.autocast": ("fdd.profiling.meta_device",),
    "fdd.profiling.batch": ("fdd.profiling.step",),
    "fdd.profiling.report": ("fdd.profiling.cost",),
    "fdd.profiling.rules": ("fdd.profiling.operators",),
    "fdd.profiling.stand_ins": ("fdd.profiling.meta_device",),
    "fdd.visualization.confidence": ("fdd.visualization.draw",),
    "fdd.visualization.page": ("fdd.visualization.report",),
    "fdd.visualization.page.classes": ("fdd.visualization.report",),
    "fdd.visualization.page.parts": ("fdd.visualization.report",),
    "fdd.visualization.page.rows": ("fdd.visualization.report", "fdd.visualization.draw"),
    "fdd.visualization.page.script": ("fdd.visualization.report",),
    "fdd.visualization.page.style": ("fdd.visualization.report",),
}


#: What has another name there, by its old path.
RENAMED: dict[str, str] = {
    "fdd.modeling.label_makers.evidence.BatchEvidence": "BatchMakerInputs",
    "fdd.modeling.label_makers.evidence.Evidence": "MakerInputs",
    "fdd.modeling.layers.deform_attn.plain.plain": "embedding_bag_attention",
    "fdd.points.check_rules.labels.Labels": "PointFile",
    "fdd.points.check_rules.listing.list_mends": "list_fixes",
    "fdd.points.check_rules.mending.Mend": "Fix",
    "fdd.points.importers.coco_keypoints.read": "read_keypoints",
    "fdd.points.importers.coco_keypoints.recognizes": "has_keypoints",
    "fdd.points.importers.pointsup.read": "read_pointsup",
    "fdd.points.importers.pointsup.recognizes": "has_point_coords",
}


class _Moved(ModuleType):
    """Stands in for a module that moved: its names are looked up where they are now."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        name = RENAMED.get(f"{self.__name__}.{name}", name)
        for place in MOVED[self.__name__]:
            module = importlib.import_module(place)
            if hasattr(module, name):
                return getattr(module, name)
        places = " or ".join(MOVED[self.__name__])
        raise AttributeError(f"module {self.__name__!r} moved to {places}, which has no {name!r}")


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in MOVED:
            return None
        inside = any(name.startswith(f"{fullname}.") for name in MOVED)
        return ModuleSpec(fullname, self, is_package=inside)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _Moved(spec.name)
        # What Python says of a name that is not there: "cannot import name ... from ... (place)".
        module.__file__ = f"moved to {' and '.join(MOVED[spec.name])}"
        return module

    def exec_module(self, module: ModuleType) -> None:
        new = " and ".join(MOVED[module.__name__])
        text = f"{module.__name__} moved to {new}; import it from there"
        # The frames of an import do not count: the line is that of the user's import.
        warnings.warn(text, FutureWarning, stacklevel=2)


def install() -> None:
    """Let old import paths work, once a process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # First: a folder that an update left behind, empty but for caches, is a package to Python.
        sys.meta_path.insert(0, _Finder())
