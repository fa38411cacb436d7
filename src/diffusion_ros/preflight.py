"""The list that is gone through before a real robot may move: what `diffusion_ros check` finds, a line each.

Nothing is published and nothing is enabled while it listens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffusion_ros import check, robot_command, robot_file
from diffusion_ros.checkpoint import read_spec
from diffusion_ros.robot_check import problems
from diffusion_ros.ros.robot_judge import Report, names
from diffusion_ros.systems.startup import Startup

SECONDS = 3.0
"""How long is listened."""
GOOD, BAD, MAYBE = "[ok]", "[!!]", "[ ?]"


@dataclass(frozen=True)
class Preflight:
    """What was found."""

    lines: list[str]
    problems: int


def preflight(startup: Startup, domain_id: int, stopped: Callable[[], bool] = lambda: False) -> Preflight:
    """Listens to the robot's drivers and compares them with what is to be started."""
    values = startup.values
    robot, checkpoint, guard = (str(values.get(name, "")) for name in ("robot", "checkpoint", "guard"))
    if not robot or not checkpoint or not values.get("policy", True):
        missing = "without --robot" if not robot else "without a policy"
        return Preflight([f"{MAYBE} {missing} nothing can be compared: `diffusion_ros status` says why it holds"], 0)
    request = check.Request(
        robot=robot_file.read(robot_file.find(robot)),
        checkpoint=Path(checkpoint),
        spec=read_spec(checkpoint),
        guard=read_spec(guard) if guard else None,
        seconds=SECONDS,
        result=None,
        graph=robot_command.Graph(domain_id, startup.namespace, bool(values.get("use_sim_time", False))),
    )
    report = check.run(request, stopped)
    return Preflight(listed(report), len(problems(report.findings)))


def listed(report: Report) -> list[str]:
    """What is wrong first, then what comes and who listens."""
    said = [f"{BAD} {one}" for one in report.findings if one.level == "problem"]
    said += [f"{MAYBE} {one}" for one in report.findings if one.level == "warning"]
    for row in report.inputs:
        if row.rate is not None:
            said.append(
                f"{GOOD} {row.name}: {row.rate:.3g} Hz on {row.topic}, from {names(row.publishers) or 'nobody'}"
            )
    for out in report.outputs:
        if out.listeners:
            said.append(f"{GOOD} {out.name}: {out.topic} is heard by {names(out.listeners)}")
    return said
