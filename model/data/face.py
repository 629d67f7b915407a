"""A parametrised, 2.5-dimensional head and shoulders, drawn with skia: the faces that pocket learns from.

A ``Look`` says who is seen and where, a ``Pose`` what the face does in one picture, a ``Renderer`` draws. Everything is vector
shapes and gradients of our own; what no pose changes (the place, the clothes) is drawn once a look.

All lengths are in units of 1/256 of the picture's side. *Head space* has its origin between the eyes and the nose, x to the
picture's right, y down, z towards the viewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import skia

Point = tuple[float, float]

PRESENTATIONS = ("female", "male")
AGES = ("young", "middle", "older")
SKINS = ("pale", "fair", "olive", "tan", "brown", "dark")
HAIR_COLOURS = ("black", "brown", "chestnut", "blond", "red", "grey")
HAIR_STYLES = ("long", "wavy", "bob", "bun", "ponytail", "curly", "short", "swept", "buzz", "bald")
EYE_COLOURS = ("brown", "blue", "green", "grey")
GLASSES = ("none", "round", "square")
BEARDS = ("none", "stubble", "moustache", "full")
GARMENTS = ("t-shirt", "shirt", "sweater", "blazer", "hoodie")
GARMENT_COLOURS = ("blue", "red", "green", "grey", "yellow", "white", "purple", "black")
PLACES = ("office", "library", "kitchen", "studio", "park", "plain light", "plain blue", "plain dark")
LIGHTS = ("bright", "warm", "cool")
MOODS = ("calm", "cheerful")

_CHOICES: dict[str, tuple[str, ...]] = {
    "presentation": PRESENTATIONS,
    "age": AGES,
    "skin": SKINS,
    "hair_colour": HAIR_COLOURS,
    "hair_style": HAIR_STYLES,
    "eye_colour": EYE_COLOURS,
    "glasses": GLASSES,
    "beard": BEARDS,
    "garment": GARMENTS,
    "garment_colour": GARMENT_COLOURS,
    "place": PLACES,
    "light": LIGHTS,
    "mood": MOODS,
}

_SKIN_RGB = dict(zip(SKINS, (0xF8DAC6, 0xF1C4A2, 0xDDAE83, 0xC48C60, 0x9A6745, 0x6E4633), strict=True))
_HAIR_RGB = dict(zip(HAIR_COLOURS, (0x2A2227, 0x4B3026, 0x80502F, 0xDDB56C, 0xA8452A, 0xA9ACB2), strict=True))
_EYE_RGB = dict(zip(EYE_COLOURS, (0x6B4326, 0x3F7FB0, 0x4F8A55, 0x76868F), strict=True))
_GARMENT_RGB = dict(
    zip(GARMENT_COLOURS, (0x34588C, 0xA03A42, 0x3E7A5C, 0x74787F, 0xD6A640, 0xECE9E3, 0x70508F, 0x2B2D36), strict=True)
)
_FEMALE_STYLES = {"long": 5, "wavy": 5, "bob": 4, "bun": 3, "ponytail": 3, "curly": 3, "short": 2}
_MALE_STYLES = {"short": 6, "swept": 5, "buzz": 3, "curly": 2, "bald": 2}


@dataclass(frozen=True)
class Look:
    """Who is seen, and where: discrete attributes that captions may name, then the shape of the face around 1."""

    presentation: str = "female"
    age: str = "young"
    skin: str = "fair"
    hair_colour: str = "brown"
    hair_style: str = "long"
    eye_colour: str = "brown"
    glasses: str = "none"
    beard: str = "none"
    garment: str = "sweater"
    garment_colour: str = "green"
    place: str = "office"
    light: str = "bright"
    mood: str = "cheerful"
    earrings: bool = False
    face_width: float = 1.0
    jaw: float = 1.0
    eye_size: float = 1.0
    nose: float = 1.0
    lips: float = 1.0
    brows: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"look.{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        if self.beard != "none" and self.presentation != "male":
            raise ValueError("look.beard needs presentation 'male'")

    @staticmethod
    def sample(rng: np.random.Generator, presentation: str | None = None) -> Look:
        """A plausible random look; ``presentation`` fixes whether it is a woman or a man."""

        def pick(weights: dict[str, float]) -> str:
            p = np.fromiter(weights.values(), float)
            return str(rng.choice(list(weights), p=p / p.sum()))

        def even(choices: Sequence[str]) -> str:
            return str(rng.choice(list(choices)))

        def near(spread: float) -> float:
            return round(float(1 + rng.uniform(-spread, spread)), 3)

        who = presentation or even(PRESENTATIONS)
        man = who == "male"
        age = pick({"young": 4, "middle": 4, "older": 2})
        skin = even(SKINS)
        if age == "older":
            colours = {"grey": 6.0, "brown": 1.0, "blond": 1.0, "black": 1.0}
        elif skin in ("brown", "dark"):
            colours = {"black": 6.0, "brown": 3.0, "chestnut": 1.0}
        else:
            colours = {"black": 2.0, "brown": 2.0, "chestnut": 2.0, "blond": 2.0, "red": 2.0}
        eyes = {"brown": 7.0, "green": 1.0, "grey": 1.0} if skin in ("brown", "dark", "tan") else dict.fromkeys(EYE_COLOURS, 1.0)
        return Look(
            presentation=who,
            age=age,
            skin=skin,
            hair_colour=pick(colours),
            hair_style=pick(_MALE_STYLES if man else _FEMALE_STYLES),  # type: ignore[arg-type]
            eye_colour=pick(eyes),
            glasses=pick({"none": 5, "round": 2, "square": 2}),
            beard=pick({"none": 5, "stubble": 2, "moustache": 1, "full": 3}) if man else "none",
            garment=even(GARMENTS),
            garment_colour=even(GARMENT_COLOURS),
            place=even(PLACES),
            light=pick({"bright": 3, "warm": 2, "cool": 2}),
            mood=even(MOODS),
            earrings=not man and bool(rng.random() < 0.4),
            face_width=near(0.05),
            jaw=round((1.05 if man else 0.95) * near(0.05), 3),
            eye_size=near(0.07),
            nose=near(0.14),
            lips=near(0.12),
            brows=near(0.2),
        )

    def labels(self) -> dict[str, int]:
        """Class index of every discrete attribute, for an auxiliary classifier."""
        return {name: choices.index(getattr(self, name)) for name, choices in _CHOICES.items()} | {"earrings": int(self.earrings)}

    @staticmethod
    def cardinalities() -> dict[str, int]:
        """Number of classes of every attribute that ``labels`` names, in the same order."""
        return {name: len(choices) for name, choices in _CHOICES.items()} | {"earrings": 2}


def choices(attribute: str) -> tuple[str, ...]:
    """What an attribute of a look can be, in the order of its labels, as text."""
    return _CHOICES.get(attribute, ("False", "True"))


class Pose(NamedTuple):
    """What the face does in one picture. Angles in radians, shifts in 1/256 of the picture, everything else about 0..1."""

    yaw: float = 0.0  # positive: to the picture's right
    pitch: float = 0.0  # positive: up
    roll: float = 0.0  # positive: clockwise
    shift_x: float = 0.0
    shift_y: float = 0.0
    blink_left: float = 0.0  # the picture's left
    blink_right: float = 0.0
    gaze_x: float = 0.0  # -1..1
    gaze_y: float = 0.0
    brow_left: float = 0.0  # -1..1
    brow_right: float = 0.0
    smile: float = 0.2
    open: float = 0.0
    wide: float = 0.0  # -1..1
    round: float = 0.0
    press: float = 0.0
    bite: float = 0.0
    teeth: float = 0.0
    tongue: float = 0.0
    breath: float = 0.0


POSE_FIELDS = Pose._fields


class Box(NamedTuple):
    """A rectangle of pixels: left <= x < right, top <= y < bottom."""

    left: int
    top: int
    right: int
    bottom: int


@cache
def _mix(a: int, b: int, t: float) -> int:
    return sum(round(((a >> s) & 255) * (1 - t) + ((b >> s) & 255) * t) << s for s in (16, 8, 0))


def _dark(colour: int, t: float) -> int:
    return _mix(colour, 0x241018, t)


def _lite(colour: int, t: float) -> int:
    return _mix(colour, 0xFFF6EA, t)


def _argb(colour: int, alpha: float = 255) -> int:
    return int(skia.ColorSetARGB(int(alpha), (colour >> 16) & 255, (colour >> 8) & 255, colour & 255))


def _fill(colour: int, alpha: float = 255) -> Any:
    return skia.Paint(AntiAlias=True, Color=_argb(colour, alpha))


def _line(colour: int, width: float, alpha: float = 255) -> Any:
    return skia.Paint(
        AntiAlias=True,
        Color=_argb(colour, alpha),
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )


def _linear(start: Point, end: Point, stops: Sequence[tuple[int, float]], positions: Sequence[float] | None = None) -> Any:
    shader = skia.GradientShader.MakeLinear(
        [skia.Point(*start), skia.Point(*end)], [_argb(*s) for s in stops], list(positions or [])
    )
    return skia.Paint(AntiAlias=True, Shader=shader)


def _radial(centre: Point, radius: float, stops: Sequence[tuple[int, float]], positions: Sequence[float] | None = None) -> Any:
    shader = skia.GradientShader.MakeRadial(skia.Point(*centre), radius, [_argb(*s) for s in stops], list(positions or []))
    return skia.Paint(AntiAlias=True, Shader=shader)


def _smooth(points: Sequence[Point], closed: bool = True) -> Any:
    """A Catmull-Rom curve through the points."""
    path = skia.Path()
    _append_smooth(path, points, closed)
    return path


def _append_smooth(path: Any, points: Sequence[Point], closed: bool = False) -> None:
    n = len(points)
    ring = [points[-1], *points, points[0], points[1]] if closed else [points[0], *points, points[-1], points[-1]]
    path.moveTo(*points[0])
    for i in range(n if closed else n - 1):
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = ring[i : i + 4]
        path.cubicTo(bx + (cx - ax) / 6, by + (cy - ay) / 6, cx - (dx - bx) / 6, cy - (dy - by) / 6, cx, cy)
    if closed:
        path.close()


def _mirror(half: Sequence[Point]) -> list[Point]:
    """A whole symmetric outline, clockwise, from its right half (top to bottom)."""
    inner = half[1:-1] if half[-1][0] == 0 and half[0][0] == 0 else half[1:] if half[0][0] == 0 else half
    return [*half, *((-x, y) for x, y in reversed(inner))]


class Renderer:
    """Draws one look. Not thread-safe; cheap enough to make one a clip.

    Args:
        look: whom to draw.
        size_px: side of the square picture.
    """

    def __init__(self, look: Look, size_px: int = 256) -> None:
        self.look = look
        self.size_px = size_px
        self._surface = skia.Surface(size_px, size_px)
        self._canvas = self._surface.getCanvas()
        self._info = skia.ImageInfo.Make(size_px, size_px, skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType)
        self._man = look.presentation == "male"
        self._skin = _SKIN_RGB[look.skin]
        self._hair = _HAIR_RGB[look.hair_colour]
        self._cloth = _GARMENT_RGB[look.garment_colour]
        self._blobs: dict[int, Any] = {}
        self._place = self._picture(self._draw_place)
        self._body = self._recorded(self._draw_body)
        self._hood = self._recorded(self._draw_hood)
        deep = look.skin in ("brown", "dark")
        rose = _mix(self._skin, 0xB8323C if not deep else 0x8E2F38, 0.36 if self._man else 0.66)
        self._lip = _dark(rose, 0.06 if not deep else 0.16)
        # A moustache must not hide whether the lips touch, so lips of bearded men are drawn a little brighter.
        if look.beard in ("moustache", "full"):
            self._lip = _lite(self._lip, 0.08)

    def frame(self, pose: Pose) -> np.ndarray:
        """One picture, uint8 [size_px, size_px, 3] RGB; a new array, of which a pixel takes four bytes (so not contiguous)."""
        c = self._canvas
        c.save()
        c.drawImage(self._place, 0, 0)
        c.scale(self.size_px / 256, self.size_px / 256)
        self._pose(pose)
        c.save()
        self._enter_head(c)
        self._draw_hair_behind(c)
        c.restore()
        c.save()
        c.translate(128, 256)
        c.scale(1 + 0.008 * pose.breath, 1 + 0.03 * pose.breath)
        c.drawPicture(self._hood)
        c.restore()
        self._draw_neck(c)
        c.save()
        c.translate(128, 256)
        c.scale(1 + 0.008 * pose.breath, 1 + 0.03 * pose.breath)
        c.drawPicture(self._body)
        c.restore()
        c.save()
        self._enter_head(c)
        self._draw_ears(c)
        self._draw_face(c)
        self._draw_nose(c)
        self._draw_eye(c, -1)
        self._draw_eye(c, 1)
        self._draw_brow(c, -1)
        self._draw_brow(c, 1)
        self._draw_beard(c)
        self._draw_mouth(c)
        self._draw_hair_before(c)
        if self.look.glasses != "none":
            self._draw_glasses(c)
        c.restore()
        self._draw_light(c)
        c.restore()
        pixels = np.empty((self.size_px, self.size_px, 4), np.uint8)
        self._surface.readPixels(self._info, pixels, self.size_px * 4, 0, 0)
        return pixels[..., :3]

    def boxes(self, pose: Pose) -> tuple[Box, Box]:
        """Where the mouth (with the chin's upper part) and the eyes (with the brows) are in this pose's picture."""
        self._pose(pose)
        mouth = [self._at(x, y, 4) for x in (-34, 34) for y in (22.0, 52 + 0.8 * self._jaw_drop)]
        eyes = [self._at(x, y, 0) for x in (-44, 44) for y in (-36.0, 8.0)]
        return self._box(mouth), self._box(eyes)

    # -- geometry -----------------------------------------------------------------------------------------------------------

    def _pose(self, pose: Pose) -> None:
        self._p = pose
        self._cos_yaw, self._sin_yaw = math.cos(pose.yaw), math.sin(pose.yaw)
        self._cos_pitch, self._sin_pitch = math.cos(pose.pitch), math.sin(pose.pitch)
        self._opening = mouth_opening(pose.open, pose.press, pose.bite)
        self._jaw_drop = 9.0 * self._opening + 1.5 * pose.round

    def _enter_head(self, c: Any) -> None:
        c.translate(128 + self._p.shift_x, 122 + self._p.shift_y)
        c.translate(0, 62)
        c.rotate(math.degrees(self._p.roll))
        c.translate(0, -62)

    def _project(self, x: float, y: float, z: float) -> Point:
        x, z = x * self._cos_yaw + z * self._sin_yaw, z * self._cos_yaw - x * self._sin_yaw
        y, z = y * self._cos_pitch - z * self._sin_pitch, z * self._cos_pitch + y * self._sin_pitch
        k = 1 + z * 0.0008
        return x * k, y * k

    def _at(self, x: float, y: float, off: float = 0.0) -> Point:
        """Projection of the face's surface at (x, y), ``off`` in front of it."""
        bulge = 1 - (x / 66) ** 2 * 0.9 - (y / 88) ** 2 * 0.8
        return self._project(x, y, 62 * math.sqrt(max(bulge, 0.02)) - 8 + off)

    def _on(self, points: Sequence[Point], off: float = 0.0) -> list[Point]:
        return [self._at(x, y, off) for x, y in points]

    def _box(self, corners: Sequence[Point]) -> Box:
        cos, sin, k = math.cos(self._p.roll), math.sin(self._p.roll), self.size_px / 256
        xs, ys = [], []
        for x, y in corners:
            xs.append((128 + self._p.shift_x + x * cos - (y - 62) * sin) * k)
            ys.append((122 + 62 + self._p.shift_y + x * sin + (y - 62) * cos) * k)
        limit = self.size_px
        return Box(
            max(0, math.floor(min(xs))),
            max(0, math.floor(min(ys))),
            min(limit, math.ceil(max(xs))),
            min(limit, math.ceil(max(ys))),
        )

    def _picture(self, draw: Any) -> Any:
        surface = skia.Surface(self.size_px, self.size_px)
        canvas = surface.getCanvas()
        canvas.scale(self.size_px / 256, self.size_px / 256)
        draw(canvas)
        return surface.makeImageSnapshot()

    @staticmethod
    def _recorded(draw: Any) -> Any:
        recorder = skia.PictureRecorder()
        draw(recorder.beginRecording(skia.Rect(-200, -200, 200, 200)))
        return recorder.finishRecordingAsPicture()

    def _blob(self, c: Any, x: float, y: float, rx: float, ry: float, colour: int, alpha: float) -> None:
        """A soft elliptic spot; what a blur would give, at a fraction of its price."""
        paint = self._blobs.get(colour)
        if paint is None:
            paint = _radial((0, 0), 1, [(colour, 255), (colour, 190), (colour, 66), (colour, 0)], (0, 0.35, 0.7, 1))
            self._blobs[colour] = paint
        paint.setAlpha(int(alpha))
        c.save()
        c.translate(x, y)
        c.scale(rx, ry)
        c.drawCircle(0, 0, 1, paint)
        c.restore()

    # -- place, light, body ---------------------------------------------------------------------------------------------------

    def _draw_place(self, c: Any) -> None:
        blur = skia.Paint(ImageFilter=skia.ImageFilters.Blur(2.6, 2.6, skia.TileMode.kClamp))
        whole = skia.Rect(0, 0, 256, 256)
        c.saveLayer(whole, blur)
        getattr(self, "_place_" + self.look.place.replace(" ", "_"))(c)
        c.restore()
        # A halo behind the head keeps the silhouette readable in any place.
        c.drawRect(whole, _radial((128, 112), 150, [(0xFFFFFF, 46), (0xFFFFFF, 20), (0x101420, 50)], (0, 0.55, 1)))

    @staticmethod
    def _wall(c: Any, top: int, bottom: int) -> None:
        c.drawRect(skia.Rect(-20, -20, 276, 276), _linear((60, 0), (150, 256), [(top, 255), (bottom, 255)]))

    def _place_plain_light(self, c: Any) -> None:
        self._wall(c, 0xF4EFE8, 0xD5CCC0)

    def _place_plain_blue(self, c: Any) -> None:
        self._wall(c, 0xA9CBE6, 0x5B88B5)

    def _place_plain_dark(self, c: Any) -> None:
        self._wall(c, 0x454B5A, 0x1E222C)

    def _place_office(self, c: Any) -> None:
        self._wall(c, 0xEDF1F4, 0xC4CFD8)
        c.drawRect(skia.Rect(-20, 14, 84, 150), _linear((0, 14), (0, 150), [(0xD9F0FF, 255), (0xA9D3EE, 255)]))
        for y in range(14, 150, 17):
            c.drawRect(skia.Rect(-20, y, 84, y + 3), _fill(0xFFFFFF, 210))
        c.drawRect(skia.Rect(38, 14, 42, 150), _fill(0xF8FAFB))
        c.drawRect(skia.Rect(84, 10, 88, 154), _fill(0xFFFFFF))
        c.drawRect(skia.Rect(178, 64, 276, 70), _fill(0x9A7B5C))
        for i, (colour, height) in enumerate(((0x3F6EA5, 34), (0xD9823B, 28), (0x4E8F74, 38), (0xB24A4A, 30), (0x6A6F7C, 36))):
            c.drawRect(skia.Rect(196 + i * 11, 64 - height, 205 + i * 11, 64), _fill(colour))
        c.drawRect(skia.Rect(-20, 188, 276, 276), _linear((0, 188), (0, 256), [(0xB99A76, 255), (0x8F7252, 255)]))
        for dx in (-14, -5, 5, 14):
            c.drawPath(_smooth([(226 + dx * 0.2, 180), (226 + dx, 128), (226 + dx * 2.2, 146)]), _fill(0x4F8B57))
        c.drawRect(skia.Rect(212, 168, 240, 196), _fill(0xD8D2C8))

    def _place_library(self, c: Any) -> None:
        self._wall(c, 0x5A3B28, 0x3A2418)
        spines = (0x8C3B34, 0x2F5D62, 0xC08A3E, 0x40507F, 0x6D7B4A, 0xA66A45, 0x7A4B72, 0xD2BE92)
        k = 0
        for row in range(-1, 5):
            bottom = 52 + row * 54
            x = -12
            while x < 268:
                k += 1
                width, height = 8 + (k * 7) % 6, 34 + (k * 11) % 12
                c.drawRect(skia.Rect(x, bottom - height, x + width, bottom), _fill(spines[(k * 5 + row) % len(spines)]))
                c.drawRect(skia.Rect(x, bottom - height, x + 1.6, bottom), _fill(0x1C100A, 120))
                x += width + 1
            c.drawRect(skia.Rect(-20, bottom, 276, bottom + 7), _fill(0x7A5233))
        for x in (30, 226):
            c.drawRect(skia.Rect(x - 4, -20, x + 4, 276), _fill(0x6B452B))
        c.drawRect(skia.Rect(-20, -20, 276, 276), _radial((60, 40), 200, [(0xFFD999, 74), (0xFFD999, 0)]))

    def _place_kitchen(self, c: Any) -> None:
        self._wall(c, 0xF6EEDF, 0xE2D3BC)
        for y in range(66, 150, 14):
            c.drawLine(-10, y, 266, y, _line(0xFFFFFF, 1.6, 170))
            for x in range(-10 + (y // 14 % 2) * 12, 266, 24):
                c.drawLine(x, y, x, y + 14, _line(0xFFFFFF, 1.6, 170))
        for x in (-14, 40, 176, 230):
            c.drawRect(skia.Rect(x, -10, x + 50, 62), _fill(0x86A596))
            c.drawRect(skia.Rect(x + 5, -10, x + 45, 56), _fill(0x98B6A7))
            c.drawCircle(x + 40, 46, 2.4, _fill(0xE9DDC3))
        c.drawRect(skia.Rect(-20, 150, 276, 162), _fill(0xD9CFC2))
        c.drawRect(skia.Rect(-20, 162, 276, 276), _fill(0x7F9E8F))
        c.drawRect(skia.Rect(26, 122, 48, 150), _fill(0xC65B45))
        c.drawRect(skia.Rect(214, 116, 232, 150), _fill(0xE3B04B))
        c.drawCircle(240, 139, 11, _fill(0xD9803F))
        c.drawCircle(66, 141, 9, _fill(0x7DA453))

    def _place_studio(self, c: Any) -> None:
        self._wall(c, 0x2C3346, 0x171B27)
        for x in range(-20, 276, 32):
            for y in range(-20, 276, 32):
                shade = 0x39415A if (x // 32 + y // 32) % 2 else 0x303750
                c.drawPath(_smooth([(x + 2, y + 2), (x + 30, y + 2), (x + 30, y + 30), (x + 2, y + 30)]), _fill(shade, 190))
        c.drawRect(skia.Rect(-20, -20, 276, 276), _radial((30, 60), 130, [(0x4FA0FF, 120), (0x4FA0FF, 0)]))
        c.drawRect(skia.Rect(-20, -20, 276, 276), _radial((232, 76), 120, [(0xE05CC0, 105), (0xE05CC0, 0)]))
        for x in (24, 234):
            c.drawRect(skia.Rect(x - 3, 20, x + 3, 190), _fill(0xF2F6FF, 225))

    def _place_park(self, c: Any) -> None:
        sky = [(0x5A5F95, 255), (0xC9808A, 255), (0xF6B878, 255), (0x53624A, 255), (0x34452F, 255)]
        c.drawRect(skia.Rect(-20, -20, 276, 276), _linear((0, 0), (0, 256), sky, (0, 0.36, 0.58, 0.66, 1)))
        c.drawCircle(204, 132, 18, _fill(0xFFE2A0))
        c.drawRect(skia.Rect(-20, -20, 276, 276), _radial((204, 132), 90, [(0xFFE2A0, 130), (0xFFE2A0, 0)]))
        for x, y, r in ((-6, 90, 46), (30, 128, 34), (60, 150, 24), (262, 84, 42), (238, 142, 26), (96, 158, 18), (176, 160, 18)):
            c.drawCircle(x, y, r, _fill(0x33423A if r > 30 else 0x455440))
        for x in (6, 258):
            c.drawRect(skia.Rect(x - 5, 100, x + 5, 200), _fill(0x2E2A2A))
        for x, y in ((48, 40), (90, 26), (150, 34), (226, 30), (188, 60)):
            c.drawCircle(x, y, 5, _fill(0xFFE9B8, 110))

    def _draw_light(self, c: Any) -> None:
        if self.look.light == "bright":
            return
        warm = self.look.light == "warm"
        c.drawColor(_argb(0xFFE8C8 if warm else 0xDCE8FA), skia.BlendMode.kMultiply)

    def _draw_hood(self, c: Any) -> None:
        if self.look.garment == "hoodie":
            hood = _smooth(_mirror([(0, -78), (34, -74), (56, -52), (60, -30), (20, -16), (0, -14)]))
            c.drawPath(hood, _linear((0, -78), (0, -20), [(_dark(self._cloth, 0.12), 255), (_dark(self._cloth, 0.5), 255)]))

    def _draw_neck(self, c: Any) -> None:
        half = 27.0 if self._man else 21.5
        skin = self._skin
        lean_x, lean_y = self._p.shift_x + 18 * self._sin_yaw - 8 * self._p.roll, self._p.shift_y
        top = 122 + 40 + lean_y
        path = skia.Path()
        path.moveTo(128 - half + lean_x, top)
        path.cubicTo(128 - half + lean_x * 0.6, top + 30, 128 - half - 1, 206, 128 - half - 26, 219)
        path.lineTo(128 - half - 20, 262)
        path.lineTo(128 + half + 20, 262)
        path.lineTo(128 + half + 26, 219)
        path.cubicTo(128 + half + 1, 206, 128 + half + lean_x * 0.6, top + 30, 128 + half + lean_x, top)
        path.close()
        chin = 122 + 71 + lean_y + self._jaw_drop
        stops = [(_dark(skin, 0.36), 255), (_dark(skin, 0.3), 255), (_dark(skin, 0.07), 255), (_dark(skin, 0.02), 255)]
        c.drawPath(path, _linear((128, chin - 12), (128, chin + 34), stops, (0, 0.3, 0.72, 1)))
        for side in (-1, 1):  # collar bones
            c.drawPath(
                _smooth([(128 + side * 6, 228), (128 + side * 16, 225), (128 + side * 34, 222)], False),
                _line(_dark(skin, 0.35), 1.6, 80),
            )

    def _draw_body(self, c: Any) -> None:
        """Clothes, in a frame whose origin is the middle of the picture's bottom edge."""
        cloth, wide = self._cloth, 1.06 if self._man else 0.95
        neck = {
            "t-shirt": (36, -38, -22),
            "shirt": (32, -42, -14),
            "sweater": (33, -45, -33),
            "blazer": (36, -40, 4),
            "hoodie": (36, -42, -22),
        }
        nx, ny, dip = neck[self.look.garment]
        body = skia.Path()
        body.moveTo(-136, 12)
        body.cubicTo(-132 * wide, -12, -104 * wide, -24, -76 * wide, -30)
        body.cubicTo(-58, -34, -46, -38, -nx, ny)
        body.cubicTo(-nx * 0.72, dip, nx * 0.72, dip, nx, ny)
        body.cubicTo(46, -38, 58, -34, 76 * wide, -30)
        body.cubicTo(104 * wide, -24, 132 * wide, -12, 136, 12)
        body.close()
        shade = [(_lite(cloth, 0.2), 255), (cloth, 255), (_dark(cloth, 0.3), 255)]
        if self.look.garment == "blazer":
            under = 0xF3F0EA if self.look.garment_colour != "white" else 0x7E94AE
            c.drawPath(_smooth([(-36, -38), (-14, -16), (0, -8), (14, -16), (36, -38), (40, 14), (-40, 14)]), _fill(under))
            for side in (-1, 1):
                collar = _smooth_line([(side * 32, -47), (side * 4, -14), (side * 22, -6), (side * 40, -34)])
                c.drawPath(collar, _fill(_lite(under, 0.4)))
                c.drawPath(collar, _line(_dark(under, 0.3), 0.9, 120))
        c.drawPath(body, _linear((-80, -40), (70, 20), shade, (0, 0.45, 1)))
        for side in (-1, 1):  # folds at the arms
            c.drawPath(
                _smooth([(side * 96 * wide, 8), (side * 88 * wide, -8), (side * 92 * wide, -20)], False),
                _line(_dark(cloth, 0.4), 2.4, 70),
            )
        edge = [
            (-nx, ny),
            (-nx * 0.74, (ny + dip) / 2 + 5),
            (0, dip - (dip - ny) * 0.25),
            (nx * 0.74, (ny + dip) / 2 + 5),
            (nx, ny),
        ]
        if self.look.garment == "t-shirt":
            c.drawPath(_smooth(edge, False), _line(_dark(cloth, 0.2), 5))
            c.drawPath(_smooth([(x, y + 3) for x, y in edge], False), _line(_dark(cloth, 0.4), 1, 130))
        elif self.look.garment == "sweater":
            c.drawPath(_smooth(edge, False), _line(_dark(cloth, 0.1), 11))
            c.drawPath(_smooth([(x, y - 4) for x, y in edge], False), _line(_lite(cloth, 0.25), 2.4, 170))
            for i in range(-8, 9):
                x = i * 4.1
                y = ny + (dip - ny) * 0.75 * (1 - (x / nx) ** 2) + 1
                c.drawLine(x, y - 4, x * 1.03, y + 5, _line(_dark(cloth, 0.35), 1, 130))
            for i in range(-11, 12):
                c.drawLine(i * 10, -26 + abs(i) * 1.6, i * 10.4, 12, _line(_dark(cloth, 0.35), 1.4, 46))
        elif self.look.garment == "shirt":
            c.drawLine(0, -14, 0, 12, _line(_dark(cloth, 0.35), 1.4, 150))
            for y in (-8, 6):
                c.drawCircle(4, y, 1.8, _fill(_lite(cloth, 0.75) if self.look.garment_colour != "white" else 0x9AA2AE))
            for side in (-1, 1):
                collar = _smooth_line([(side * 33, -50), (side * 2, -18), (side * 25, -5), (side * 47, -36)])
                c.drawPath(collar, _linear((0, -50), (0, -4), [(_lite(cloth, 0.32), 255), (_lite(cloth, 0.06), 255)]))
                c.drawPath(collar, _line(_dark(cloth, 0.45), 1.1, 150))
        elif self.look.garment == "blazer":
            for side in (-1, 1):
                lapel = _smooth_line(
                    [
                        (side * 36, -44),
                        (side * 4, 8),
                        (side * 16, 14),
                        (side * 48, -8),
                        (side * 42, -14),
                        (side * 56, -20),
                        (side * 50, -38),
                    ]
                )
                c.drawPath(lapel, _linear((0, -44), (0, 8), [(_lite(cloth, 0.16), 255), (_dark(cloth, 0.12), 255)]))
                c.drawPath(lapel, _line(_dark(cloth, 0.55), 1.1, 150))
        else:
            for side in (-1, 1):
                rim = _smooth(
                    [(side * 40, -50), (side * 44, -36), (side * 30, -22), (side * 8, -10), (side * 20, -26), (side * 32, -40)]
                )
                c.drawPath(rim, _fill(_lite(cloth, 0.14)))
                c.drawPath(rim, _line(_dark(cloth, 0.4), 1, 110))
                c.drawLine(side * 13, -16, side * 15, 8, _line(_lite(cloth, 0.72), 2.4))

    # -- head -----------------------------------------------------------------------------------------------------------------

    def _outline(self) -> list[Point]:
        w, j, drop, smile = self.look.face_width, self.look.jaw, self._jaw_drop, self._p.smile
        # Rounding pulls the lower cheeks in, a smile pushes them out.
        cheek = 1 + 0.012 * smile - 0.018 * max(0.0, self._p.round) + 0.008 * self._p.wide
        half = [
            (0.0, -80.0, 0.0),
            (30 * w, -75, 0),
            (51 * w, -54, 0),
            (60 * w, -22, 0),
            (59 * w, 4, 0),
            (54.5 * w * cheek, 28 + 0.15 * drop, 3),
            (41 * w * j * cheek, 52 + 0.55 * drop, 12),
            (21 * w * j, 66.5 + 0.95 * drop, 22),
            (0, 70.5 + drop, 26),
        ]
        right = [self._project(*p) for p in half]
        return right + [self._project(-x, y, z) for x, y, z in half[-2:0:-1]]

    def _draw_ears(self, c: Any) -> None:
        if self.look.hair_style in ("long", "wavy", "bob"):
            return
        skin = self._skin
        for side in (-1, 1):
            x, y = self._project(side * 60 * self.look.face_width, 2, -10)
            ear = _smooth([(x, y - 15), (x + side * 8, y - 14), (x + side * 10, y - 3), (x + side * 6, y + 9), (x, y + 15)])
            c.drawPath(ear, _linear((x, y - 15), (x, y + 15), [(skin, 255), (_dark(skin, 0.2), 255)]))
            c.drawPath(
                _smooth([(x + side * 3, y - 9), (x + side * 6.5, y - 6), (x + side * 4, y + 3)], False),
                _line(_dark(skin, 0.45), 1.5, 130),
            )
            if self.look.earrings:
                c.drawCircle(x + side * 4, y + 15, 3.2, _fill(0xE9BE5C))
                c.drawCircle(x + side * 4 - 1, y + 14, 1.1, _fill(0xFFFBEA))

    def _draw_face(self, c: Any) -> None:
        skin, p, w = self._skin, self._p, self.look.face_width
        outline = self._outline()
        self._face = _smooth(outline)
        light = self._at(-16, -22)
        stops = [(_lite(skin, 0.22), 255), (_lite(skin, 0.06), 255), (skin, 255), (_dark(skin, 0.16), 255)]
        c.drawPath(self._face, _radial(light, 112, stops, (0, 0.35, 0.62, 1)))
        c.save()
        c.clipPath(self._face, True)
        x, _ = self._project(62, 0, 0)
        c.drawRect(
            skia.Rect(x - 46, -90, x + 4, 96), _linear((x - 46, 0), (x + 2, 0), [(_dark(skin, 0.5), 0), (_dark(skin, 0.5), 74)])
        )
        lift = 3.0 * p.smile
        blush = _mix(skin, 0xD8402F, 0.5)
        for side in (-1, 1):
            x, y = self._at(side * 37 * w, 18 - lift)
            self._blob(c, x, y, 19, 13, blush, (40 if self._man else 62) + 20 * p.smile)
            x, y = self._at(side * 34 * w, 11 - lift)
            self._blob(c, x, y, 11, 7, 0xFFFFFF, 34 if self.look.skin not in ("brown", "dark") else 22)
            x, y = self._at(side * 25 * w, -9)
            self._blob(c, x, y, 22, 15, _dark(skin, 0.45), 58)
        x, y = self._at(0, 60 + self._jaw_drop * 0.9)
        self._blob(c, x - 2, y, 14, 8, _lite(skin, 0.5), 60)
        crease = (0.25 + (0.75 if self.look.age == "older" else 0.5 if self.look.age == "middle" else 0)) * 70 + 70 * p.smile
        for side in (-1, 1):
            reach = 30 + 4 * p.wide + 2 * p.smile - 6 * max(0.0, p.round)
            fold = self._on([(side * 16, 18), (side * (reach - 5), 26 - lift), (side * (reach + 1), 36)])
            c.drawPath(_smooth(fold, False), _line(_dark(skin, 0.42), 1.5, min(150, crease)))
        if self.look.age != "young":
            self._draw_wrinkles(c)
        if self.look.hair_style == "bald":
            x, y = self._at(-16, -62)
            self._blob(c, x, y, 22, 11, 0xFFFFFF, 70)
        c.restore()

    def _draw_wrinkles(self, c: Any) -> None:
        older = self.look.age == "older"
        w, colour, fade = self.look.face_width, _dark(self._skin, 0.42), 1.0 if older else 0.72
        paint = _line(colour, 1.2, 90 * fade)
        for y in (-50, -44) if older else ():
            c.drawPath(_smooth(self._on([(-24, y + 2), (0, y), (24, y + 2)]), False), paint)
        for side in (-1, 1):
            for dy in (-3, 1, 5) if older else (-2, 3):  # crow's feet
                c.drawPath(_smooth(self._on([(side * 42 * w, -6 + dy * 0.5), (side * 48 * w, -7 + dy * 1.6)]), False), paint)
            c.drawPath(_smooth(self._on([(side * 15, 3), (side * 24, 6.5), (side * 34, 3)]), False), paint)

    def _draw_nose(self, c: Any) -> None:
        skin, n = self._skin, self.look.nose * (1.1 if self._man else 0.98)
        tip = self._at(0, 14, 12)
        x, y = self._at(5, 4, 6)
        self._blob(c, x + 2, y, 6, 16, _dark(skin, 0.4), 52)
        self._blob(c, tip[0], tip[1] + 6.5, 13 * n, 6, _dark(skin, 0.5), 92)
        x, y = self._at(-1.2, -2, 9)
        self._blob(c, x, y, 4, 15, _lite(skin, 0.7), 72)
        self._blob(c, tip[0], tip[1] + 0.5, 9 * n, 7, _lite(skin, 0.14), 190)
        self._blob(c, tip[0] - 1.6, tip[1] - 2.2, 4.6, 3.4, 0xFFFFFF, 105)
        for side in (-1, 1):
            a, b, d = self._on([(side * 2.6 * n, 20.4), (side * 5.6 * n, 18.6), (side * 8.2 * n, 20.2)], 7)
            c.drawPath(_smooth([a, b, d, ((a[0] + d[0]) / 2, a[1] + 1.2)]), _fill(_dark(skin, 0.66), 190))
            wing = self._on([(side * 9.4 * n, 13.6), (side * 11 * n, 17.6), (side * 8.8 * n, 20.6)], 5)
            c.drawPath(_smooth(wing, False), _line(_dark(skin, 0.45), 1.4, 120))

    def _draw_eye(self, c: Any, side: int) -> None:
        look, p, skin = self.look, self._p, self._skin
        e = look.eye_size * (1.0 if self._man else 1.06)
        blink = min(1.0, max(0.0, (p.blink_left if side < 0 else p.blink_right)))
        squint = 0.12 * p.smile
        cx, cy = 25.5 * side * look.face_width, -9.0
        w, up, low = 13.4 * e, (9.0 if not self._man else 7.8) * e * (1 - squint * 0.5), 5.8 * e * (1 - squint)
        # The upper lid travels down to meet the slightly rising lower lid.
        top = -up + (up + low * 0.62) * blink
        bottom = low * (1 - 0.3 * blink)

        def at(x: float, y: float) -> Point:
            return self._at(cx + side * x, cy + y)

        upper = [at(-w, 2.2), at(-w * 0.58, 1.2 + top * 0.74), at(0, top), at(w * 0.56, -0.4 + top * 0.8), at(w, -1.6)]
        lower = [at(w * 0.55, bottom * 0.74), at(0, bottom), at(-w * 0.55, bottom * 0.82 + 0.5)]
        lash = 0x1C1215 if look.hair_colour != "red" else 0x3A1F18
        if blink < 0.97:
            eye = _smooth([*upper, *lower])
            c.save()
            c.clipPath(eye, True)
            c.drawPaint(_fill(0xFBF8F5))
            ix, iy = self._at(cx + p.gaze_x * 5.5, cy - 0.6 + p.gaze_y * 3.6)
            r, iris = 7.5 * e, _EYE_RGB[look.eye_colour]
            c.drawCircle(
                ix,
                iy,
                r,
                _radial((ix, iy + 2.6), r * 1.12, [(_lite(iris, 0.5), 255), (iris, 255), (_dark(iris, 0.62), 255)], (0, 0.6, 1)),
            )
            c.drawCircle(ix, iy, r * 0.47, _fill(0x0E0A0D))
            lid = at(0, top)
            shadow = [(0x2A1C24, 120), (0x2A1C24, 0)]
            c.drawRect(skia.Rect(ix - 22, lid[1] - 4, ix + 22, lid[1] + 6), _linear((0, lid[1]), (0, lid[1] + 5.5), shadow))
            c.drawCircle(ix - 2.5 * e, iy - 2.7 * e, 2.3 * e, _fill(0xFFFFFF, 250))
            c.drawCircle(ix + 2.5 * e, iy + 2.3 * e, 1.1 * e, _fill(0xFFFFFF, 150))
            c.restore()
            c.drawPath(_smooth([upper[-1], *lower, upper[0]], False), _line(_dark(skin, 0.5), 1.0, 120))
        # The lid's rim with its lashes: thicker towards the outer corner.
        thick = 1.7 if self._man else 2.5
        rim = [*upper, *((x, y - t) for (x, y), t in zip(upper[::-1], (0.9, thick * 1.25, thick, thick * 0.7, 0.1), strict=True))]
        c.drawPath(_smooth(rim), _fill(lash))
        if not self._man:
            droop = 1 - 1.7 * blink
            lashes = skia.Path()
            for x, y, dx, dy in (
                (w, -1.6, 4.6, -3.4),
                (w * 0.82, -1.2 + top * 0.46, 4.2, -4.2),
                (w * 0.6, -0.6 + top * 0.76, 3.0, -4.4),
            ):
                a = at(x, y - 0.6)
                b = at(x + dx, y - 0.6 + dy * droop)
                lashes.moveTo(*a)
                lashes.quadTo((a[0] + b[0]) / 2 + side * 0.8, (a[1] + b[1]) / 2 + 0.7, *b)
            c.drawPath(lashes, _line(lash, 1.5))
        crease = [
            at(x, min(-2.0, y * (1 - 0.55 * blink)) - 3.2)
            for x, y in ((-w * 0.8, -up * 0.4), (-w * 0.3, -up * 0.92), (w * 0.35, -up * 0.92), (w * 0.95, -up * 0.3))
        ]
        c.drawPath(_smooth(crease, False), _line(_dark(skin, 0.5), 1.3, 120))

    def _draw_brow(self, c: Any, side: int) -> None:
        raised = self._p.brow_left if side < 0 else self._p.brow_right
        w = self.look.face_width
        thick = self.look.brows * (1.25 if self._man else 0.82)
        y0 = -29.5 - 6.5 * raised - (0 if self._man else 1.2)
        arch = 0.6 if self._man else 1.8
        ridge = [(10.5, y0 + 0.2), (20, y0 - 1.4 - arch * 0.5), (31, y0 - 1.4 - arch), (43, y0 + 4.4)]
        depth = (2.6, 2.6, 2.1, 0.4)
        upper = [self._at(side * x * w, y, 2) for x, y in ridge]
        lower = [self._at(side * x * w, y + 2 * d * thick, 2) for (x, y), d in zip(ridge, depth, strict=True)]
        colour = _dark(self._hair, 0.3) if self.look.hair_colour != "blond" else _dark(self._hair, 0.38)
        c.drawPath(_smooth(upper + lower[::-1]), _fill(colour, 235))

    def _draw_beard(self, c: Any) -> None:
        kind = self.look.beard
        if kind == "none":
            return
        w, drop, hair = self.look.face_width, self._jaw_drop, _dark(self._hair, 0.12)
        alpha = 74 if kind == "stubble" else 242
        lip = 30.5 - 2.2 * self._opening
        wide = 25.0 + 4 * self._p.wide - 6 * max(0.0, self._p.round)
        if kind in ("stubble", "full"):
            inner = [(57 * w, -4), (52 * w, 16), (38 * w, 27), (wide + 5, 27), (16, lip - 4), (0, lip - 2)]
            reach = 4 if kind == "full" else 0
            outer = [self._outline()[i] for i in (4, 5, 6, 7, 8, 9, 10, 11, 12)]
            cx, _ = outer[4]
            outer = [
                (x + reach * 0.5 * (1 if x > cx else -1 if x < cx else 0), y + (reach if i in (3, 4, 5) else 0))
                for i, (x, y) in enumerate(outer)
            ]
            path = _smooth([*self._on(inner), *self._on([(-x, y) for x, y in inner[-2::-1]]), *outer[::-1]])
            c.save()
            if kind == "stubble":
                c.clipPath(self._face, True)
            shade = [(hair, alpha * 0.35), (hair, alpha), (hair, alpha)]
            c.drawPath(path, _linear((0, -4), (0, 66), shade, (0, 0.42, 1)))
            if kind == "full":
                c.clipPath(path, True)
                strands = skia.Path()
                for i in range(-7, 8):
                    x0 = i * 7.0
                    strands.moveTo(*self._at(x0 * 0.95 * w, 30 + abs(i) * -1.2 + drop * 0.5))
                    strands.lineTo(*self._at(x0 * 0.86 * w, 66 - abs(i) * 3.2 + drop))
                c.drawPath(strands, _line(_lite(self._hair, 0.25), 1.6, 60))
            c.restore()
        if kind in ("moustache", "full"):
            half = [
                (0, lip - 5.6),
                (8, lip - 7),
                (wide * 0.75, lip - 2.5),
                (wide + 3.5, 38 - 1.5 * self._p.smile),
                (wide * 0.7, lip + 2.2),
                (8, lip + 1.6),
                (0, lip + 0.6),
            ]
            c.drawPath(_smooth(self._on(_mirror(half), 3)), _fill(hair, 250))

    def _draw_mouth(self, c: Any) -> None:
        p, skin, lip = self._p, self._skin, self._lip
        opening, rounding, press, bite = self._opening, max(0.0, p.round), p.press, p.bite
        cy, out = 37.0, 4 + 4 * rounding
        w = max(12.0, 26.0 + 5.0 * p.wide + 2.0 * p.smile * (1 - rounding) - 8.5 * rounding)
        gap = 25.0 * opening
        hu, hl = 0.24 * gap, 0.76 * gap
        corner = -(1.4 + 5.0 * p.smile) * (1 - 0.45 * opening) * (1 - 0.7 * rounding) + 0.28 * gap * (0.5 + 0.5 * rounding) * 0.7
        size = self.look.lips * (0.84 if self._man else 1.0)
        upper = 5.4 * size * (1 - 0.5 * press) * (1 + 0.25 * rounding)
        lower = 7.2 * size * (1 - 0.45 * press) * (1 + 0.2 * rounding) * (1 - 0.42 * bite)
        full = 0.80 + 0.12 * rounding  # how square the opening is

        def at(x: float, y: float, off: float = 0.0) -> Point:
            return self._at(x, cy + y, out + off)

        def curve(half: Sequence[Point]) -> list[Point]:
            """Points from the left corner to the right one, given x >= 0 from the middle outwards."""
            return [at(-x, y) for x, y in reversed(half)] + [at(x, y) for x, y in (half if half[0][0] > 0 else half[1:])]

        inner_upper = [(0, -hu + 0.6 * (1 - opening)), (w * 0.5, -hu * full + corner * 0.22), (w * 0.93, corner * 0.94)]
        inner_lower = [(0, hl + 0.6 * (1 - opening)), (w * 0.5, hl * full + corner * 0.22), (w * 0.93, corner * 0.94)]
        bow = 1.5 * (1 - 0.6 * rounding)
        outer_upper = [
            (0, -hu - upper + bow),
            (w * 0.16, -hu - upper),
            (w * 0.56, -hu * full - upper * 0.68 + corner * 0.3),
            (w, corner),
        ]
        outer_lower = [
            (0, hl + lower),
            (w * 0.30, hl * 0.96 + lower * 0.95 + corner * 0.06),
            (w * 0.66, hl * 0.7 + lower * 0.58 + corner * 0.4),
            (w, corner),
        ]
        if bite > 0:  # the lower lip slides up and under the upper teeth
            inner_lower = [(x, y - bite * 1.0) for x, y in inner_lower]
        lips = skia.Path()
        _append_smooth(lips, [*curve(outer_upper), *curve(outer_lower)[-2:0:-1]], True)

        x, y = at(0, hl + lower + 4.0)
        self._blob(c, x, y, w * 0.62, 4.6, _dark(skin, 0.5), 105)
        x, y = at(0, -hu - upper - 4.0)
        self._blob(c, x, y, 3.6, 5, _dark(skin, 0.4), 58)
        for side in (-1, 1):
            x, y = at(side * (w + 1.0), corner)
            self._blob(c, x, y, 4.6, 4.6, _dark(skin, 0.6), 95)
        top, bottom = at(0, -hu - upper)[1], at(0, hl + lower)[1]
        shade = [(_dark(lip, 0.12), 255), (_dark(lip, 0.2), 255), (lip, 255), (_lite(lip, 0.16), 255)]
        split = min(0.9, max(0.1, (at(0, 0)[1] - top) / max(1.0, bottom - top)))
        c.drawPath(lips, _linear((0, top), (0, bottom), shade, (0, split * 0.9, min(0.97, split + 0.08), 1)))

        if gap > 1.0:
            inside = _smooth([*curve(inner_upper), *curve(inner_lower)[-2:0:-1]])
            c.save()
            c.clipPath(inside, True)
            c.drawPaint(_fill(0x35090F))
            height = hu + hl
            x0, y0 = at(0, -hu, -6)
            tongue = p.tongue
            ty = hl - height * (0.26 + 0.36 * tongue)
            if gap > 3.5:
                half = [(0, ty), (w * 0.34, ty + 1.2 + 0.03 * height), (w * 0.62, hl + 2), (w * 0.5, hl + 12), (0, hl + 14)]
                c.drawPath(
                    _smooth([at(x, y, -4) for x, y in _mirror(half)]),
                    _radial(at(0, ty + 2), 22, [(0xD4656A, 255), (0xA33E48, 255)]),
                )
            teeth = min(height * 0.62, (2.2 + 4.6 * p.teeth) * min(1.0, 0.35 + height / 9))
            if p.teeth > 0.05:
                half = [
                    (0, -hu - 6),
                    (w * 0.9, -hu - 5),
                    (w * 0.80, -hu * full + corner * 0.3 + teeth * 0.62),
                    (w * 0.45, -hu * 0.95 + teeth * 0.95),
                    (0, -hu + teeth),
                ]
                c.drawPath(
                    _smooth_line([at(x, y, -5) for x, y in _mirror(half)]),
                    _linear((0, y0), (0, y0 + teeth + 1), [(0xD9CFC6, 255), (0xFBF7F0, 255)]),
                )
                if p.teeth > 0.6 and opening < 0.45:
                    show = 3.2 * (p.teeth - 0.4)
                    half = [(0, hl - show), (w * 0.6, hl * 0.86 - show * 0.6), (w * 0.8, hl + 4), (0, hl + 6)]
                    c.drawPath(_smooth_line([at(x, y, -5) for x, y in _mirror(half)]), _fill(0xE6DDD3))
            c.drawRect(
                skia.Rect(x0 - 34, y0 - 3, x0 + 34, y0 + 6), _linear((0, y0), (0, y0 + 4.5), [(0x1C0408, 150), (0x1C0408, 0)])
            )
            c.restore()
            c.drawPath(_smooth(curve(inner_upper), False), _line(_dark(lip, 0.6), 1.1, 170))
            c.drawPath(_smooth(curve(inner_lower), False), _line(_dark(lip, 0.45), 0.9, 120))
        else:
            c.drawPath(_smooth(curve(inner_upper), False), _line(_dark(lip, 0.68), 1.7, 235))
        if bite > 0.3:  # f and v: the upper teeth rest on the lower lip
            half = [(0, 0.2 - hu), (w * 0.5, -hu * full + 0.2 + corner * 0.2), (w * 0.46, 2.6 * bite), (0, 3.6 * bite)]
            c.drawPath(_smooth_line([at(x, y) for x, y in _mirror(half)]), _fill(0xF4EEE6, 255 * min(1.0, bite)))
        if not self._man:
            x, y = at(-w * 0.1, hl + lower * 0.48)
            self._blob(c, x, y, w * 0.4, 2.0, 0xFFFFFF, 105)
        else:
            x, y = at(-w * 0.1, hl + lower * 0.5)
            self._blob(c, x, y, w * 0.36, 1.8, 0xFFFFFF, 58)

    # -- hair and glasses -----------------------------------------------------------------------------------------------------

    def _draw_hair_behind(self, c: Any) -> None:
        style, hair, w = self.look.hair_style, self._hair, self.look.face_width
        if style not in ("bald", "buzz"):
            # The sides of the head, so that a turned head shows hair and not the place between hairline and cheek.
            sides = [self._project(x * w * 0.97, y, 0) for x, y in _FRONT_HAIR[style][1]]
            c.drawPath(_smooth(sides, False), _fill(_dark(hair, 0.3)))
        back: list[Point] | None = None
        if style == "long":
            back = _mirror([(0, -94), (40, -88), (66, -56), (73, -8), (74, 50), (76, 104), (66, 128), (30, 132)])
        elif style == "wavy":
            back = _mirror(
                [(0, -96), (42, -92), (70, -62), (80, -24), (76, 12), (86, 46), (78, 76), (86, 106), (66, 128), (30, 130)]
            )
        elif style == "bob":
            back = _mirror([(0, -92), (42, -86), (68, -54), (75, -6), (77, 40), (68, 60), (40, 62)])
        elif style == "curly":
            back = _mirror([(0, -96), (46, -88), (76, -52), (84, -4), (76, 34), (60, 48), (30, 44)])
        elif style == "ponytail":
            s = -10 * self._sin_yaw
            back = [
                (34 + s, -70),
                (66 + s, -66),
                (86 + s, -30),
                (84 + s, 20),
                (92 + s, 66),
                (74 + s, 84),
                (66 + s, 40),
                (60 + s, -10),
                (40 + s, -40),
            ]
        if style == "bun":
            x, y = self._project(0, -94, -18)
            c.drawCircle(
                x,
                y,
                25,
                _radial((x - 8, y - 9), 36, [(_lite(hair, 0.26), 255), (hair, 255), (_dark(hair, 0.42), 255)], (0, 0.5, 1)),
            )
            c.drawPath(_smooth([(x - 14, y + 6), (x - 4, y - 12), (x + 14, y - 8)], False), _line(_lite(hair, 0.35), 1.8, 110))
            c.drawPath(_smooth([(x - 6, y + 14), (x + 10, y + 4), (x + 19, y - 4)], False), _line(_dark(hair, 0.45), 1.8, 120))
        if back is None:
            return
        points = [self._project(x, y, -14) for x, y in back]
        c.drawPath(
            _smooth(points),
            _linear((0, -90), (0, 110), [(hair, 255), (_dark(hair, 0.34), 255), (_dark(hair, 0.5), 255)], (0, 0.55, 1)),
        )
        if style == "curly":
            rim = skia.Path()
            for i in range(19):
                a = math.pi * (-0.16 + 1.32 * i / 18)
                x, y = self._project(-math.cos(a) * 74, -22 - math.sin(a) * 66, -12)
                rim.addCircle(x, y, 15 + (i * 5) % 3)
            c.drawPath(
                rim,
                _linear(
                    (-40, -100),
                    (50, 40),
                    [(_lite(hair, 0.12), 255), (_dark(hair, 0.2), 255), (_dark(hair, 0.45), 255)],
                    (0, 0.5, 1),
                ),
            )

    def _draw_hair_before(self, c: Any) -> None:
        style, hair, w = self.look.hair_style, self._hair, self.look.face_width
        if style == "bald":
            return
        edge, crown, part = _FRONT_HAIR[style]
        hairline = [self._at(x * w, y, 3) for x, y in edge]
        skull = [self._project(x * w, y, 0) for x, y in crown]
        path = _smooth([*hairline, *skull])
        if style in ("long", "wavy"):
            self._draw_locks(c, style)
        if style != "buzz":
            # The hair's shadow on the forehead: the same edge, a little lower.
            c.save()
            c.clipPath(self._face, True)
            c.drawPath(_smooth([*((x, y + 4.5) for x, y in hairline), *skull]), _fill(_dark(self._skin, 0.55), 60))
            c.restore()
        alpha = 226 if style == "buzz" else 255
        shade = [(_lite(hair, 0.16), alpha), (hair, alpha), (_dark(hair, 0.28), alpha)]
        c.drawPath(path, _linear((-34, -96), (36, -14), shade, (0, 0.5, 1)))
        if style == "buzz":
            return
        c.save()
        c.clipPath(path, True)
        if style == "curly":
            curls = skia.Path()
            for i in range(16):
                a = math.pi * (0.06 + 0.88 * i / 15)
                r = 52 + (i * 7) % 17
                x, y = self._project(-math.cos(a) * r, -34 - math.sin(a) * r * 0.82, 10)
                curls.addArc(skia.Rect(x - 8, y - 7, x + 8, y + 7), 150 + 40 * (i % 4), 220)
            c.drawPath(curls, _line(_lite(hair, 0.3), 1.9, 105))
        else:
            px, py = self._project(part * w, -90, 0)
            light, dark = skia.Path(), skia.Path()
            ends = [*skull[:2], *hairline[::-1], *skull[-2:]]
            for i in range(1, 15):
                t = i / 15 * (len(ends) - 1)
                k = int(t)
                (ax, ay), (bx, by) = ends[k], ends[min(k + 1, len(ends) - 1)]
                ex, ey = ax + (bx - ax) * (t - k), ay + (by - ay) * (t - k)
                strand = light if i % 2 else dark
                strand.moveTo(px + (ex - px) * 0.1, py + 1)
                strand.quadTo(px + (ex - px) * 0.85, py + (ey - py) * 0.12, ex, ey + 3)
            c.drawPath(light, _line(_lite(hair, 0.42), 1.7, 66))
            c.drawPath(dark, _line(_dark(hair, 0.5), 1.9, 78))
        x, y = self._project(-22 * w, -74, 10)
        self._blob(c, x, y, 34, 10, _lite(hair, 0.75), 74)
        c.restore()

    def _draw_locks(self, c: Any, style: str) -> None:
        """The hair that falls before the shoulders, on both sides of the face."""
        hair, w = self._hair, self.look.face_width
        if style == "long":
            half = [(57 * w, -10), (56, 30), (53, 66), (50, 104), (58, 130), (78, 128), (76, 84), (74, 36), (70, -14)]
        else:
            half = [
                (57 * w, -10),
                (58, 26),
                (50, 56),
                (58, 84),
                (48, 112),
                (60, 130),
                (84, 128),
                (80, 98),
                (88, 70),
                (78, 40),
                (80, 8),
                (72, -16),
            ]
        for side in (-1, 1):
            # The tips hang from the head but follow it less the lower they are.
            lock = [self._project(side * x, y, 2 if y < 40 else -10) for x, y in half]
            path = _smooth(lock)
            # The same gradient as the cap's, so that no seam shows.
            c.drawPath(
                path,
                _linear((-34, -96), (36, -14), [(_lite(hair, 0.16), 255), (hair, 255), (_dark(hair, 0.28), 255)], (0, 0.5, 1)),
            )
            n = len(half)
            inner, outer = lock[: n // 2], lock[: n // 2 - 1 : -1]
            for t, colour, alpha in ((0.3, _lite(hair, 0.4), 80), (0.62, _dark(hair, 0.5), 85)):
                m = min(len(inner), len(outer))
                mid = [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t) for a, b in zip(inner[:m], outer[:m], strict=True)]
                c.drawPath(_smooth(mid, False), _line(colour, 2.0, alpha))

    def _draw_glasses(self, c: Any) -> None:
        w = self.look.face_width
        rounded = self.look.glasses == "round"
        frame = 0x8A5A33 if rounded else 0x20222A
        rims = []
        for side in (-1, 1):
            x, y = self._at(side * 25.5 * w, -8, 7)
            if rounded:
                rect, radius, half = skia.Rect(x - 18.5, y - 17.5, x + 18.5, y + 18.5), 18.2, 18.5
            else:
                rect, radius, half = skia.Rect(x - 19.5, y - 13.5, x + 19.5, y + 14.5), 5.5, 19.5
            shape = skia.RRect.MakeRectXY(rect, radius, radius)
            c.drawRRect(
                shape, _linear((x - 16, y - 16), (x + 12, y + 14), [(0xFFFFFF, 62), (0xFFFFFF, 8), (0xFFFFFF, 26)], (0, 0.5, 1))
            )
            c.drawRRect(shape, _line(frame, 2.3 if rounded else 3.2))
            ex, ey = self._project(side * 60 * w, -6, -4)
            if self.look.hair_style not in ("long", "wavy", "bob"):
                c.drawLine(x + side * half, y - 4, ex, ey, _line(frame, 2.4))
            rims.append((x, y, half))
        (lx, ly, half), (rx, ry, _) = rims
        c.drawPath(
            _smooth([(lx + half, ly - 3), ((lx + rx) / 2, (ly + ry) / 2 - 6.5), (rx - half, ry - 3)], False), _line(frame, 2.6)
        )


def _smooth_line(points: Sequence[Point]) -> Any:
    """A closed polygon with straight sides."""
    path = skia.Path()
    path.moveTo(*points[0])
    for x, y in points[1:]:
        path.lineTo(x, y)
    path.close()
    return path


def mouth_opening(opening: Any, press: Any, bite: Any) -> Any:
    """How far the lips are apart, 0..1, when pressing and biting are taken into account; elementwise on arrays too."""
    return opening * (1 - press) * (1 - 0.8 * bite)


# Style -> (hairline from the picture's left to right on the face, crown from right to left on the skull, x of the parting).
_FRONT_HAIR: dict[str, tuple[list[Point], list[Point], float]] = {
    "short": (
        [(-60, -4), (-57, -32), (-46, -50), (-22, -56), (6, -60), (32, -55), (48, -46), (57, -30), (60, -4)],
        [(64, -8), (66, -46), (48, -78), (12, -92), (-26, -91), (-54, -70), (-66, -40), (-64, -8)],
        -20,
    ),
    "swept": (
        [(-60, -2), (-57, -34), (-48, -50), (-26, -50), (2, -60), (32, -58), (50, -46), (57, -30), (60, -2)],
        [(64, -8), (67, -46), (56, -80), (26, -101), (-16, -102), (-48, -84), (-65, -48), (-64, -8)],
        -44,
    ),
    "buzz": (
        [(-60, -6), (-57, -34), (-46, -54), (-22, -61), (0, -62), (22, -61), (46, -54), (57, -34), (60, -6)],
        [(61, -8), (62, -42), (46, -74), (20, -86), (-20, -86), (-46, -74), (-62, -42), (-61, -8)],
        0,
    ),
    "curly": (
        [(-62, 6), (-56, -28), (-46, -46), (-24, -56), (-4, -52), (20, -57), (44, -46), (56, -28), (62, 6)],
        [(72, 4), (76, -40), (56, -82), (20, -98), (-20, -98), (-56, -82), (-76, -40), (-72, 4)],
        0,
    ),
    "long": (
        [(-60, 12), (-56, -18), (-42, -42), (-18, -60), (2, -68), (22, -60), (44, -42), (57, -18), (60, 12)],
        [(71, 8), (71, -28), (58, -70), (28, -92), (0, -96), (-28, -92), (-58, -70), (-71, -28), (-71, 8)],
        2,
    ),
    "wavy": (
        [(-60, 12), (-57, -16), (-48, -36), (-32, -58), (-22, -67), (4, -54), (34, -44), (56, -18), (60, 12)],
        [(73, 4), (75, -34), (60, -76), (28, -97), (-6, -99), (-38, -92), (-64, -68), (-75, -32), (-73, 4)],
        -24,
    ),
    "bob": (
        [(-58, 58), (-57, 10), (-53, -28), (-28, -32), (0, -33), (28, -32), (53, -28), (57, 10), (58, 58)],
        [(72, 54), (76, 10), (72, -40), (54, -78), (20, -95), (-20, -95), (-54, -78), (-72, -40), (-76, 10), (-72, 54)],
        0,
    ),
    "bun": (
        [(-60, -4), (-56, -32), (-42, -54), (-20, -64), (0, -66), (20, -64), (42, -54), (56, -32), (60, -4)],
        [(63, -8), (65, -46), (48, -78), (18, -91), (-18, -91), (-48, -78), (-65, -46), (-63, -8)],
        0,
    ),
    "ponytail": (
        [(-60, 0), (-57, -26), (-46, -46), (-30, -60), (-16, -64), (8, -54), (36, -48), (56, -28), (60, -4)],
        [(64, -8), (67, -46), (52, -78), (20, -93), (-18, -93), (-50, -78), (-66, -44), (-64, -6)],
        -18,
    ),
}
