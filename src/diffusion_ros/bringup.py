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
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from diffusion_ros import enclaves
from diffusion_ros.atomic_file import write_json
from diffusion_ros.bags import BagError, recover
from diffusion_ros.checkpoint import CheckpointError, file_sha256
from diffusion_ros.dds_security import enclave_arguments, explain_security
from diffusion_ros.installation import explain, require
from diffusion_ros.resources import resource_folder
from diffusion_ros.systems import REAL_ROBOT, SYSTEMS, TELEOPERATE
from diffusion_ros.systems.startup import Startup, UsageError, check_writable, decide, defaults, foreign_sections
from diffusion_ros.systems.supervisor import Ended, Supervisor, describe_status
from diffusion_ros.systems.system import WEB_ADDRESS, NodeDescription, System, node_environment

CHECK = "check"
"""The word that starts no system, but asks whether one may be started."""
LATENCY = "latency"
"""The word that starts no system, but measures how late a robot's streams are."""
RECOVER = "recover"
"""The word that starts no system, but makes a whole bag of one whose recorder was killed."""
_PROGRESS_SECONDS = 0.2
_PLAIN_PROGRESS_SECONDS = 10.0
"""Between lines where they cannot be overwritten (a file, a pipe)."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


@dataclass(frozen=True)
class Request:
    """What was asked for, checked."""

    startup: Startup
    result: Path
    domain_id: int
    checkpoint_sha256: str

    @property
    def system(self) -> System:
        return self.startup.system


def parse(arguments: Sequence[str]) -> Request:
    """Raises UsageError or CheckpointError, before anything is started or written."""
    resources = resource_folder()
    given = vars(_parser(resources).parse_args(arguments))
    system, json, domain = SYSTEMS[given.pop("system")], given.pop("json", ""), given.pop("domain_id", "")
    if system is TELEOPERATE and "robot" in given:
        system, given = REAL_ROBOT, _on_a_robot(given)
    startup = decide(system, given, resources, lambda name: f"--{name.replace('_', '-')}")
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
    return Request(
        startup=startup,
        result=result,
        domain_id=int(domain) if domain else elsewhere(),
        checkpoint_sha256=file_sha256(checkpoint) if (checkpoint := str(startup.values["checkpoint"])) else "",
    )


def _on_a_robot(given: dict[str, str]) -> dict[str, str]:
    """What `teleoperate --robot` is: real_robot without a policy. Raises UsageError."""
    known = {argument.name for argument in REAL_ROBOT.all_arguments}
    if own := sorted(set(given) - known):
        raise UsageError(f"--{own[0].replace('_', '-')}: expected without --robot only: it is the simulator's")
    return {"teleop": "keyboard", **given, "policy": "false"}


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
    recovering = systems.add_parser(
        RECOVER,
        help="makes a whole bag of one whose recorder was killed",
        description="Makes a whole bag of one whose recorder was killed. Nothing that was whole is lost.",
        usage=f"diffusion_ros {RECOVER} FOLDER",
        formatter_class=_help,
        allow_abbrev=False,
    )
    recovering.add_argument("folder", metavar="FOLDER", help="of the bag")
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
        usual = defaults(system, resources)
        for argument in system.all_arguments:
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
        if system.simulated:  # what else ends by itself, and has a result
            sub.add_argument("--json", metavar="FILE", help="file for the result; default: OUTPUT_DIR/summary.json")
        domain = "a free one" if system.simulated else "0"
        sub.add_argument("--domain-id", help=f"ROS_DOMAIN_ID; default: the environment's, or {domain}")
    return parser


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


class Screen:
    """A line that is overwritten on a terminal, and lines that stay. On stderr: stdout is for the outcome."""

    def __init__(self) -> None:
        self._overwrites = sys.stderr.isatty()
        self._next = 0.0

    def progress(self, line: str) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_PROGRESS_SECONDS if self._overwrites else _PLAIN_PROGRESS_SECONDS)
        if self._overwrites:
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # some terminals do not tell
            print(f"\r\x1b[K{line[: width - 1]}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def show(self, line: str) -> None:
        print(f"\r\x1b[K{line}" if self._overwrites else line, file=sys.stderr, flush=True)

    def end(self, message: str) -> None:
        """Removes the progress; a last line, unless it is ''."""
        if message:
            self.show(" ".join(message.split()))
        elif self._overwrites:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


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
    """Runs all episodes and returns the result. Raises Failed; returns {} when a signal has filled `stop`."""
    began = time.monotonic()
    startup = request.startup
    usual = node_environment(resource_folder(), request.system.simulated)
    chosen = {**usual, **os.environ, "ROS_DOMAIN_ID": str(request.domain_id)}
    chosen.setdefault("ROS_LOG_DIR", str(startup.output_dir / "ros"))
    os.environ.update(chosen)  # our own observer reads them there too
    episodes = int(startup.values.get("episodes", 0))
    observer = request.system.observer(startup.task, episodes, startup.results, namespace=startup.namespace)
    with ExitStack() as stack:
        stack.enter_context(startup.claimed())
        context = Context()
        own = enclave_arguments(os.environ)
        rclpy.init(args=["--ros-args", *own] if own else [], context=context, domain_id=request.domain_id)
        stack.callback(rclpy.try_shutdown, context=context)
        name = f"bringup_{os.getpid()}"
        node = Node(name, context=context, namespace=startup.namespace, use_global_arguments=False)
        stack.callback(node.destroy_node)
        observer.subscribe(node)
        executor = SingleThreadedExecutor(context=context)
        stack.callback(executor.shutdown)
        executor.add_node(node)
        (startup.output_dir / WEB_ADDRESS).unlink(missing_ok=True)
        supervisor = stack.enter_context(Supervisor(startup.output_dir, chosen, screen.show))
        for description in startup.nodes:
            words = command(startup, description)
            supervisor.start(description.name, words, description.restarts, description.terminal)
        required = {description.name for description in request.system.nodes if description.required}
        dispensable = {description.name for description in request.system.nodes if description.dispensable}
        address = startup.output_dir / WEB_ADDRESS if startup.values["web"] else None
        finished = False
        while not stop and not finished:
            executor.spin_once(timeout_sec=0.05)
            if address is not None and address.exists():
                screen.show(f"the page: {address.read_text().strip()}")
                address = None
            for ended in supervisor.poll():
                if ended.name in dispensable:
                    screen.show(f"{_failure(ended, startup.output_dir)}; the rest goes on")
                    continue
                if ended.name not in required or ended.status != 0:
                    raise _failure(ended, startup.output_dir)
                finished = True
            observer.read()
            screen.progress(observer.line())
        restarted = dict(supervisor.restarted)
    if stop:
        return {}
    missing = [i for i in range(observer.episodes) if i not in observer.results]
    if missing:
        raise Failed(f"no result of episode {', '.join(map(str, missing))}; logs: {startup.output_dir}", 1)
    if remark := observer.remark():
        screen.show(remark)
    summary = observer.summary()
    results = summary.pop("results")
    own = [argument.name for argument in request.system.arguments]
    options = {name: startup.values[name] for name in own if name not in ("output_dir", request.system.subject)}
    return {
        "task": startup.task,
        **summary,
        **options,
        "checkpoint_sha256": request.checkpoint_sha256,
        "restarted": restarted,
        "seconds": round(time.monotonic() - began, 1),
        "outcome": observer.outcome(summary),
        "results": results,
    }


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
        if given[:1] == [RECOVER]:
            print(recover(Path(_parser(resource_folder()).parse_args(given).folder)))
            return 0
        request = parse(given)
        screen.show(f"ROS_DOMAIN_ID={request.domain_id}  logs: {request.startup.output_dir}")
        for section in foreign_sections(request.startup):
            screen.show(f"{request.startup.values['params_file']}: {section} is no node of {request.system.name}")
        result = run_system(request, screen, stop)
        if not result:
            raise Failed(f"stopped by {signal.Signals(stop[0]).name}", 128 + stop[0])
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
    screen.end("")
    print(f"{result['outcome']}; {request.result}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
