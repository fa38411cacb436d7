"""Is this robot ready for this checkpoint? Compares both, listens to the robot's drivers, says what is missing.

    diffusion_ros check --robot franka_crisp --checkpoint checkpoints/can_pixels.pt --seconds 5

Nothing is published and nothing is enabled. Exit status: 0 when nothing stands against enabling the robot, 1 when
something does, 2 after one line on stderr for bad input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffusion_ros import robot_check, robot_command, robot_file
from diffusion_ros.atomic_file import write_json
from diffusion_ros.checkpoint import read_spec, with_article
from diffusion_ros.models.camera_guard import GUARD_KIND
from diffusion_ros.robot_check import Finding, problem
from diffusion_ros.robot_file import RobotFile
from diffusion_ros.ros.robot_judge import SIMULATED, InputRow, Judge, Report, names
from diffusion_ros.ros.robot_survey import RobotSurvey
from diffusion_ros.spec import IMAGE_SUFFIX, CheckpointSpec
from diffusion_ros.systems.startup import UsageError, check_writable


@dataclass(frozen=True)
class Request:
    """What was asked for, checked."""

    robot: RobotFile
    checkpoint: Path
    spec: CheckpointSpec
    guard: CheckpointSpec | None
    seconds: float
    result: Path | None
    graph: robot_command.Graph


# -- command line -----------------------------------------------------------------------------------------------------


def _add_arguments(parser: robot_command.Parser) -> None:
    robots = ", ".join(robot_file.shipped())
    parser.add_argument("--robot", required=True, help=f"the robot's YAML, or one of {robots}")
    parser.add_argument("--checkpoint", required=True, help="the policy (.pt)")
    parser.add_argument("--guard", default="", help="checkpoint (.pt) of the camera guard that the robot would obey")
    parser.add_argument("--seconds", default="5", help="how long is listened [5]")
    parser.add_argument("--json", default="", metavar="FILE", help="file for what is found out")
    parser.add_graph()


def parse(arguments: Sequence[str]) -> Request:
    """Raises UsageError or CheckpointError, one line, before anything is listened to."""
    parser = robot_command.Parser(
        "check",
        "--robot ROBOT --checkpoint CHECKPOINT [options]",
        "Says whether a robot's drivers say and take what a policy needs. Nothing is enabled or published.",
    )
    _add_arguments(parser)
    given = parser.parse_args(arguments)
    robot = robot_command.robot(given)
    spec = read_spec(given.checkpoint)
    seconds = robot_command.number(given, "seconds", 0.5, 600)
    result = Path(given.json).absolute() if given.json else None
    if result is not None:
        if result.is_dir():
            raise UsageError(f"--json {result}: is a folder, a file name is expected")
        check_writable(result.parent)
    return Request(
        robot=robot,
        checkpoint=Path(given.checkpoint),
        spec=spec,
        guard=read_spec(given.guard) if given.guard else None,
        seconds=seconds,
        result=result,
        graph=robot_command.graph(given),
    )


def run(request: Request, stop: Callable[[], bool] = lambda: False) -> Report:
    """Compares and listens."""
    report = Report(robot_check.compare(request.robot, request.spec))
    if request.guard is not None:
        report.findings += _guard(request.robot, request.spec, request.guard)
    with robot_command.node("check", request.graph) as node:
        clock = (lambda: int(node.get_clock().now().nanoseconds)) if request.graph.use_sim_time else None
        survey = RobotSurvey(node, request.robot, clock)
        survey.listen(request.seconds, stop)
        Judge(request.robot, request.spec, request.guard, survey, report).all()
    return report


def main(arguments: Sequence[str], stop: Sequence[int] = ()) -> int:
    """Raises UsageError or CheckpointError for bad input, OSError where the result cannot be written;
    stop: filled by a signal."""
    request = parse(arguments)
    report = run(request, lambda: bool(stop))
    if stop:
        return 128 + stop[0]
    if request.result is not None:
        write_json(request.result, to_json(request, report))
    print("\n".join(lines(request, report)))
    return 0 if report.ready else 1


# -- what is said -----------------------------------------------------------------------------------------------------


def to_json(request: Request, report: Report) -> dict[str, Any]:
    return {
        "robot": str(request.robot.path),
        "checkpoint": str(request.checkpoint),
        "domain_id": request.graph.domain_id,
        "seconds": request.seconds,
        "ready": report.ready,
        "findings": [asdict(finding) for finding in report.findings],
        "inputs": [asdict(row) for row in report.inputs],
        "outputs": [asdict(row) for row in report.outputs],
    }


def lines(request: Request, report: Report) -> list[str]:
    """What is missing first, then the table, then the verdict."""
    robot, spec = request.robot, request.spec
    said = [
        f"robot {robot.path.stem} (driver {robot.driver}, output {robot.action.output}), {request.checkpoint.name}"
        f" ({spec.task}, {spec.rate:g} Hz), {request.seconds:g} s in domain {request.graph.domain_id}"
    ]
    for level in ("problem", "warning", "note"):
        said += [f"{level}: {finding}" for finding in report.findings if finding.level == level]
    said += [
        "",
        *_table(("input", "topic", "Hz", "age ms", "worst", "clock", "what", "from"), map(_cells, report.inputs)),
    ]
    outputs = [
        (row.name, row.topic, row.type, names(row.listeners) or "nobody", names(row.others) or "-")
        for row in report.outputs
    ]
    said += ["", *_table(("output", "topic", "type", "who listens", "who else publishes"), outputs)]
    return [*said, "", report.verdict]


def _cells(row: InputRow) -> tuple[str, ...]:
    def ms(seconds: float | None) -> str:
        # Without a stamp, or with one of another kind of time, it has no age.
        return "-" if seconds is None or abs(seconds) > SIMULATED else f"{1000 * seconds:.1f}"

    return (
        row.name,
        row.topic,
        "-" if row.rate is None else f"{row.rate:.3g}" if row.rate < 100 else f"{row.rate:.0f}",
        ms(row.age),
        ms(row.worst_age),
        f"{1000 * row.ahead:.0f} ms ahead" if row.ahead else "-",
        row.what,
        ", ".join(f"{one.node}{'' if one.reliable else ' (best effort)'}" for one in row.publishers) or "nobody",
    )


def _table(head: tuple[str, ...], rows: Any) -> list[str]:
    cells = [head, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _guard(robot: RobotFile, spec: CheckpointSpec, guard: CheckpointSpec) -> list[Finding]:
    if guard.kind != GUARD_KIND:
        return [problem(f"guard: is {with_article(guard.kind)}", f"{with_article(GUARD_KIND)} expected")]
    found = []
    if guard.task != spec.task:
        found.append(problem(f"guard: was trained on the task {guard.task}", f"the policy's {spec.task} expected"))
    found += [
        problem(f"guard: watches the camera {camera}", f"observations.{camera}{IMAGE_SUFFIX} expected")
        for camera in guard.cameras
        if camera not in robot.pictures
    ]
    return found
