"""A control step with two camera images, against robosuite's own rendering as it comes. One process, one core."""

from __future__ import annotations

import os
import statistics
import time

import numpy as np

from diffusion_ros.simulation import CAMERAS, Simulation, choose_render_backend


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # Mesa would draw on all cores
    choose_render_backend()
    ours = Simulation("can")
    import robosuite
    from robosuite.controllers import load_composite_controller_config

    theirs = robosuite.make(
        "PickPlaceCan",
        robots="Panda",
        controller_configs=load_composite_controller_config(controller="BASIC", robot="Panda"),
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names=list(CAMERAS),
        camera_heights=84,
        camera_widths=84,
        control_freq=20,
        ignore_done=True,
        renderer="mujoco",
    )
    theirs.reset()
    times: dict[str, list[float]] = {"observe": [], "step": [], "robosuite": [], "robosuite observe": []}
    row = np.zeros(7)
    for _ in range(25):
        begin = time.perf_counter()
        ours.step(row)
        stepped = time.perf_counter()
        ours.observe()
        seen = time.perf_counter()
        theirs.step(row)
        after = time.perf_counter()
        theirs._get_observations(force_update=True)
        times["robosuite observe"].append(time.perf_counter() - after)
        times["robosuite"].append(after - seen)
        times["step"].append(seen - begin)
        times["observe"].append(seen - stepped)
    ms = {name: 1000 * statistics.median(values[3:]) for name, values in times.items()}
    theirs.close()
    ours.close()
    print(
        f"observation: two 84x84 cameras {ms['observe']:.1f} ms; robosuite's default {ms['robosuite observe']:.1f} ms;"
        f" ratio {ms['robosuite observe'] / ms['observe']:.1f} (at least 3.5)"
    )
    print(
        f"control step with both images: {ms['step']:.1f} ms; robosuite's default {ms['robosuite']:.1f} ms;"
        f" ratio {ms['robosuite'] / ms['step']:.1f}"
    )


if __name__ == "__main__":
    main()
