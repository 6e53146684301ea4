"""Time of day and weather: how bright a surface appears, the colours of the sky, how distance fades. Imports numpy only."""

from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """One moment's light. Colours are RGB 0..255 as the camera would show them; gains multiply a surface's own colour."""

    ambient: float
    sun: float
    direction: Color
    """Towards the sun: x, y, z of length 1 in the street's frame."""
    tint: Color
    """Factors of the sky's light for each channel."""
    zenith: Color
    horizon: Color
    clouds: float
    """0 none, 1 heavy."""
    visibility_m: float

    def gain(self, normal: Color | NDArray[np.float64]) -> float:
        """How bright a surface of this outward normal is, in the open."""
        n = np.asarray(normal, np.float64)
        return float(self.ambient * (0.8 + 0.2 * n[1]) + self.sun * max(0.0, float(n @ np.array(self.direction))))

    @property
    def shade(self) -> float:
        """The gain of level ground that the sun does not reach."""
        return self.ambient

    def haze(self, z: float) -> float:
        """The share of the horizon's colour in a thing z metres away."""
        return 1 - exp(-max(z, 0.0) / self.visibility_m)

    def tone(self, color: Color, gain: float, z: float) -> Color:
        """A surface's colour as seen from z metres away."""
        haze = self.haze(z)
        red, green, blue = (
            min(max(c * gain * t * (1 - haze) + h * haze, 0.0), 255.0)
            for c, t, h in zip(color, self.tint, self.horizon, strict=True)
        )
        return red, green, blue


def draw_light(rng: np.random.Generator) -> Light:
    """Sunshine, a bright overcast, or a dim afternoon."""
    weather = rng.choice(["sun", "overcast", "dim"], p=[0.5, 0.32, 0.18])
    if weather == "sun":
        sun = np.array([rng.choice([-1, 1]) * rng.uniform(0.55, 1.0), rng.uniform(0.45, 0.75), rng.uniform(-0.7, 0.45)])
        sun /= np.linalg.norm(sun)
        blue = rng.uniform(0.0, 1.0) ** 1.4
        zenith = (232 - 95 * blue, 242 - 45 * blue, 252 - 8 * blue)
        return Light(
            ambient=rng.uniform(0.42, 0.56),
            sun=rng.uniform(0.75, 1.0),
            direction=(float(sun[0]), float(sun[1]), float(sun[2])),
            tint=(1.0, 0.99, 0.97),
            zenith=zenith,
            horizon=(246, 249, 250),
            clouds=rng.uniform(0.1, 0.7),
            visibility_m=rng.uniform(500, 1400),
        )
    if weather == "overcast":
        level = rng.uniform(238, 255)
        return Light(
            ambient=rng.uniform(0.58, 0.78),
            sun=0.0,
            direction=(0, 1, 0),
            tint=(0.99, 1.0, 1.0),
            zenith=(level - 6, level - 1, level),
            horizon=(level, level, level),
            clouds=rng.uniform(0, 0.25),
            visibility_m=rng.uniform(350, 900),
        )
    level = rng.uniform(120, 185)
    return Light(
        ambient=rng.uniform(0.36, 0.5),
        sun=0.0,
        direction=(0, 1, 0),
        tint=(0.93, 1.0, 1.0),
        zenith=(level - 22, level - 10, level - 6),
        horizon=(level + 12, level + 18, level + 14),
        clouds=rng.uniform(0.5, 1.0),
        visibility_m=rng.uniform(500, 900),
    )
