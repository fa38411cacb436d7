"""Starts a whole system without `ros2 launch`, shows what it does, and writes down how it went.

    diffusion_ros simulation --task can --episodes 3 --seed 100000 --mode realtime --json summary.json

The same as `python -m diffusion_ros ...` and `python -m diffusion_ros.bringup ...`. Exit status: 0 when all episodes
were run, 1 when a node failed, 2 after one line on stderr for bad input, and 130 or 143 after Ctrl-C or SIGTERM. No
process outlives it, and the result file appears whole or not at all.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import rclpy
from rclpy.context import Context
from rclpy.node import Node

from diffusion_ros import enclaves, steer
from diffusion_ros.atomic_file import write_json
from diffusion_ros.bag_recovery import recover
from diffusion_ros.bags import BagError
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.dds_security import enclave_arguments, explain_security
from diffusion_ros.installation import explain, require
from diffusion_ros.report import write_report
from diffusion_ros.resources import resource_folder
from diffusion_ros.ros.lifecycle_manager import LifecycleManager
from diffusion_ros.ros.message_executor import MessageExecutor
from diffusion_ros.running import TRANSPORT, RunningSystem, announced
from diffusion_ros.screen import Screen
from diffusion_ros.steer import WORDS as STEERING
from diffusion_ros.systems import REAL_ROBOT, SYSTEMS, TELEOPERATE
from diffusion_ros.systems.explanations import explanations
from diffusion_ros.systems.machine_check import check_machine
from diffusion_ros.systems.observer import Observer
from diffusion_ros.systems.resuming import note, resumed, to_go_on
from diffusion_ros.systems.startup import Startup, UsageError, check_writable, decide, defaults, foreign_sections
from diffusion_ros.systems.supervisor import Ended, Supervisor, describe_status
from diffusion_ros.systems.system import WEB_ADDRESS, Argument, NodeDescription, System, Value, node_environment

CHECK = "check"
"""The word that starts no system, but asks whether one may be started."""
LATENCY = "latency"
"""The word that starts no system, but measures how late a robot's streams are."""
RECOVER = "recover"
"""The word that starts no system, but makes a whole bag of one whose recorder was killed."""
SIGN = "sign"
"""The word that starts no system, but signs checkpoints."""
REPORT = "report.html"
"""In the run's folder."""
VIEW, VIDEO = "view", "video"
"""Arguments of the systems by which videos are made: a camera, or whether."""
USUAL_VIEW = "frontview"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


@dataclass(frozen=True)
class Request:
    """What was asked for, checked."""

    startup: Startup
    result: Path
    domain_id: int
    first_episode: int | None = None
    """Where a run goes on that was stopped; None: it is a new one."""
    words: tuple[str, ...] = ()
    """As they were given."""

    @property
    def system(self) -> System:
        return self.startup.system


def parse(arguments: Sequence[str]) -> Request:
    """Raises UsageError or CheckpointError, before anything is started or written."""
    resources = resource_folder()
    given = vars(_parser(resources).parse_args(arguments))
    system, json, domain = SYSTEMS[given.pop("system")], given.pop("json", ""), given.pop("domain_id", "")
    resume = given.pop("resume", False)
    if resume and not given.get("output_dir"):
        raise UsageError("--resume: expected with --output-dir, the folder of the run that was stopped")
    if system is TELEOPERATE and "robot" in given:
        system, given = REAL_ROBOT, _on_a_robot(given)
    startup = decide(system, given, resources, _spelled, _preferred(system))
    if startup.values["web"]:
        require("viser")
    result = Path(json).absolute() if json else startup.output_dir / "summary.json"
    if result.is_dir():
        raise UsageError(f"--json {result}: is a folder, a file name is expected")
    check_writable(result.parent)
    domain = domain or os.environ.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isdecimal() and int(domain) <= 232):
        raise UsageError(f"ROS_DOMAIN_ID {domain!r}: expected 0 to 232")
    # A robot's drivers are in the domain of the environment, which is 0 where it says nothing.
    elsewhere = free_domain_id if system.simulated else lambda: 0
    first = None
    if resume:
        startup, first = resumed(startup)
    return Request(
        startup=startup,
        result=result,
        domain_id=int(domain) if domain else elsewhere(),
        first_episode=first,
        words=tuple(arguments),
    )


def _on_a_robot(given: dict[str, str]) -> dict[str, str]:
    """What `teleoperate --robot` is: real_robot without a policy. Raises UsageError."""
    known = {argument.name for argument in REAL_ROBOT.all_arguments}
    if own := sorted(set(given) - known):
        raise UsageError(f"--{own[0].replace('_', '-')}: expected without --robot only: it is the simulator's")
    return {"teleop": "keyboard", **given, "policy": "false"}


def _spelled(argument: str) -> str:
    """How an argument is written here."""
    return "--video" if argument == VIEW else f"--{argument.replace('_', '-')}"


def _preferred(system: System) -> dict[str, Value]:
    """What bringup does where nobody says otherwise: it makes videos."""
    names = {argument.name for argument in system.arguments}
    return {name: value for name, value in ((VIEW, USUAL_VIEW), (VIDEO, True)) if name in names}


def _help(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=30)


def _parser(resources: Path) -> argparse.ArgumentParser:
    """Arguments that are not given leave no trace in the namespace."""
    parser = _Parser(
        prog="diffusion_ros",
        usage="diffusion_ros SYSTEM [options]",
        formatter_class=_help,
        description="Starts a system of ROS 2 nodes, shows what it does and writes down how it went.",
        epilog="`diffusion_ros SYSTEM --help` lists the options of a system.",
        allow_abbrev=False,
    )
    systems = parser.add_subparsers(dest="system", required=True, metavar="SYSTEM", title="systems")
    # Their own parsers read their options (check.py, latency.py).
    systems.add_parser(CHECK, help="whether a robot's drivers say and take what a policy needs, before it moves")
    systems.add_parser(
        LATENCY, help="moves a robot's hand a little, after asking, and measures how late its streams are"
    )
    systems.add_parser(enclaves.COMMAND, help="makes a keystore for SROS 2: who may say and command what")
    systems.add_parser(SIGN, help="signs checkpoints, so that a robot takes only those of makers that it knows")
    recovering = systems.add_parser(
        RECOVER,
        help="makes a whole bag of one whose recorder was killed",
        description="Makes a whole bag of one whose recorder was killed. Nothing that was whole is lost.",
        usage=f"diffusion_ros {RECOVER} BAG",
        formatter_class=_help,
        allow_abbrev=False,
    )
    recovering.add_argument("folder", metavar="BAG", help="its folder, or its file (.mcap)")
    for word, steering in STEERING.items():  # their own parsers too (steer.py)
        systems.add_parser(word, help=steering.description)
    for system in SYSTEMS.values():
        nodes = ", ".join(node.name + (f" (with --{node.needs})" if node.needs else "") for node in system.nodes)
        sub = systems.add_parser(
            system.name,
            help=system.description,
            description=f"{system.description[0].upper()}{system.description[1:]}. Nodes: {nodes}.",
            usage=f"diffusion_ros {system.name} [options]",
            formatter_class=_help,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        usual = {**defaults(system, resources), **_preferred(system)}
        for argument in system.all_arguments:
            if argument.name in (VIEW, VIDEO):
                _add_video(sub, argument)
                continue
            default = usual[argument.name]
            choices = f" ({', '.join(filter(None, argument.choices))})" if argument.choices else ""
            flag: dict[str, Any] = {"nargs": "?", "const": "true"} if isinstance(default, bool) else {}
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            sub.add_argument(
                f"--{argument.name.replace('_', '-')}",
                dest=argument.name,
                metavar=argument.name.upper(),
                **flag,
                help=f"{argument.description}{choices}" + (f" [{shown}]" if shown else ""),
            )
        if system is TELEOPERATE:
            robot = next(argument for argument in REAL_ROBOT.arguments if argument.robot)
            text = "a robot in the simulator's place: a YAML file, or the name of one that comes with the package"
            sub.add_argument("--robot", dest=robot.name, metavar="ROBOT", help=text)
        if any(node.required for node in system.nodes):  # what else ends by itself, and has a result
            sub.add_argument("--json", metavar="FILE", help="file for the result; default: OUTPUT_DIR/summary.json")
            text = "go on with the run of OUTPUT_DIR that was stopped: only the episodes that are missing"
            sub.add_argument("--resume", action="store_true", help=text)
        domain = "a free one" if system.simulated else "0"
        sub.add_argument("--domain-id", help=f"ROS_DOMAIN_ID; default: the environment's, or {domain}")
    return parser


def _add_video(parser: argparse.ArgumentParser, argument: Argument) -> None:
    """`--video [VIEW]` and `--no-video`, for a system that has an argument view or video; `--view VIEW` stays."""
    has_views = argument.name == VIEW
    text = "a video of each episode"
    if has_views:
        text += f", with the view of one of the cameras {', '.join(filter(None, argument.choices))} [{USUAL_VIEW}]"
        parser.add_argument("--view", dest=VIEW, help=argparse.SUPPRESS)
    const, metavar = (USUAL_VIEW, "VIEW") if has_views else ("true", "true|false")
    parser.add_argument(
        "--video", dest=argument.name, nargs="?", const=const, metavar=metavar, help=f"{text}; as usual"
    )
    none = "" if has_views else "false"
    parser.add_argument("--no-video", dest=argument.name, action="store_const", const=none, help="no videos")


def free_domain_id() -> int:
    """A ROS domain in which no process of this machine takes part.

    The first participant of domain d listens on UDP port 7410 + 250 d (the RTPS standard, section 9.6.1.1). Up to 101,
    because the ports of higher domains are ephemeral ones of Linux.
    """
    domains = list(range(1, 102))
    random.shuffle(domains)
    for domain in domains:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * domain))
            except OSError:
                continue
        return domain
    raise UsageError("no free ROS domain from 1 to 101: give one by --domain-id")


class Failed(Exception):
    """The system ended before its work was done: a line for stderr and the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def command(startup: Startup, node: NodeDescription) -> list[str]:
    """The command line of a node; its parameters go through a file that stays in the run's folder."""
    remappings = [("__node", node.name), *startup.remappings]
    if startup.namespace:
        remappings.append(("__ns", f"/{startup.namespace}"))
    return [
        *(sys.executable, "-m", node.module, "--ros-args", *enclave_arguments(os.environ)),
        *("--params-file", str(startup.write_parameters(node))),
        *(word for name, here in remappings for word in ("-r", f"{name}:={here}")),
        *("--log-level", str(startup.values["log_level"])),
    ]


def run_system(request: Request, screen: Screen, stop: Sequence[int]) -> dict[str, Any]:
    """Runs all episodes and returns the result: when a signal has filled `stop`, of those that were finished. Raises
    Failed."""
    began = time.monotonic()
    startup = request.startup
    usual = node_environment(resource_folder(), request.system.simulated)
    chosen = {**usual, **os.environ, "ROS_DOMAIN_ID": str(request.domain_id)}
    chosen.setdefault("ROS_LOG_DIR", str(startup.output_dir / "ros"))
    os.environ.update(chosen)  # our own observer reads them there too
    if request.system is REAL_ROBOT:
        _look_first(request, screen, stop)
    episodes = int(startup.values.get("episodes", 0))
    observer = request.system.observer(startup.task, episodes, startup.results, namespace=startup.namespace)
    restarted: dict[str, int] = {}
    first = request.first_episode
    with ExitStack() as stack:
        stack.enter_context(startup.claimed(keep=first is not None))
        if first is None:
            note(startup)
        observer.read()
        if not episodes or (first or 0) < episodes:
            restarted = _run_nodes(request, observer, chosen, screen, stop)
    observer.read()
    missing = [i for i in range(observer.episodes) if i not in observer.results]
    if stop and not observer.finished:
        where = f"no episode was finished; logs: {startup.output_dir}" if episodes else f"logs: {startup.output_dir}"
        raise Failed(f"stopped by {signal.Signals(stop[0]).name}: {where}", 128 + stop[0])
    if missing and not stop:
        raise Failed(f"no result of episode {', '.join(map(str, missing))}; logs: {startup.output_dir}", 1)
    if remark := observer.remark():
        screen.show(remark)
    summary = observer.summary()
    results = summary.pop("results")
    own = [argument.name for argument in request.system.arguments]
    options = {name: startup.values[name] for name in own if name not in ("output_dir", request.system.subject)}
    explained = explanations(results, options, restarted, observer.reasons)
    for line in explained:
        screen.show(line)
    result = {
        "task": startup.task,
        **summary,
        **options,
        "checkpoint_sha256": startup.checkpoint_sha256,
        **({"interrupted": signal.Signals(stop[0]).name, "finished": len(results)} if stop else {}),
        "explanations": explained,
        "restarted": restarted,
        "seconds": round(time.monotonic() - began, 1),
        "outcome": observer.outcome(summary),
        "results": results,
    }
    write_report(startup.output_dir / REPORT, _title(request), result, observer.strip)
    return result


def _look_first(request: Request, screen: Screen, stop: Sequence[int]) -> None:
    """Shows the list of what a robot must have before it may move. Raises Failed where it was to move at once and
    something stands against that."""
    from diffusion_ros.preflight import SECONDS, preflight  # here: no simulation needs what it imports

    screen.show(f"before anything is enabled, for {SECONDS:g} s:")
    found = preflight(request.startup, request.domain_id, lambda: bool(stop))
    for line in found.lines:
        screen.show(line)
    several = f"{found.problems} {'thing stands' if found.problems == 1 else 'things stand'} against enabling it"
    if stop:
        raise Failed(f"stopped by {signal.Signals(stop[0]).name}: nothing was started", 128 + stop[0])
    if found.problems and request.startup.values["enabled"]:
        raise Failed(f"{several}: nothing was started; without --enabled it starts, and holds", 1)
    after = f"{several}: put it right; then" if found.problems else "it holds until"
    screen.show(f"{after} `diffusion_ros enable` lets it move; `diffusion_ros stop` stops it")


def _title(request: Request) -> str:
    task = request.startup.task
    return f"{request.system.name}: {task}" if task and task != request.system.name else request.system.name


def _run_nodes(
    request: Request, observer: Observer, environment: dict[str, str], screen: Screen, stop: Sequence[int]
) -> dict[str, int]:
    """Until all episodes are over or `stop` is filled; returns which nodes were restarted, and how often."""
    startup = request.startup
    with ExitStack() as stack:
        context = Context()
        own = enclave_arguments(os.environ)
        rclpy.init(args=["--ros-args", *own] if own else [], context=context, domain_id=request.domain_id)
        stack.callback(rclpy.try_shutdown, context=context)
        name = f"bringup_{os.getpid()}"
        node = Node(name, context=context, namespace=startup.namespace, use_global_arguments=False)
        stack.callback(node.destroy_node)
        observer.nodes = [description.name for description in startup.nodes]
        observer.subscribe(node)
        executor = MessageExecutor(context=context)
        stack.callback(executor.shutdown)
        executor.add_node(node)
        stack.enter_context(announced(_running(request)))
        (startup.output_dir / WEB_ADDRESS).unlink(missing_ok=True)
        supervisor = stack.enter_context(Supervisor(startup.output_dir, environment, screen.show))
        manager = LifecycleManager(node, startup.system.managed(startup.values), screen.show)
        stack.callback(manager.release, lambda seconds: executor.spin_once(timeout_sec=seconds))
        for description in startup.nodes:
            words = command(startup, description)
            supervisor.start(description.name, words, description.restarts, description.terminal)
        required = {description.name for description in request.system.nodes if description.required}
        dispensable = {description.name for description in request.system.nodes if description.dispensable}
        address = startup.output_dir / WEB_ADDRESS if startup.values["web"] else None
        finished = False
        known: dict[str, int] = {}
        while not stop and not finished:
            executor.spin_once(timeout_sec=0.05)
            if address is not None and address.exists():
                screen.show(f"the page: {address.read_text().strip()}")
                address = None
            for name, count in supervisor.restarted.items():
                if count > known.get(name, 0):
                    manager.forget(name)
            known = dict(supervisor.restarted)
            manager.poll()
            for ended in supervisor.poll():
                if ended.name in dispensable:
                    screen.show(f"{_failure(ended, startup.output_dir)}; the rest goes on")
                    continue
                if ended.name not in required or ended.status != 0:
                    raise _failure(ended, startup.output_dir)
                finished = True
            observer.read()
            screen.progress(observer.parts())
        return dict(supervisor.restarted)


def _failure(ended: Ended, folder: Path) -> Failed:
    if ended.status == 2 and ended.message:
        return Failed(ended.message, 2)
    said = f": {ended.message}" if ended.message else ""
    return Failed(f"{ended.name} {describe_status(ended.status)}{said}; logs: {folder}", 1)


def main(arguments: Sequence[str] | None = None) -> int:
    stop: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.append(number)

    screen = Screen()
    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == [CHECK]:
            from diffusion_ros import check  # here: no system needs what it imports

            return check.main(given[1:], stop)
        if given[:1] == [LATENCY]:
            from diffusion_ros import latency

            return latency.main(given[1:], stop)
        if given[:1] == [enclaves.COMMAND]:
            return enclaves.main(given[1:])
        if given[:1] == [SIGN]:
            from diffusion_ros import sign

            return sign.main(given[1:])
        if given[:1] and given[0] in STEERING:
            return steer.main(given[0], given[1:], stop)
        if given[:1] == [RECOVER]:
            print(recover(Path(_parser(resource_folder()).parse_args(given).folder)))
            return 0
        request = parse(given)
        check_machine(request.startup)
        screen.show(f"ROS_DOMAIN_ID={request.domain_id}  logs: {request.startup.output_dir}")
        for section in foreign_sections(request.startup):
            screen.show(f"{request.startup.values['params_file']}: {section} is no node of {request.system.name}")
        result = run_system(request, screen, stop)
        write_json(request.result, result)
    except (UsageError, CheckpointError, BagError) as error:
        screen.end(str(error))
        return 2
    except ModuleNotFoundError as error:
        screen.end(explain(error))
        return 2
    except Failed as error:
        screen.end(str(error))
        return error.status
    except OSError as error:
        screen.end(str(error))
        return 1
    except RuntimeError as error:  # rclpy's
        if not (why := explain_security(error)):
            raise
        screen.end(why)
        return 2
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for line in files_of(request, result):
        screen.show(line)
    screen.end("")
    print(closing(request, result), flush=True)
    if "interrupted" in result and result["finished"] < result["episodes"]:
        screen.show(f"to go on: {to_go_on(request.words, request.startup)}")
    return 128 + stop[0] if "interrupted" in result else 0


def files_of(request: Request, result: Mapping[str, Any]) -> list[str]:
    """What there is to look at."""
    videos = [str(episode["video"]) for episode in result["results"] if episode.get("video")]
    more = f" and {len(videos) - 1} more beside it" if len(videos) > 1 else ""
    said = [f"videos: {videos[0]}{more}"] if videos else []
    return [*said, f"report: {request.startup.output_dir / REPORT}"]


def closing(request: Request, result: Mapping[str, Any]) -> str:
    """The outcome and its file."""
    said = f"{result['outcome']}; {request.result}"
    if "interrupted" not in result:
        return said
    return f"interrupted after {result['finished']} of {result['episodes']} episodes: {said}"


def _running(request: Request) -> RunningSystem:
    """What others on this machine are told."""
    return RunningSystem(
        system=request.system.name,
        task=request.startup.task,
        domain_id=request.domain_id,
        namespace=request.startup.namespace,
        environment={name: os.environ[name] for name in TRANSPORT if name in os.environ},
        output_dir=str(request.startup.output_dir),
        process=os.getpid(),
    )


if __name__ == "__main__":
    raise SystemExit(main())
