"""Checkpoints that survive a kill while they are written, and refuse to load into another model."""

from __future__ import annotations

import logging
import os
import re
import shlex
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO
from urllib.error import URLError

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from fdd.engine.logs import without_colours
from fdd.points.files import atomic_path
from fdd.points.wording import listed

_MAX_NAMED = 5
# What PyTorch says of an object that it loads from trusted files only.
_FOREIGN = re.compile(r"Unsupported (?:global: GLOBAL|class) (\S+)")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another model. Says how to fix it."""


def write_atomically(path: str, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that ``path`` holds its old or its new content, whenever the process dies.

    Args:
        path: local file.
        content: of the file; or what writes it, called with a binary file open for writing.

    Raises:
        OSError: the file cannot be written (the disk is full, no permission); names ``path``.
    """
    # The name does not end in .pth: nothing takes it for a checkpoint.
    with atomic_path(path, f"{path}.tmp") as temporary, open(temporary, "wb") as handle:
        patient = _PatientFile(handle)
        if isinstance(content, bytes):
            patient.write(content)
        else:
            content(patient)  # type: ignore[arg-type]
        patient.check()
        os.fsync(handle.fileno())


class _PatientFile:
    """Keeps a write error for later: PyTorch's writer turns it into one that does not mention the
    disk, and may end the process."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        return self._attempt(lambda: self._handle.write(data)) or memoryview(data).nbytes

    def flush(self) -> None:
        self._attempt(self._handle.flush)

    def check(self) -> None:
        """Raise the first error, if there was any."""
        self.flush()
        if self._error is not None:
            raise self._error

    def _attempt(self, action: Callable[[], Any]) -> Any:
        if self._error is not None:
            return None
        try:
            return action()
        except OSError as error:
            self._error = error
            return None


class FDDCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes and errors in place of warnings.

    Every process reads the files itself, so each machine needs them.

    Attributes:
        strict: refuse weights whose names or shapes differ from the model's, and a file without the
            other objects to restore. Set for resuming and evaluation; when a model is fine-tuned
            from ``MODEL.WEIGHTS``, differences are only reported.
        optional_prefixes: names beginning so may be on one side only even then (training-only
            parts, which an inference checkpoint or an inference model leaves out).
        entries: further entries of every checkpoint.
        companions: content by name of files that describe the checkpoints. They are written by the
            first :meth:`save`, after the checkpoint: until then ``save_dir`` may hold checkpoints
            of an earlier process, and the files that describe those.
    """

    strict: bool = False
    optional_prefixes: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries: dict[str, Any] = {}
        self.companions: dict[str, bytes] = {}

    def save(self, name: str, *, tag_last: bool = True, **kwargs: Any) -> None:
        """Write ``name``.pth below ``save_dir``, and only then point ``last_checkpoint`` to it.

        Args:
            name: file name without ending.
            tag_last: whether a resume shall start from this file.
            kwargs: further entries of the checkpoint.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(self.entries)
        data.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda handle: torch.save(data, handle))
        if tag_last:
            self.tag_last_checkpoint(os.path.basename(path))
        self.write_companions()

    def write_companions(self) -> None:
        """Write what is left of :attr:`companions`; for a run that begins in a new folder."""
        if not self.save_dir or not self.save_to_disk:
            return
        for name, content in self.companions.items():
            path = os.path.join(self.save_dir, name)
            write_atomically(path, content)
        self.companions = {}

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the file that a resume starts from."""
        path = os.path.join(self.save_dir, "last_checkpoint")
        write_atomically(path, last_filename_basename.encode())

    def has_checkpoint(self) -> bool:
        """Whether ``save_dir`` has a last checkpoint; to be called by every process.

        Raises:
            FileNotFoundError: on every process, if only some see one.
        """
        found = super().has_checkpoint()
        return _found_by_all(os.path.join(self.save_dir, "last_checkpoint"), found)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See :meth:`DetectionCheckpointer.load`; to be called by every process.

        Raises:
            FileNotFoundError: on every process, if the file is missing for any of them.
            CheckpointError: it cannot be downloaded, read, or loaded into this model.
        """
        try:
            self.find(path)
            return super().load(path, *args, **kwargs)
        finally:
            # Or, after an error, a second load on this object fails its assertion.
            self._parsed_url_during_load = None

    def load_content(self, path: str, weights: dict[str, torch.Tensor]) -> None:
        """Load weights that were changed after they were read from ``path``; what does not fit is
        reported as by :meth:`load`."""
        self.logger.info("[Checkpointer] Loading from %s ...", path)
        self._log_incompatible_keys(self._load_model({"model": weights}))

    def find(self, path: str) -> None:
        """Download weights, or see that they are there; to be called by every process.

        Args:
            path: as for :meth:`load`.

        Raises:
            FileNotFoundError: on every process, if the file is missing for any of them.
            CheckpointError: it cannot be downloaded.
        """
        if not path:
            return
        plain = path.partition("?")[0]  # Detectron2's ?matching_heuristics=...
        if "://" not in path:
            local = plain
            if not _found_by_all(local, os.path.isfile(local)):
                raise FileNotFoundError(
                    f"checkpoint {local} does not exist (named by MODEL.WEIGHTS, or by "
                    f"{os.path.join(self.save_dir, 'last_checkpoint')} when resuming). "
                    f"{self._others(local)}"
                )
            return
        try:
            self.path_manager.get_local_path(plain)
        except (URLError, TimeoutError) as error:
            raise CheckpointError(
                f"weights {path} cannot be downloaded ({error}). Without a network, fetch the file "
                "elsewhere and give its path as MODEL.WEIGHTS"
            ) from error

    def _load_file(self, f: str) -> dict[str, Any]:
        try:
            loaded = super()._load_file(f)
        except Exception as error:
            if found := _FOREIGN.search(str(error)):
                raise CheckpointError(_foreign_objects(f, found[1])) from error
            why = "it is cut short: the process was killed, or the disk full, while it was written"
            if zipfile.is_zipfile(f):
                why = "it is not a checkpoint of this program, or was damaged"
            first_line = without_colours((str(error).splitlines() or [""])[0])[:200]
            raise CheckpointError(
                f"cannot read checkpoint {f} ({os.path.getsize(f)} bytes): {why} "
                f"[{type(error).__name__}: {first_line}]. {self._others(f)}"
            ) from error
        if problem := _no_weights(f, loaded["model"]):
            raise CheckpointError(problem)
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        absent = [name for name in self.checkpointables if name not in checkpoint]
        if self.strict and absent:
            raise CheckpointError(
                f"the checkpoint has no entry {listed(absent, _MAX_NAMED)}: it holds weights only, "
                "and a run cannot be resumed without its iteration and optimiser. Start a new run "
                "from it with MODEL.WEIGHTS and without --resume, or name a checkpoint that "
                "training wrote in "
                f"{os.path.join(self.save_dir, 'last_checkpoint')}."
            )
        incompatible = super()._load_model(checkpoint)
        if self.strict:
            self._refuse(incompatible)
            # What is left may be on one side only, and is nothing to warn of.
            incompatible.missing_keys.clear()
            incompatible.unexpected_keys.clear()
        return incompatible

    def _refuse(self, incompatible: Any) -> None:
        problems = [
            f"{name} is {shape} in the checkpoint, {expected} in the model"
            for name, shape, expected in incompatible.incorrect_shapes
        ]
        wrong_shapes = {name for name, _, _ in incompatible.incorrect_shapes}
        for place, names in (
            ("model", incompatible.missing_keys),
            ("checkpoint", incompatible.unexpected_keys),
        ):
            problems += [
                f"{name} is in the {place} only"
                for name in names
                if name not in wrong_shapes and not name.startswith(self.optional_prefixes)
            ]
        if problems:
            raise CheckpointError(
                f"the checkpoint does not fit the model in {len(problems)} places: "
                f"{listed(problems, _MAX_NAMED, '; ')}. Use the config it was trained with "
                "(MODEL.FDD.NUM_THINGS, MODEL.FDD.NUM_STUFF, MODEL.FDD.DISTANCE.EMBEDDING, "
                "MODEL.FDD.LOCATION_PRIOR and the layer counts decide "
                "names and shapes), or start a new run from it with MODEL.WEIGHTS and without "
                "--resume."
            )

    def _others(self, path: str) -> str:
        """How to continue without ``path``: the other checkpoints of its folder, newest first."""
        folder = os.path.dirname(path) or "."
        found: list[str] = []
        if os.path.isdir(folder):
            found = [name for name in os.listdir(folder) if name.endswith(".pth")]
        found = [name for name in found if name != os.path.basename(path)]
        found.sort(key=lambda name: os.path.getmtime(os.path.join(folder, name)), reverse=True)
        if not found:
            return f"{folder} has no other checkpoint: give one as MODEL.WEIGHTS, or start over."
        return (
            f"Other checkpoints in {folder}, newest first: {listed(found, _MAX_NAMED)}. To "
            f"continue from one, write its name into {os.path.join(folder, 'last_checkpoint')} and "
            "resume, or give its path as MODEL.WEIGHTS."
        )


def check_weights(
    weights: str, *, save_dir: str = "", resume: bool = False, needed: bool = False
) -> None:
    """Refuse weights that are not there before a model is built for them, which may take a while
    and fill the log; to be called by every process.

    Args:
        weights, save_dir, resume: as for :func:`load_for_inference`.
        needed: there must be some; a training may also begin without.

    Raises:
        FileNotFoundError, CheckpointError: see :meth:`FDDCheckpointer.find`.
        ValueError: there are none, but needed.
    """
    checkpointer = FDDCheckpointer(torch.nn.Identity(), save_dir, save_to_disk=False)
    weights = _choose_weights(checkpointer, weights, resume)
    if needed and not weights:
        raise ValueError(_nothing_to_evaluate(save_dir, resume))
    checkpointer.find(weights)


def _choose_weights(checkpointer: FDDCheckpointer, weights: str, resume: bool) -> str:
    if resume and checkpointer.has_checkpoint():
        return checkpointer.get_checkpoint_file()
    return weights


def _nothing_to_evaluate(save_dir: str, resume: bool) -> str:
    return (
        "there is nothing to evaluate: MODEL.WEIGHTS is empty"
        + (f" and {save_dir} has no last_checkpoint" if resume else "")
        + "; give the checkpoint as MODEL.WEIGHTS path/to/model_final.pth"
    )


def load_for_inference(
    model: torch.nn.Module,
    weights: str,
    *,
    save_dir: str = "",
    resume: bool = False,
    full: bool = False,
    check: Callable[[str], object] | None = None,
) -> None:
    """Load weights for evaluation; anything that does not fit is an error.

    Args:
        model: may name its training-only parts in an attribute ``training_only_prefixes``, and in
            ``baseline_prefixes`` those of them that it can leave out though the checkpoint has
            them.
        weights: path or URL; not read when ``resume`` finds a last checkpoint in ``save_dir``.
        save_dir: the run's folder.
        resume: prefer the run's last checkpoint.
        full: the training-only parts are needed too (pseudo labels).
        check: called with the path or URL that is chosen, before it is loaded.
    """
    checkpointer = FDDCheckpointer(model, save_dir, save_to_disk=False)
    checkpointer.strict = True
    if full:
        names = list(model.state_dict())
        checkpointer.optional_prefixes = tuple(
            prefix
            for prefix in getattr(model, "baseline_prefixes", ())
            if not any(name.startswith(prefix) for name in names)
        )
    else:
        checkpointer.optional_prefixes = tuple(getattr(model, "training_only_prefixes", ()))
    weights = _choose_weights(checkpointer, weights, resume)
    if not weights:
        raise ValueError(_nothing_to_evaluate(save_dir, resume))
    logging.getLogger(__name__).info("Evaluating the weights of %s", weights)
    if check is not None:
        check(weights)
    checkpointer.load(weights, checkpointables=[])


def load_backbone(backbone: torch.nn.Module, weights: str) -> None:
    """Load a backbone's weights alone, all of them; what else is in the file is passed over.

    Args:
        backbone: of a Detectron2 model.
        weights: path of a checkpoint of such a model, or of an ImageNet classifier.

    Raises:
        FileNotFoundError, CheckpointError: it is not there, cannot be read, or has not all weights.
    """
    holder = torch.nn.ModuleDict({"backbone": backbone})
    checkpointer = _WholeBackbone(holder, save_to_disk=False)
    checkpointer.source = weights
    checkpointer.load(weights)


class _WholeBackbone(FDDCheckpointer):
    source: str = ""

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        wrong = [name for name, _, _ in incompatible.incorrect_shapes]
        lacking = [*incompatible.missing_keys, *wrong]
        if lacking:
            raise CheckpointError(
                f"{self.source}: {len(lacking)} weights of the backbone are not in it, or of "
                f"another shape: {listed(lacking, _MAX_NAMED)}. Use the config that it belongs to "
                "(MODEL.BACKBONE.NAME, MODEL.RESNETS.DEPTH, ...)"
            )
        incompatible.unexpected_keys.clear()
        return incompatible


def _found_by_all(path: str, found: bool) -> bool:
    """``found`` where all processes agree; else an error on all, so that none waits for another."""
    seen = comm.all_gather(found)
    if any(seen) and not all(seen):
        without = listed([str(rank) for rank, there in enumerate(seen) if not there], _MAX_NAMED)
        raise FileNotFoundError(
            f"{path} is missing for process {without} of {len(seen)}. Every machine reads "
            "checkpoints itself: put the folder on a disk that all share, or copy it to each"
        )
    return all(seen)


def _foreign_objects(path: str, what: str) -> str:
    """Error about a file that PyTorch does not load without running code."""
    return (
        f"checkpoint {path} holds {what} beside its weights. PyTorch does not load such objects, "
        "because they can run code from an untrusted file. If you trust the file, write "
        f"its weights into another one, and name that: {_conversion(path, 'model', trusted=True)} "
        "(where they stand under another name, such as 'state_dict', put that for 'model')"
    )


def _no_weights(path: str, weights: Any) -> str:
    """The problem of an entry that should be weights by name; empty if there is none."""
    if not isinstance(weights, Mapping):
        return (
            f"checkpoint {path} holds a {type(weights).__name__} where weights by name are "
            "expected: {'model': {name: tensor, ...}}. Write model.state_dict() there"
        )
    others = _not_arrays(weights)
    if not others:
        return ""
    nested = [
        k
        for k in others
        if isinstance(weights[k], Mapping) and weights[k] and not _not_arrays(weights[k])
    ]
    if not nested:
        return (
            f"checkpoint {path} has entries that are not weights: {listed(others, _MAX_NAMED)}. "
            "Expected {'model': {name: tensor, ...}}"
        )
    entry = nested[0]
    names = [str(name) for name in weights[entry]]
    return (
        f"checkpoint {path} has the entries {listed([str(k) for k in weights], _MAX_NAMED)}, as "
        "other programs (PyTorch Lightning and the like) write them: its weights are under "
        f"{entry!r}, not under 'model'. Write them there, and name the new file: "
        f"{_conversion(path, entry)} (there they are called {names[0]!r} and so on; "
        "remove what stands before this model's names, such as 'model.')"
    )


def _not_arrays(values: Mapping[Any, Any]) -> list[str]:
    """Names of the entries that are neither tensors nor arrays."""
    return [str(k) for k, v in values.items() if not isinstance(v, (torch.Tensor, np.ndarray))]


def _conversion(path: str, entry: str, *, trusted: bool = False) -> str:
    """A command that writes one entry of a checkpoint as another checkpoint's weights."""
    options = f"map_location='cpu', weights_only={not trusted}"
    code = (
        f"import torch; c = torch.load({path!r}, {options}); "
        f"torch.save({{'model': c[{entry!r}]}}, 'weights.pth')"
    )
    return f"python -c {shlex.quote(code)}"
