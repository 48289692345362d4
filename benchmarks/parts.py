"""Rows of the parts whose inputs and peers have a module of their own.

Each function imports that module itself, so that a missing one costs its own rows only.
"""

from __future__ import annotations

from benchmarks.harness import Case, Row
from benchmarks.inputs import deviation


def color() -> list[Row]:
    """The colour prior with given affinity, and with LAB and affinity made inside."""
    from benchmarks import rows_color

    forms = {
        "given": (rows_color.ours, rows_color.unfold),
        "inside": (rows_color.ours_with_affinity, rows_color.unfold_with_affinity),
    }

    def setup(channels: int, form: str) -> Case:
        inputs = rows_color.make_inputs(channels, 128)
        ours, peer = forms[form]

        def check() -> float:
            return max(map(deviation, ours(inputs), peer(inputs)))

        cheap = {"cheap": lambda: rows_color.unfold_logsumexp(inputs)} if form == "given" else {}
        return Case(lambda: ours(inputs), lambda: peer(inputs), check, cheap)

    return [
        Row(
            name=f"color_prior/{channels}/128x128/{form}",
            what=f"colour prior, {channels} channels, affinity {form}; unfold, 24 neighbours "
            "(BoxInst, PSPS)",
            setup=lambda channels=channels, form=form: setup(channels, form),
            target=15,
            memory_target=30,
            tolerance=1e-4,
            seconds=6,
        )
        for channels in (20, 133)
        for form in forms
    ]


def data() -> list[Row]:
    """Images a second that one core maps, decoding included."""
    from benchmarks import rows_data

    count = 16

    def setup(size: str) -> Case:
        inputs = rows_data.make_inputs(size, count)
        return Case(
            lambda: rows_data.ours(inputs),
            lambda: rows_data.peer(inputs),
            lambda: rows_data.check(rows_data.make_inputs(size, count, flips=False)),
            {"detectron2": lambda: rows_data.detectron2_mapper(inputs)},
        )

    return [
        Row(
            name=f"mapper/{size.split()[0]}",
            what=f"dataset mapper, JPEG of {size} px, {segments} segments, one core; Mask2Former's "
            "form and Detectron2's own mapper",
            setup=lambda size=size: setup(size),
            target=wanted,
            tolerance=2,
            items=count,
            unit="images/s",
            seconds=6,
            memory=False,
        )
        for size, (_, _, segments, wanted) in rows_data.SIZES.items()
    ]


def evaluation() -> list[Row]:
    """PQ of 200 predictions in memory: what a user waits for, beside two tools that read files."""
    from benchmarks import rows_evaluation

    count = 200
    # Name, peer and target; panopticapi's command finds the predictions on disk already.
    peers = {
        "panopticapi": (rows_evaluation.panopticapi_command, 1.6),
        "COCOPanopticEvaluator": (rows_evaluation.detectron2_evaluator, 3.0),
    }

    def setup(name: str) -> Case:
        inputs = rows_evaluation.make_inputs(count)
        return Case(
            lambda: rows_evaluation.ours(inputs),
            lambda: peers[name][0](inputs),
            lambda: rows_evaluation.check(inputs),
        )

    return [
        Row(
            name=f"evaluation/{name}",
            what=f"panoptic quality of {count} pairs of 640x480 px; {name}, in percent equal",
            setup=lambda name=name: setup(name),
            target=peers[name][1],
            tolerance=1e-10,
            seconds=8,
            memory=False,
            filter_noise=False,
        )
        for name in peers
    ]


def step() -> list[Row]:
    """A whole training step beside the textbook's, and what each cheap variant gains there."""
    from benchmarks import rows_step
    from benchmarks.textbook.parts import EQUAL

    def setup(size: int, variants: bool) -> Case:
        model, inputs = rows_step.build(size)

        def run(form, *cheap: str):
            def step() -> None:
                form(model, inputs, *cheap)
                # Gradients count as memory of the step.
                for parameter in model.parameters():
                    parameter.grad = None

            return step

        cheap = {part: run(rows_step.textbook, {part}) for part in sorted(EQUAL)}
        return Case(
            run(rows_step.ours),
            run(rows_step.textbook),
            lambda: rows_step.check(model, inputs),
            cheap if variants else {},
        )

    what = "training step of the R50 network, {0}x{0} px, 133 classes, 8 instances, losses to full "
    what += "size; textbook arrangement (earlier code's)"
    return [
        Row(
            name="step/512x512",
            what=what.format(512),
            setup=lambda: setup(512, False),
            target=2,
            memory_target=2,
            tolerance=1e-4,
            seconds=20,
        ),
        Row(
            name="step/256x256",
            what=what.format(256) + "; rows below: the textbook's with one part in its best cheap "
            "variant",
            setup=lambda: setup(256, True),
            tolerance=1e-4,
            seconds=20,
            memory=False,
        ),
    ]
