"""How one picture of the shapes data set is drawn: geometry, textures and colours.

Five thing classes with thin or concave outlines lie on wavy, interleaved bands of three stuff
classes. A class is known by its texture and outline and never by its colour: the segments of a
picture are painted in shades of nearly one colour, which changes from picture to picture, so that
neither the nearest point nor the most similar colour finds the masks.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

THING_NAMES = ("ring", "cross", "star", "pipe", "moon")
STUFF_NAMES = ("stripes", "checks", "dots")
# Sizes below are given in pixels of a picture of this side and grow with it.
REFERENCE_SIZE = 160

_MIN_THING_AREA = 300
_MIN_STUFF_AREA = 900
_TRIES_PER_THING = 12


@dataclass(frozen=True)
class Thing:
    """One placed thing: its class, centre and radius in pixels, and its rotation in radians."""

    kind: int
    cx: float
    cy: float
    radius: float
    angle: float

    def local_grid(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates of all pixel centres in the thing's own rotated frame, each (size, size)."""
        y, x = np.mgrid[:size, :size].astype(np.float32) + 0.5
        dx, dy = x - self.cx, y - self.cy
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return dx * cos + dy * sin, dy * cos - dx * sin


@dataclass(frozen=True)
class Scene:
    """A drawn picture.

    Attributes:
        image: uint8 (size, size, 3), RGB.
        index: int32 (size, size), 0..len(stuff)-1 for stuff segments, then the things.
        stuff: class of each stuff segment, an index into ``STUFF_NAMES``.
        things: class of each thing, an index into ``THING_NAMES``.
    """

    image: np.ndarray
    index: np.ndarray
    stuff: list[int]
    things: list[int]


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """Draw one picture of ``size`` x ``size`` pixels; every choice comes from ``rng``."""
    stuff = [int(k) for k in rng.permutation(len(STUFF_NAMES))[: rng.integers(2, 4)]]
    index = _bands(rng, size, len(stuff))
    color = _random_color(rng)
    palette = [color, 0.85 * color + 0.15 * _random_color(rng)]
    image: np.ndarray = np.zeros((size, size, 3), np.float32)
    for number, kind in enumerate(stuff):
        here = index == number
        image[here] = _paint(_stuff_tone(kind, rng, size), palette, rng)[here]

    things, index = _place_things(rng, index, len(stuff))
    for thing in things:
        u, v = thing.local_grid(size)
        dist = _outline_distance(thing.kind, u, v, thing.radius)
        paint = _paint(_thing_tone(thing, u, v, dist, rng), palette, rng)
        paint *= np.where(dist > -1.6 * size / REFERENCE_SIZE, 0.35, 1.0)[..., None]
        alpha = np.clip(0.5 - dist, 0, 1)[..., None]
        image = image * (1 - alpha) + paint * alpha

    image *= 0.75 + 0.5 * _smooth_field(rng, size, 0.8)[..., None]
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(4 / 255)
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return Scene(pixels, index, stuff, [thing.kind for thing in things])


def _place_things(
    rng: np.random.Generator, index: np.ndarray, num_stuff: int
) -> tuple[list[Thing], np.ndarray]:
    """Lay two to four things over the stuff, the later above the earlier; each in one part."""
    things: list[Thing] = []
    for _ in range(int(rng.integers(2, 5))):
        for _ in range(_TRIES_PER_THING):
            thing = _propose(rng, things, index.shape[0])
            u, v = thing.local_grid(index.shape[0])
            inside = _outline_distance(thing.kind, u, v, thing.radius) < 0
            trial = np.where(inside, np.int32(num_stuff + len(things)), index)
            if _all_visible(trial, num_stuff, len(things) + 1):
                things.append(thing)
                index = trial
                break
    return things, index


def _propose(rng: np.random.Generator, things: list[Thing], size: int) -> Thing:
    """A random thing; now and then one of its neighbour's class, so that instances must be told."""
    scale = size / REFERENCE_SIZE
    kind = int(rng.integers(len(THING_NAMES)))
    radius = rng.uniform(30, 46) * scale
    cx, cy = rng.uniform(0.08, 0.92, 2) * size
    if things and rng.random() < 0.3:
        other = things[int(rng.integers(len(things)))]
        kind = other.kind
        direction, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.0)
        cx = other.cx + np.cos(direction) * reach * (radius + other.radius)
        cy = other.cy + np.sin(direction) * reach * (radius + other.radius)
    return Thing(kind, float(cx), float(cy), float(radius), float(rng.uniform(0, 2 * np.pi)))


def _all_visible(index: np.ndarray, num_stuff: int, num_things: int) -> bool:
    """Is every segment big enough, and every thing one connected part?"""
    scale = (index.shape[0] / REFERENCE_SIZE) ** 2
    area = np.bincount(index.ravel(), minlength=num_stuff + num_things)
    if area[:num_stuff].min() < _MIN_STUFF_AREA * scale:
        return False
    if area[num_stuff:].min() < _MIN_THING_AREA * scale:
        return False
    things = range(num_stuff, num_stuff + num_things)
    return all(cv2.connectedComponents((index == n).astype(np.uint8))[0] == 2 for n in things)


def _outline_distance(kind: int, u: np.ndarray, v: np.ndarray, r: float) -> np.ndarray:
    """Distance to the outline in pixels, negative inside; good enough for a smooth edge."""
    name = THING_NAMES[kind]
    if name == "ring":
        return np.abs(np.hypot(u, v) - 0.68 * r) - 0.32 * r
    if name == "cross":
        arm = 0.34 * r
        return np.minimum(
            np.maximum(np.abs(u) - r, np.abs(v) - arm), np.maximum(np.abs(v) - r, np.abs(u) - arm)
        )
    if name == "star":
        # Fold the plane onto half a spike: the edge runs from its tip to the notch between two.
        half = np.pi / 5
        angle = np.abs((np.arctan2(v, u) + half) % (2 * half) - half)
        x, y, radius = np.hypot(u, v) * np.cos(angle), np.hypot(u, v) * np.sin(angle), 1.15 * r
        notch = np.array([np.cos(half), np.sin(half)]) * 0.5 * radius
        normal = np.array([notch[1], radius - notch[0]])
        return ((x - radius) * normal[0] + y * normal[1]) / float(np.hypot(*normal))
    if name == "pipe":
        return np.hypot(np.maximum(np.abs(u) - 1.2 * r, 0), v) - 0.34 * r
    return np.maximum(np.hypot(u, v) - r, 0.8 * r - np.hypot(u - 0.58 * r, v))


def _thing_tone(
    thing: Thing, u: np.ndarray, v: np.ndarray, dist: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Brightness in 0..1 of a thing: sectors, contours, facets, a round pipe, a grainy moon."""
    name, r, scale = THING_NAMES[thing.kind], thing.radius, u.shape[0] / REFERENCE_SIZE
    if name == "ring":
        return _square_wave(np.cos(6 * np.arctan2(v, u)))
    if name == "cross":
        return 0.5 + 0.5 * np.cos(2 * np.pi * dist / (5 * scale))
    if name == "star":
        facet = np.sin(5 * np.arctan2(v, u))
        return 0.1 + 0.8 * _square_wave(facet)
    if name == "pipe":
        return np.clip(0.9 - (v / (0.34 * r)) ** 2, 0, 1)
    grain = rng.random(u.shape, dtype=np.float32)
    return np.clip(0.5 - 0.3 * u / r + 0.9 * (cv2.blur(grain, (2, 2)) - 0.5), 0, 1)


def _stuff_tone(kind: int, rng: np.random.Generator, size: int) -> np.ndarray:
    """Brightness in 0..1 of a stuff class, at a random angle and phase."""
    scale = size / REFERENCE_SIZE
    (cx, cy), angle = rng.uniform(0, size, 2), rng.uniform(0, np.pi)
    u, v = Thing(kind, float(cx), float(cy), 1.0, float(angle)).local_grid(size)
    name = STUFF_NAMES[kind]
    if name == "stripes":
        return _square_wave(np.cos(2 * np.pi * u / (6 * scale)))
    if name == "checks":
        turn = np.pi / (7 * scale)
        return _square_wave(2 * np.cos(turn * u) * np.cos(turn * v))
    step = 8 * scale
    spot = np.hypot((u % step) - step / 2, (v % step) - step / 2)
    return np.clip(3.1 * scale - spot + 0.5, 0, 1)


def _square_wave(wave: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(4 * wave)


def _bands(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Cut the picture into wavy bands that the stuff segments take in turn, int32 (size, size)."""
    width = rng.uniform(36, 50) / REFERENCE_SIZE
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    wavy = along + 0.22 * (_smooth_field(rng, size, 1.6) - 0.5)
    return (np.floor(wavy / width + rng.uniform(0, count)).astype(np.int32)) % count


def _smooth_field(rng: np.random.Generator, size: int, waves: float) -> np.ndarray:
    """A few random plane waves added up: a smooth field in 0..1, float32 (size, size)."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    field = np.zeros((size, size), np.float32)
    for _ in range(3):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        pitch = 2 * np.pi * waves * rng.uniform(0.6, 1.4)
        field += np.sin(pitch * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return field / 6 + 0.5


def _random_color(rng: np.random.Generator) -> np.ndarray:
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.25, 0.65), rng.uniform(0.8, 1.0))
    return np.array(rgb, np.float32)


def _paint(tone: np.ndarray, palette: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Colour a brightness map with about a palette colour, float32 (size, size, 3) in 0..1."""
    light = palette[int(rng.integers(len(palette)))] + rng.normal(0, 0.015, 3)
    dark = light * np.float32(0.42)
    return (dark + tone[..., None] * (light - dark)).astype(np.float32)
