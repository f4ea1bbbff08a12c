"""The factory: a generated data set in MVTec-AD's layout, so that every lesson runs without a download.

Three textures and three objects, five kinds of defect each, among them logical ones: well-formed things in the wrong
place. A defective image is drawn twice from the same random state, with and without the defect; the mask is where the
two differ visibly. Lengths are in 1/256 of the image's width, measured from its centre; colours are in [0, 1].
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from dumenet.data.folders import choose
from dumenet.errors import DumenetError, refused

VERSION = 1  # raise it with any change of a pixel
IMAGES = "*/t*/*/*.png"  # those to train and to test on
Array = np.ndarray
Rng = np.random.Generator
Pair = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Canvas:
    """Coordinates of the pixels, and what needs to know their size."""

    size: int  # pixels of a side

    @property
    def xy(self) -> list[Array]:
        """(size, size) coordinates, right and down, in [-128, 128]."""
        line = ((np.arange(self.size, dtype=np.float32) + 0.5) / self.size - 0.5) * 256
        return np.meshgrid(line, line)

    def cover(self, distance: Array, soft: float = 1.0) -> Array:
        """How much of a pixel lies inside a shape: its signed distance (negative inside), with an edge `soft` wide."""
        return np.clip(0.5 - distance / max(soft, 256 / self.size), 0, 1)

    def clouds(self, rng: Rng, rows: int, columns: int = 0) -> Array:
        """(size, size) smooth noise of unit deviation with so many bumps down and across (as many if 0)."""
        bumps = Image.fromarray(normal(rng, rows, columns or rows))
        return np.asarray(bumps.resize((self.size, self.size), Image.Resampling.BICUBIC))

    def posed(self, rng: Rng, shift: float, turn: float, zoom: float) -> tuple[Array, Array]:
        """Coordinates of something moved by up to `shift`, turned by up to `turn` degrees, scaled by 1 +- `zoom`."""
        x, y = self.xy
        (dx, dy), a, s = rng.uniform(-shift, shift, 2), np.deg2rad(rng.uniform(-turn, turn)), rng.uniform(-zoom, zoom)
        x, y = (x - np.float32(dx)) / np.float32(1 + s), (y - np.float32(dy)) / np.float32(1 + s)
        cos, sin = np.float32(np.cos(a)), np.float32(np.sin(a))
        return cos * x + sin * y, cos * y - sin * x


def normal(rng: Rng, *shape: int) -> Array:
    """Standard normal values."""
    return rng.standard_normal(shape).astype(np.float32)


def box(u: Array, v: Array, width: float, height: float, radius: float = 0) -> Array:
    """Signed distance to a rounded box of these half widths."""
    p, q = np.abs(u) - width + radius, np.abs(v) - height + radius
    return np.hypot(np.maximum(p, 0), np.maximum(q, 0)) + np.minimum(np.maximum(p, q), 0) - radius


def segment(u: Array, v: Array, a: Pair, b: Pair) -> Array:
    """Distance to the straight line from a to b."""
    du, dv = b[0] - a[0], b[1] - a[1]
    t = np.clip(((u - a[0]) * du + (v - a[1]) * dv) / (du * du + dv * dv), 0, 1)
    return np.hypot(u - a[0] - t * du, v - a[1] - t * dv)


def polar(length: float, angle: float) -> Array:
    """The point at this distance from the centre, in this direction (radians)."""
    return length * np.array((np.cos(angle), np.sin(angle)))


def tinted(colour: Iterable[float], light: Array) -> Array:
    """A surface of one colour, with a brightness for each pixel."""
    return np.float32(colour) * light[..., None]


def over(rgb: Array, colour: Iterable[float], alpha: Array) -> Array:
    """Lay a colour (or an image) over an image."""
    return rgb + (np.float32(colour) - rgb) * alpha[..., None]


def relief(height: Array, strength: float) -> Array:
    """Brightness factor of a surface lit from the upper left."""
    down, right = np.gradient(height)
    return np.clip(1 + strength * (right + down), 0.45, 1.6)


def blob(c: Canvas, u: Array, v: Array, rng: Rng, reach: Pair, sizes: Pair) -> Array:
    """Signed distance to an irregular spot."""
    du, dv = u - rng.uniform(-1, 1) * reach[0], v - rng.uniform(-1, 1) * reach[1]
    size = rng.uniform(*sizes)
    return np.hypot(du, dv * rng.uniform(0.8, 1.3)) - size * (1 + 0.18 * c.clouds(rng, 14))


def flawed(
    c: Canvas, rgb: Array, u: Array, v: Array, rng: Rng, kind: str, reach: Pair, stain: Iterable[float] = ()
) -> Array:
    """A surface with a scratch, hole or stain, if `kind` is one; without, for other kinds.

    (u, v) are coordinates on the surface, `reach` says how far from its middle the flaw may lie, `stain` is a colour.
    """
    if kind == "scratch":  # a thin bent line, bright or dark
        a, length, bend = rng.uniform(0, np.pi), rng.uniform(18, 55), rng.uniform(-0.2, 0.2)
        s, t = u - rng.uniform(-1, 1) * reach[0], v - rng.uniform(-1, 1) * reach[1]
        s, t = np.cos(a) * s + np.sin(a) * t, np.cos(a) * t - np.sin(a) * s
        width = rng.uniform(0.6, 1.3) * (1 - (s / length * 2) ** 2)
        alpha = c.cover(np.abs(t + bend * s * s / length) - width) * (np.abs(s) < length / 2)
        return over(rgb, rgb * rng.choice([0.55, 0.7, 1.35, 1.5]), alpha * rng.uniform(0.6, 1))
    if kind in ("hole", "worm_hole"):  # small and dark, with a worn rim
        d = blob(c, u, v, rng, reach, (2.5, 6.5))
        return over(over(rgb, rgb * 0.8, c.cover(d - 2, 3)), (0.07, 0.06, 0.06), c.cover(d) * 0.85)
    if kind in ("stain", "rust", "burnt"):  # a soft-edged spot that takes on some of a colour
        d = blob(c, u, v, rng, reach, (6, 16))
        return over(rgb, rgb * np.float32(stain), c.cover(d, 5) * rng.uniform(0.5, 1))
    return rgb


# Scenes: scene(canvas, rng, kind, wrong) -> image. `rng` draws what varies in normal images too, `wrong` the defect.


def weave(c: Canvas, rng: Rng, kind: str, wrong: Rng) -> Array:
    """Cloth of two warp colours in stripes; every crossing shows warp or weft in turn."""
    u, v = c.posed(rng, 7, 2.5, 0.04)
    u, v = u + 1.2 * c.clouds(rng, 4), v + 1.2 * c.clouds(rng, 4)
    tone = 1 + 0.05 * normal(rng, 2, 40)
    threads = np.float32([[0.25, 0.36, 0.52], [0.78, 0.60, 0.34], [0.80, 0.77, 0.70]])  # two of the warp, the weft
    threads = threads * (1 + 0.05 * normal(rng, 3, 1))
    i, j = np.floor(u / 14).astype(int), np.floor(v / 14).astype(int)
    fu, fv = u / 14 - i - 0.5, v / 14 - j - 0.5
    warp_on_top = (i + j) % 2 == 0
    stripe = np.isin(i % 6, (0, 1))
    if kind == "swapped_threads":  # two neighbours of different colour change places, from some row on
        a = 6 * wrong.integers(-1, 1) + wrong.choice([1, 5])
        rows = (v > wrong.uniform(-60, 40)) & (v < wrong.uniform(60, 120))
        stripe = np.where(np.isin(i, (a, a + 1)) & rows, ~stripe, stripe)
    elif kind == "float":  # the weft passes over a few warp threads that it should pass under
        i0, j0, n = wrong.integers(-7, 3), wrong.integers(-7, 7), wrong.integers(2, 6)
        warp_on_top = warp_on_top & ~((j == j0) & (i >= i0) & (i < i0 + n))
    colour = np.where(stripe[..., None], threads[1], threads[0]) * tone[0, i % 40][..., None]
    colour = np.where(warp_on_top[..., None], colour, threads[2] * tone[1, j % 40][..., None])
    across, along = np.where(warp_on_top, fu, fv), np.where(warp_on_top, fv, fu)
    twist = 1 + 0.05 * np.sin((across * 2.2 + along) * 16)
    bulge = (0.5 + 0.5 * np.cos(np.pi * across)) ** 0.6 * (0.72 + 0.28 * np.cos(np.pi * along))
    rgb = colour * (bulge * twist)[..., None]
    if kind == "loose_thread":
        a, b = wrong.uniform(-95, 95, 2), wrong.uniform(-95, 95, 2)
        b = a + (b - a) * wrong.uniform(25, 60) / np.hypot(*(b - a))
        d = segment(u + 2 * c.clouds(wrong, 7), v, a, b)
        return over(rgb, threads[wrong.integers(3)], c.cover(d - 1.3) * wrong.uniform(0.6, 1))
    return flawed(c, rgb, u, v, wrong, kind, (100, 100), (0.62, 0.5, 0.4))


def parquet(c: Canvas, rng: Rng, kind: str, wrong: Rng) -> Array:
    """Square tiles of four wooden strips each, laid in turn across and along."""
    tile, strip = 64, 16
    u, v = c.posed(rng, 10, 2, 0.03)
    i, j = np.floor(u / tile + 0.5).astype(int), np.floor(v / tile + 0.5).astype(int)
    upright = (i + j) % 2 == 0
    if kind == "turned_tile":
        upright = upright ^ ((i == wrong.integers(-1, 2)) & (j == wrong.integers(-1, 2)))
    across = np.where(upright, u, v) + tile / 2
    k = np.floor(across / strip).astype(int) % 4
    tones = rng.uniform(-1.6, 1.6, (8, 8, 4)).astype(np.float32)[i % 8, j % 8, k]
    lying, standing = c.clouds(rng, 128, 8), c.clouds(rng, 8, 128)
    rings_l, rings_s = c.clouds(rng, 30, 4), c.clouds(rng, 4, 30)
    grain = np.where(upright, 0.6 * standing + rings_s, 0.6 * lying + rings_l) + tones
    wood = np.float32((0.63, 0.46, 0.30)) * (1 + 0.06 * rng.standard_normal())
    warmth = 1 + 0.02 * tones[..., None] * np.float32([1, 0, -1])
    rgb = tinted(wood, 1 + 0.06 * grain + 0.09 * tones) * warmth
    to_strip = strip / 2 - np.abs(across % strip - strip / 2)
    to_tile = tile / 2 - np.maximum(np.abs(u - i * tile), np.abs(v - j * tile))
    rgb = over(rgb, rgb * 0.55, np.maximum(c.cover(to_strip - 0.6), c.cover(to_tile - 1)) * 0.9)
    if kind == "dent":
        d = blob(c, u, v, wrong, (100, 100), (5, 11))
        return rgb * relief(3 * c.cover(d, 7), wrong.choice([-0.25, 0.25, 0.4]))[..., None]
    reach = (105, 105) if kind == "worm_hole" else (100, 100)
    return flawed(c, rgb, u, v, wrong, kind, reach, (0.62, 0.62, 0.72))


def grid(c: Canvas, rng: Rng, kind: str, wrong: Rng) -> Array:
    """Brushed sheet metal with staggered round holes."""
    pitch, radius = 32, 9.0
    u, v = c.posed(rng, 6, 1.5, 0.02)
    j = np.round(v / (pitch * 0.866)).astype(int)
    i = np.round(u / pitch - (j % 2) / 2).astype(int)
    du, dv = u - (i + (j % 2) / 2) * pitch, v - j * pitch * 0.866
    here = (i == wrong.integers(-3, 3)) & (j == wrong.integers(-3, 4))
    r = np.full_like(u, radius)
    if kind == "shifted_hole":
        a, s = wrong.uniform(0, 2 * np.pi), wrong.uniform(3, 7)
        du, dv = du - here * s * np.cos(a), dv - here * s * np.sin(a)
    elif kind == "blocked_hole":
        r = np.where(here, wrong.choice([-20, 3, 5.5]), r)
    d = np.hypot(du, dv) - r
    rgb = tinted((0.60, 0.62, 0.65), 1 + (0.035 * c.clouds(rng, 200, 5) + 0.05 * c.clouds(rng, 3)))
    lit = (du + dv) / (np.hypot(du, dv) + 1)
    rgb = rgb * (1 + 0.3 * lit * np.exp(-(np.maximum(d, 0) ** 2) / 4))[..., None]
    floor = tinted((0.13, 0.13, 0.15), 1 + 0.4 * lit * np.clip(1 + d / radius, 0, 1))
    if kind == "dent":
        bump = blob(c, u, v, wrong, (95, 95), (7, 14))
        rgb = rgb * relief(3 * c.cover(bump, 9), wrong.choice([-0.6, 0.5, 0.8]))[..., None]
    return over(flawed(c, rgb, u, v, wrong, kind, (100, 100), (0.85, 0.66, 0.5)), floor, c.cover(d))


def connector(c: Canvas, rng: Rng, kind: str, wrong: Rng) -> Array:
    """A black plug with ten gold pins in twelve slots."""
    u, v = c.posed(rng, 5, 2.5, 0.02)
    bench = tinted((0.55, 0.60, 0.62), 1 + 0.03 * c.clouds(rng, 5) + 0.015 * c.clouds(rng, 60))
    body = box(u, v, 100, 50, 10)
    rgb = over(bench, bench * 0.45, c.cover(box(u - 6, v - 7, 100, 50, 10), 16))
    plastic = np.float32((0.16, 0.17, 0.20)) * (1 + 0.1 * rng.standard_normal())
    surface = tinted(plastic, 1 + 0.05 * c.clouds(rng, 110) + 0.1 * c.clouds(rng, 3))
    rgb = over(rgb, surface * relief(np.clip(-body, 0, 6), 0.28)[..., None], c.cover(body))
    rgb = over(rgb, plastic * 0.5, c.cover(box(u - 52, v + 46, 14, 5, 2)))  # the key, so that a plug has one way up
    pin, at = np.ones((6, 2), bool), rng.normal(0, 0.5, (2, 6, 2)).astype(np.float32)
    pin[2, 0] = pin[4, 1] = False
    chosen, empty = tuple(np.argwhere(pin)[wrong.integers(10)]), tuple(np.argwhere(~pin)[wrong.integers(2)])
    if kind in ("wrong_slot", "missing_pin"):
        pin[chosen], pin[empty] = False, kind == "wrong_slot"
    elif kind == "bent_pin":
        a = wrong.uniform(0, 2 * np.pi)
        at[(slice(None), *chosen)] += polar(wrong.uniform(3, 5.5), a)
    column = np.clip(np.round(u / 31 + 2.5), 0, 5).astype(int)
    row = np.clip(np.round(v / 42 + 0.5), 0, 1).astype(int)
    su, sv = u - (column - 2.5) * 31, v - (row - 0.5) * 42
    slot = box(su, sv, 11, 11, 2)
    rgb = over(rgb, plastic * 1.5, c.cover(slot - 1.5) * 0.5)
    rgb = over(rgb, tinted((0.05, 0.05, 0.06), 1 + 0.05 * np.clip(-slot, 0, 8)), c.cover(slot))
    d = np.where(pin[column, row], box(su - at[0, column, row], sv - at[1, column, row], 5.5, 5.5, 1.5), 9)
    rgb = over(rgb, tinted((0.82, 0.66, 0.33), relief(np.clip(-d, 0, 3), 0.35)), c.cover(d))
    if kind == "scratch":
        rgb = over(rgb, flawed(c, rgb, u, v, wrong, kind, (85, 40)), c.cover(body))
    elif kind == "residue":
        d = np.maximum(blob(c, u, v, wrong, (90, 42), (4, 10)), body)
        rgb = over(rgb, (0.75, 0.76, 0.72), c.cover(d, 4) * wrong.uniform(0.15, 0.5))
    return rgb


DIGITS = {"1": "bc", "4": "bcfg", "7": "abc", "9": "abcdfg"}  # lit bars of a seven-segment display
CORNERS = {"a": (-13, -26, 13, -26), "b": (13, -26, 13, 0), "c": (13, 0, 13, 26)}
CORNERS |= {"d": (-13, 26, 13, 26), "f": (-13, -26, -13, 0), "g": (-13, 0, 13, 0)}  # of each bar, its two ends


def cap(c: Canvas, rng: Rng, kind: str, wrong: Rng) -> Array:
    """A crimped bottle cap printed with the number 47."""
    cream = (0.90, 0.86, 0.78)
    u, v = c.posed(rng, 7, 7, 0.03)
    belt = tinted((0.27, 0.30, 0.31), 1 + 0.04 * c.clouds(rng, 70) + 0.05 * c.clouds(rng, 3))
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    flute = np.cos(21 * angle)
    if kind == "crushed_crimp":
        a = wrong.uniform(-np.pi, np.pi)
        near = np.abs(np.angle(np.exp(1j * (angle - a)))) < wrong.uniform(0.14, 0.3)
        flute = np.where(near, flute * wrong.uniform(-0.1, 0.35), flute)
    rgb = over(belt, belt * 0.4, c.cover(np.hypot(u - 6, v - 8) - 96, 16))
    hue = np.float32((0.70, 0.16, 0.13)) * (1 + rng.normal(0, [0.07, 0.1, 0.1])).astype(np.float32)
    lit = -(u + v) / (radius + 1) / 1.414
    skirt = tinted(hue, 0.78 + 0.22 * flute * (0.5 + 0.5 * lit) + 0.2 * lit)
    rgb = over(rgb, skirt, c.cover(radius - 97 - 3 * flute))
    face = tinted(hue, 1.05 + 0.06 * c.clouds(rng, 3) - 0.0012 * (u + v))
    rgb = over(rgb, face * relief(np.clip(78 - radius, 0, 5), 0.16)[..., None], c.cover(radius - 79))
    rgb = over(rgb, cream, c.cover(np.abs(radius - 62) - 1.6) * 0.9)
    pu, pv = u - rng.normal(0, 0.8), v - rng.normal(0, 0.8)
    pu = -pu if kind == "mirrored_print" else pu
    number = wrong.choice(["97", "41", "44", "77", "49"]) if kind == "wrong_number" else "47"
    bars = [(middle, CORNERS[bar]) for middle, digit in zip((-21, 21), number) for bar in DIGITS[digit]]
    ink = np.minimum.reduce([segment(pu - middle, pv, ends[:2], ends[2:]) for middle, ends in bars])
    rgb = over(rgb, cream, c.cover(ink - 4.2) * 0.95)
    return over(rgb, flawed(c, rgb, u, v, wrong, kind, (50, 50), (0.6, 0.65, 0.7)), c.cover(radius - 79))


def biscuit(c: Canvas, rng: Rng, kind: str, wrong: Rng) -> Array:
    """A butter biscuit with fifteen dock holes."""
    u, v = c.posed(rng, 5, 3, 0.025)
    tray = tinted((0.36, 0.42, 0.48), 1 + 0.03 * c.clouds(rng, 120, 4) + 0.04 * c.clouds(rng, 3))
    around = np.arctan2(v * 1.45, u)
    edge = box(u, v, 102, 70, 20) + 2.4 * np.cos(32 * around) + 0.8 * c.clouds(rng, 16)
    baked, crumb, dough = c.clouds(rng, 5), c.clouds(rng, 120), c.clouds(rng, 40)
    places = [(column * 36, row * 38) for row in (-1, 0, 1) for column in (-2, -1, 0, 1, 2)]
    docks = [(a + rng.normal(0, 0.7), b + rng.normal(0, 0.7)) for a, b in places]
    chosen = wrong.integers(len(docks))
    if kind == "broken":
        a = wrong.uniform(-np.pi, np.pi)
        x, y = polar(1 / max(abs(np.cos(a)) / 104, abs(np.sin(a)) / 72), a)
        size = wrong.uniform(5, 14) * (1 + 0.2 * c.clouds(wrong, 20))
        edge = np.maximum(edge, size - np.hypot(u - x, v - y))
    elif kind == "misplaced_dock":
        a = wrong.uniform(0, 2 * np.pi)
        docks[chosen] = docks[chosen] + polar(wrong.uniform(9, 15), a)
    elif kind == "missing_dock":
        del docks[chosen]
    golden = np.float32((0.86, 0.66, 0.40)) * (1 + 0.04 * rng.standard_normal())
    toast = 0.45 * np.exp(np.minimum(edge, 0) / 9) + 0.09 * baked + 0.03 * dough
    surface = golden * (1 - tinted((0.45, 0.75, 1.0), toast))
    height = np.clip(-edge, 0, 14) * 0.35 + 0.25 * crumb + 0.4 * dough
    for a, b in docks:
        dip = np.exp(-((u - a) ** 2 + (v - b) ** 2) / 18)
        height, surface = height - 4.5 * dip, over(surface, surface * 0.4, dip)
    surface = surface * relief(height, 0.22)[..., None]
    if kind == "crack":
        start, a = wrong.uniform([-80, -50], [80, 50]), wrong.uniform(0, 2 * np.pi)
        end = start + polar(wrong.uniform(18, 45), a)
        d = segment(u + 2.5 * c.clouds(wrong, 24), v + 2.5 * c.clouds(wrong, 24), start, end)
        surface = over(surface, surface * 0.5, c.cover(d - wrong.uniform(0.5, 1.2)) * wrong.uniform(0.6, 1))
    surface = flawed(c, surface, u, v, wrong, kind, (90, 58), (0.62, 0.5, 0.4))
    rgb = over(tray, tray * 0.5, c.cover(box(u - 5, v - 6, 102, 70, 20), 14))
    return over(rgb, surface, c.cover(edge))


SCENES: dict[str, tuple[Callable[[Canvas, Rng, str, Rng], Array], list[str]]] = {
    name: (scene, defects.split())
    for name, scene, defects in (
        ("biscuit", biscuit, "broken burnt crack misplaced_dock missing_dock"),
        ("cap", cap, "crushed_crimp mirrored_print scratch stain wrong_number"),
        ("connector", connector, "bent_pin missing_pin residue scratch wrong_slot"),
        ("grid", grid, "blocked_hole dent rust scratch shifted_hole"),
        ("parquet", parquet, "dent scratch stain turned_tile worm_hole"),
        ("weave", weave, "float hole loose_thread stain swapped_threads"),
    )
}  # category: its scene, its defect kinds
# Defect kinds whose every part is well formed, but not where or what it should be.
LOGICAL = {"misplaced_dock", "mirrored_print", "wrong_number", "wrong_slot", "shifted_hole"}
LOGICAL |= {"turned_tile", "float", "swapped_threads"}
RELIT = "biscuit"  # the category whose test images are lit a little differently from its training images


def render(category: str, split: str, kind: str, index: int, seed: int = 0, size: int = 256) -> tuple[Array, ...]:
    """One image, its twin without the defect, and the mask of where they differ.

    Returns:
        image and twin, (size, size, 3) uint8, equal for kind "good"; mask, (size, size) bool.
    """
    key = [seed, zlib.crc32(f"{category}/{split}/{kind}/{index}".encode())]
    twin = _photograph(category, split, "good", [*key, 0], key, size)
    if kind == "good":
        return twin, twin, np.zeros((size, size), bool)
    for attempt in range(1, 50):  # until the defect can be seen
        image = _photograph(category, split, kind, [*key, attempt], key, size)
        mask = _visible(image, twin)
        if mask.sum() > 30 * (size / 256) ** 2:
            break
    return np.where(mask[..., None], image, twin), twin, mask


def _photograph(category: str, split: str, kind: str, wrong: list[int], key: list[int], size: int) -> Array:
    """(size, size, 3) uint8: the scene under a lamp, with some sensor noise."""
    c = Canvas(size)
    rgb = SCENES[category][0](c, np.random.default_rng([*key, 1000]), kind, np.random.default_rng(wrong))
    lamp = np.random.default_rng([*key, 2000])
    x, y = c.xy
    a = lamp.uniform(0, 2 * np.pi)
    light = 1 + lamp.normal(0, 0.05) + lamp.uniform(0, 0.09) * (x * np.cos(a) + y * np.sin(a)).astype(np.float32) / 128
    tint = 1 + lamp.normal(0, 0.012, 3)
    if category == RELIT and split == "test":
        light, tint = light * 1.06, tint * (1.02, 1.0, 0.97)
    noise = normal(lamp, size, size) * 1.1
    levels = rgb * light[..., None] * tint.astype(np.float32) * 255 + noise[..., None]
    return np.clip(levels + 0.5, 0, 255).astype(np.uint8)


def _visible(image: Array, twin: Array) -> Array:
    """Where two images differ visibly, as regions: small gaps closed, specks of under 8 pixels dropped."""
    from scipy import ndimage  # here, since a verdict does not wait for it

    differs = np.abs(image.astype(np.int16) - twin).max(axis=2) > 5
    near = ndimage.binary_closing(np.pad(differs, 3), iterations=3)[3:-3, 3:-3]
    labels, _ = ndimage.label(near)
    return near & (np.bincount(labels.ravel()) >= 8)[labels]


def make_factory(
    root: str | Path,
    seed: int = 0,
    categories: str | Iterable[str] = "all",
    train: int = 50,
    test_good: int = 25,
    per_defect: int = 5,
    size: int = 256,
) -> Path:
    """Write the factory data set into `root`, as PNG in MVTec-AD's layout; a finished one is used again.

    Args:
        root: folder to make; it appears only when it is complete. A second process waits for the first.
        categories: one name, several, or "all".
        train, test_good, per_defect: images a category: normal ones to train on, to test on, and of each defect.
        size: pixels of a side.

    Raises:
        DumenetError: an unknown category, something else in `root`, or a disk that cannot take it.
    """
    root, counts = Path(root), {"train": train, "test_good": test_good, "per_defect": per_defect}
    settings = {"version": VERSION, "seed": seed, "categories": choose(SCENES, categories), **counts, "size": size}
    if _is_finished(root, settings):
        return root
    part = root.absolute().with_name(f".{root.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(part.with_suffix(".lock")):
            shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
            try:
                if not _is_finished(root, settings):  # a run that held the lock before may have made it
                    _write(part, settings)
                    part.rename(root)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        kept = "nothing of it is kept, and all six categories take about 60 MB"
        raise refused(f"write the factory data set to {root}", error, kept) from None
    return root


def _write(folder: Path, settings: dict) -> None:
    """Draw and save every image, then factory.json: the settings, and the number of images."""
    jobs = []
    for name in settings["categories"]:
        kinds = [("train", "good", settings["train"]), ("test", "good", settings["test_good"])]
        kinds += [("test", kind, settings["per_defect"]) for kind in SCENES[name][1]]
        jobs += [(name, split, kind, i) for split, kind, count in kinds for i in range(count)]

    def draw(job: tuple[str, str, str, int]) -> None:
        name, split, kind, i = job
        image, _, mask = render(*job, settings["seed"], settings["size"])
        files = {folder / name / split / kind / f"{i:03d}.png": image}
        if kind != "good":
            files[folder / name / "ground_truth" / kind / f"{i:03d}_mask.png"] = mask
        for path, pixels in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, compress_level=1)  # higher levels: 5 % smaller, half as fast in all

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy and the PNG encoder leave Python's lock to the others
        list(pool.map(draw, jobs))
    stamp = settings | {"images": len(list(folder.glob(IMAGES)))}
    (folder / "factory.json").write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")


def _is_finished(root: Path, settings: dict) -> bool:
    """Whether `root` holds the set with these settings; False where there is nothing yet."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        stamp = json.loads((root / "factory.json").read_text(encoding="utf-8"))
        whole = len(list(root.glob(IMAGES))) == stamp["images"]
        same = all(stamp[k] == v for k, v in settings.items())
    except (OSError, ValueError, KeyError, TypeError):
        raise DumenetError(f"{root} holds something else than the factory data set: choose another folder.") from None
    if whole and same:
        return True
    what = "a factory data set with other settings" if whole else "an incomplete factory data set"
    raise DumenetError(f"{root} holds {what}: delete it to have it made again, or choose another folder.")
