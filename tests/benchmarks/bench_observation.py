"""Two camera images of Can, against robosuite's own rendering as it comes.

Each renderer runs in a process of its own, as in use (two OpenGL contexts in one process slow each other down), pinned
to the same core, in turns.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from diffusion_ros.robot import CAMERAS, IMAGE_SIZE
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.render_backend import choose_render_backend

ROUNDS = 3
FRAMES = 40


def _ours() -> tuple[Callable[[], object], Callable[[], object]]:
    simulation = Simulation("can")
    return lambda: simulation.step(np.zeros(7)), simulation.observe


def _robosuite() -> tuple[Callable[[], object], Callable[[], object]]:
    import robosuite
    from robosuite.controllers import load_composite_controller_config

    env = robosuite.make(
        "PickPlaceCan",
        robots="Panda",
        controller_configs=load_composite_controller_config(controller="BASIC", robot="Panda"),
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names=list(CAMERAS),
        camera_heights=IMAGE_SIZE,
        camera_widths=IMAGE_SIZE,
        control_freq=20,
        ignore_done=True,
        renderer="mujoco",
    )
    env.reset()
    return lambda: env.step(np.zeros(7)), lambda: env._get_observations(force_update=True)


def _time(name: str) -> None:
    """Prints the seconds of each observation, and of each control step and observation."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # Mesa would draw on all cores
    choose_render_backend()
    logging.getLogger("robosuite_logs").addFilter(lambda record: False)  # what optional parts it lacks
    step, observe = {"ours": _ours, "robosuite": _robosuite}[name]()
    steps, observations = [], []
    for _ in range(FRAMES):
        begin = time.perf_counter()
        step()
        stepped = time.perf_counter()
        observe()
        end = time.perf_counter()
        observations.append(end - stepped)
        # robosuite's step has its own observation inside, ours has not
        steps.append(stepped - begin if name == "robosuite" else end - begin)
    print(json.dumps({"observe": observations[5:], "step": steps[5:]}))


def main() -> None:
    times: dict[str, dict[str, list[float]]] = {name: {"observe": [], "step": []} for name in ("ours", "robosuite")}
    for _ in range(ROUNDS):
        for name, kinds in times.items():
            result = subprocess.run([sys.executable, __file__, name], stdout=subprocess.PIPE, check=True, text=True)
            for kind, values in json.loads(result.stdout.splitlines()[-1]).items():
                kinds[kind] += values
    ms = {name: {kind: 1000 * statistics.median(v) for kind, v in kinds.items()} for name, kinds in times.items()}
    ours, theirs = ms["ours"], ms["robosuite"]
    print(
        f"observation: two 84x84 cameras {ours['observe']:.1f} ms; robosuite's default {theirs['observe']:.1f} ms;"
        f" ratio {theirs['observe'] / ours['observe']:.1f} (at least 3.5)"
    )
    print(
        f"control step with both images: {ours['step']:.1f} ms; robosuite's default {theirs['step']:.1f} ms;"
        f" ratio {theirs['step'] / ours['step']:.1f}"
    )


if __name__ == "__main__":
    _time(sys.argv[1]) if len(sys.argv) > 1 else main()
