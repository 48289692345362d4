"""What is opened for annotation: a data set file, or a folder of images with class names.

Of a data set file, the images of its points file come first, in that order, then the other ones of
its folder, but for those that it keeps for validation.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fdd.annotate.store import AnnotatedImage, AnnotationStore
from fdd.points.class_comparison import compare_classes, describe_differences
from fdd.points.class_edit import add_class
from fdd.points.classes import ClassFileError, ClassList, label_key, parse_classes, shown
from fdd.points.dataset_file import DatasetFile, read_dataset_file
from fdd.points.files import atomic_path, check_file_writable
from fdd.points.format import write_points
from fdd.points.image_files import (
    ImageHeaderError,
    locate_files,
    read_image_header,
    walk_images,
)
from fdd.points.importers.class_names import yaml_text
from fdd.points.parsing import load_json
from fdd.points.structures import Category, PointDataset, PointLabelError
from fdd.points.wording import counted, listed

__all__ = ["OpenedDataset", "begin_dataset", "dataset_text", "open_dataset", "work_folder"]

_SHOWN = 3
_LONGEST_NAME = 100


@dataclass
class OpenedDataset:
    """A data set that is being annotated.

    Attributes:
        dataset: its file as it is now; ``dataset.classes.colors`` has the colours that it gives.
        store: its points; to be closed.
        paths: of the images, in the order of ``store.images``; some may not exist.
        notes: sentences for the user, those of the store with them.
    """

    dataset: DatasetFile
    store: AnnotationStore
    paths: tuple[Path, ...]
    notes: tuple[str, ...]

    @property
    def work(self) -> Path:
        """Folder beside the data set file for what is made of it: trainings, exports."""
        return work_folder(self.dataset)

    def new_category(self, name: str, isthing: bool) -> Category:
        """A class to be added; nothing is changed yet.

        Raises:
            ClassFileError: there is one of the name, or it is not a name.
        """
        key = label_key(name)
        if not key or len(key) > _LONGEST_NAME or not key.isprintable():
            raise ClassFileError(
                f"{shown(name)} is not the name of a class; expected a text of 1 to "
                f"{_LONGEST_NAME} characters on one line"
            )
        known = self.store.categories
        same = next((c for c in known if c.name.casefold() == key.casefold()), None)
        if same is not None:
            raise ClassFileError(f"there is a class {same.name!r} already; it is {same.kind}")
        return Category(max((c.id for c in known), default=0) + 1, key, isthing)

    def add_category(self, category: Category) -> None:
        """Write a class of :meth:`new_category` into the data set file, if that lists classes, and
        into the points file.

        Raises:
            ClassFileError: the data set file has them in a form that cannot be changed here.
            PointsChanged, OSError: one of the two cannot be written.
        """
        if read_dataset_file(self.dataset.path).classes is not None:
            add_class(self.dataset.path, category.name, category.isthing)
        # After it: a file that lists a class more than the points is opened, the other is not.
        self.store.add_category(category)
        self.dataset = read_dataset_file(self.dataset.path)

    def problem(self, index: int) -> str | None:
        """Why an image cannot be annotated: its file is missing, not readable, or not of the size
        that the labels say; None if it can."""
        image, path = self.store.images[index], self.paths[index]
        try:
            header = read_image_header(path)
        except (OSError, ImageHeaderError) as error:
            return str(error)
        if (header.width, header.height) != (image.width, image.height):
            return (
                f"{path}: {header.width} x {header.height} pixels, but {self.store.points_file} "
                f"says {image.width} x {image.height} of image {image.image_id!r}; its points "
                "would be at the wrong places. `fdd points check` says more"
            )
        return None


def work_folder(dataset: DatasetFile) -> Path:
    return dataset.path.with_name(f"{dataset.path.stem}_work")


def open_dataset(path: str | os.PathLike[str]) -> OpenedDataset:
    """Open a data set file; where there is no points file, which needs ``classes``, begin one.

    Raises:
        FileNotFoundError: there is no such file, folder of images or points file.
        ValueError: one of them is invalid; classes differ.
        OSError: it cannot be written, or somebody is annotating it.
    """
    dataset = read_dataset_file(path)
    if not dataset.images.is_dir():
        raise FileNotFoundError(
            f"{dataset.images}: no such folder of images. {dataset.path} names it under 'images'"
        )
    if not dataset.points.exists():
        _begin_points(dataset)
    folder = _Folder(dataset)
    store = AnnotationStore(
        dataset.points,
        more_images=folder.other_images,
        more_categories=lambda known: _new_categories(dataset, known),
    )
    try:
        _check_classes(dataset, store.categories)
        if not store.images:
            raise FileNotFoundError(f"{dataset.images}: no image in this folder or below it")
    except BaseException:
        store.close()
        raise
    return OpenedDataset(dataset, store, tuple(folder.paths), (*folder.notes, *store.notices))


class _Folder:
    """The image files of a data set.

    Attributes:
        paths: once :meth:`other_images` was called, of the listed images, then of the others.
        notes: sentences about what was found.
    """

    def __init__(self, dataset: DatasetFile) -> None:
        self.dataset = dataset
        self.paths: list[Path] = []
        self.notes: list[str] = []

    def other_images(self, images: Sequence[AnnotatedImage]) -> list[AnnotatedImage]:
        """The readable images of the folder that are not among those that the labels list."""
        root = self.dataset.images
        names = [image.file_name for image in images]
        found, missing = locate_files(root, names, any_extension=True)
        self.paths = list(map(Path, found))
        if missing:
            examples = listed([names[n] for n in missing], _SHOWN)
            self.notes.append(
                f"{len(missing):,} of {counted(len(names), 'image')} of {self.dataset.points} were "
                f"not found under {root}: {examples}"
            )
        kept_for_validation = self._validation_files()
        known = {os.path.realpath(path) for path in (*found, *kept_for_validation)}
        others = [
            (path, name)
            for path, name in walk_images(root, leave_out=self._folders_of_others())
            if os.path.realpath(path) not in known
        ]
        return self._describe(others, {image.image_id for image in images})

    def _describe(
        self, files: Sequence[tuple[Path, str]], taken: Collection[str | int]
    ) -> list[AnnotatedImage]:
        ids = _new_ids([name for _, name in files], taken)
        images, unreadable, deep = [], [], []
        for (path, name), image_id in zip(files, ids, strict=True):
            try:
                header = read_image_header(path)
            except (OSError, ImageHeaderError) as error:
                unreadable.append(str(error))
                continue
            if header.is_deep:
                deep.append(name)
            images.append(AnnotatedImage(image_id, name, header.height, header.width))
            self.paths.append(path)
        if unreadable:
            self.notes.append(
                f"left out, as {counted(len(unreadable), 'file')} could not be read: "
                + listed(unreadable, _SHOWN, "; ")
            )
        if deep:
            self.notes.append(
                f"beware: {counted(len(deep), 'image')} of more than 8 bits a channel, which "
                f"training does not read; convert them first ({listed(deep, _SHOWN)})"
            )
        return images

    def _folders_of_others(self) -> list[Path]:
        """Folders of masks, of validation images, and of what is made here; but not the one of
        these images."""
        masks, validation = self.dataset.masks, self.dataset.validation
        folders = [work_folder(self.dataset)]
        folders += [masks.folder] if masks is not None else []
        if validation is not None:
            folders += [validation.masks.folder, validation.images]
        own = os.path.realpath(self.dataset.images)
        return [folder for folder in folders if os.path.realpath(folder) != own]

    def _validation_files(self) -> list[str]:
        """Images that PQ is measured on: a training must not see them (rule E504)."""
        validation = self.dataset.validation
        if validation is None:
            return []
        names = []
        for source in filter(None, (validation.masks.json, validation.points)):
            try:
                document = load_json(source)
                names += [str(image["file_name"]) for image in document["images"]]
            except (OSError, PointLabelError, KeyError, TypeError):
                self.notes.append(
                    f"{source}: the images of the validation could not be read from it; leave them "
                    "unlabelled, as a training must not see them"
                )
        return locate_files(validation.images, names, any_extension=True)[0]


def _new_ids(names: Sequence[str], taken: Collection[str | int]) -> list[str]:
    """For each file its path, without extension if that is unambiguous; none that is taken."""
    stems = [os.path.splitext(name)[0] for name in names]
    counts = Counter(stems)
    used = set(taken)
    ids = []
    for name, stem in zip(names, stems, strict=True):
        image_id = stem if counts[stem] == 1 and stem not in used else name
        while image_id in used:
            image_id += "_"
        used.add(image_id)
        ids.append(image_id)
    return ids


def _begin_points(dataset: DatasetFile) -> None:
    if dataset.classes is None:
        raise FileNotFoundError(
            f"{dataset.points}: no such point-label file. To begin one, list the classes in "
            f"{dataset.path}, for example:\nclasses:\n  things: [cell]\n  stuff: [background]"
        )
    categories = list(dataset.classes.categories)
    write_points(dataset.points, PointDataset(categories, []))


def _new_categories(dataset: DatasetFile, known: Sequence[Category]) -> list[Category]:
    """Classes that were added to the data set file; with its ids where these are free."""
    if dataset.classes is None:
        return []
    ids = {c.id for c in known}
    found = []
    for difference in compare_classes(known, dataset.classes.categories, ordered=False, ids=False):
        new = difference.second
        if new is None:
            continue
        if any(c.name == new.name for c in known):
            return []  # of another kind, which is an error
        number = new.id if new.id not in ids else max(ids) + 1
        ids.add(number)
        found.append(Category(number, new.name, new.isthing))
    return found


def _check_classes(dataset: DatasetFile, categories: Sequence[Category]) -> None:
    if dataset.classes is None:
        return
    differences = compare_classes(dataset.classes.categories, categories, ordered=False, ids=False)
    if differences:
        text = describe_differences(differences, "the first", "the second", ids=False)
        raise ClassFileError(
            f"the classes of {dataset.path} and of {dataset.points} differ: {text}. Correct "
            "'classes' in the first: it may have further classes, but needs those of the second"
        )


def begin_dataset(
    images: str | os.PathLike[str],
    things: Sequence[str],
    stuff: Sequence[str] = (),
    output: str | os.PathLike[str] | None = None,
) -> Path:
    """Write ``dataset.yaml`` and ``points.json`` for a folder of images; where they are there and
    say the same, go on with them.

    Args:
        images: folder, looked through with its sub-folders.
        things, stuff: names of classes.
        output: folder of the two files; default ``<images>_points`` beside the folder.

    Returns:
        The path of ``dataset.yaml``, for :func:`open_dataset`.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        FileExistsError: there is another data set in ``output``.
        ClassFileError: no valid classes.
        OSError: ``output`` cannot be written to.
    """
    root = Path(os.path.abspath(os.path.expanduser(images)))
    if not root.is_dir():
        is_file = "a file; expected a folder of images" if root.exists() else "no such folder"
        raise FileNotFoundError(f"{images}: {is_file}")
    if not walk_images(root):
        raise FileNotFoundError(f"{images}: no image in this folder or below it")
    if not things and not stuff:
        raise ClassFileError(
            "no classes; name what is counted, such as --classes car,person, and regions, such as "
            "--stuff sky,road"
        )
    classes = parse_classes({"things": list(things), "stuff": list(stuff)}, (), "the classes")
    folder = Path(os.path.abspath(os.path.expanduser(output or f"{root}_points")))
    file, points = folder / "dataset.yaml", folder / "points.json"
    if file.exists():
        _check_same(read_dataset_file(file), root, classes)
        return file
    if points.exists():
        raise FileExistsError(f"{points} is there, without {file.name}; name another --output")
    check_file_writable(file)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as temporary:
        text = dataset_text(_relative(root, folder), points.name, classes)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    # After it: of a file without points, `open_dataset` makes them.
    _begin_points(read_dataset_file(file))
    return file


def _check_same(dataset: DatasetFile, images: Path, classes: ClassList) -> None:
    problem = ""
    if os.path.realpath(dataset.images) != os.path.realpath(images):
        problem = f"of the images in {dataset.images}"
    elif dataset.classes is None:
        problem = "without classes in it"
    else:
        differences = compare_classes(
            dataset.classes.categories, classes.categories, ordered=False, ids=False
        )
        if differences:
            text = describe_differences(differences, "it", "the command", ids=False)
            problem = f"of other classes: {text}"
    if problem:
        raise FileExistsError(
            f"{dataset.path} is there, {problem}. To go on with it: fdd annotate {dataset.path}. "
            "Or name another --output"
        )


def _relative(path: Path, start: Path) -> str:
    """From where the file is, so that both can be moved together."""
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:  # another drive
        return str(path)


def dataset_text(images: str, points: str, classes: ClassList | None) -> str:
    """A data set file; without classes, the points file says them."""
    return "".join(_dataset_lines(images, points, classes))


def _dataset_lines(images: str, points: str, classes: ClassList | None) -> Iterator[str]:
    yield f"images: {yaml_text(images)}\n"
    yield f"points: {yaml_text(points)}\n"
    if classes is None:
        return
    yield "classes:\n"
    for kind in ("thing", "stuff"):
        names = [yaml_text(c.name) for c in classes.categories if c.kind == kind]
        if names:
            yield f"  {'things' if kind == 'thing' else kind}: [{', '.join(names)}]\n"
