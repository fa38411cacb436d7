"""Which diffusion steps sampling visits: the one place where they are chosen, in the modules and outside of them."""

from __future__ import annotations

from typing import Literal

TimestepSpacing = Literal["leading", "trailing", "cubic"]
TIMESTEP_SPACINGS: tuple[str, ...] = ("leading", "trailing", "cubic")


def timesteps(spacing: str, first: int, n: int) -> list[int]:
    """n steps in falling order, of the first + 1 of training, spaced as diffusers calls it.

    trailing: the first is `first`, the others are evenly spread above 0. leading: multiples of a stride, the last 0. A
    sample begins as noise, and x is nearest to that at `first`: with few steps it matters (Lin et al. 2023,
    arXiv 2305.08891).

    cubic, which diffusers has not: the first is `first`, the others are spread by the cube of what is left, as
    Song et al. 2020 (arXiv 2010.02502, appendix D.2) spread them by its square. Two steps are then one from noise and
    one near the end, which makes of a mean of what was learnt something that was learnt.
    """
    if spacing == "cubic":
        return [max(int(round(first * ((n - i) / n) ** 3)), n - 1 - i) for i in range(n)]  # noqa: RUF046
    if spacing == "trailing":
        # Half a step is rounded to the even neighbour, as numpy does; TorchScript's round gives a float.
        return [int(round((first + 1) * (n - i) / n)) - 1 for i in range(n)]  # noqa: RUF046
    stride = (first + 1) // n
    return [i * stride for i in range(n - 1, -1, -1)]
