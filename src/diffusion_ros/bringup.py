"""Starts a whole system without `ros2 launch`, shows what it does, and writes down how it went.

    python -m diffusion_ros.bringup simulation --task can --episodes 3 --seed 100000 --mode realtime --json summary.json

Exit status: 0 when all episodes were run, 1 when a node failed, 2 after one line on stderr for bad input, and 130 or
143 after Ctrl-C or SIGTERM. No process outlives it, and the result file appears whole or not at all.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, NoneType
from typing import Any, ClassVar, NoReturn

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from diffusion_ros.atomic_file import read_lines, write_json
from diffusion_ros.checkpoint import CheckpointError, file_sha256, read_spec, with_article
from diffusion_ros.ros import messages, topics
from diffusion_ros.spec import GUARD_KIND
from diffusion_ros.systems.supervisor import Ended, Supervisor, describe_status
from diffusion_ros.systems.system import ENVIRONMENT, SYSTEMS, System, Value, resource_folder

_PROGRESS_SECONDS = 0.2
_SHOWN = 1e9
"""Numbers of a progress line are smaller."""
_PLAIN_PROGRESS_SECONDS = 10.0
"""Between lines where they cannot be overwritten (a file, a pipe)."""


class UsageError(ValueError):
    """Bad input; one line with the value and what was expected."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


@dataclass(frozen=True)
class Request:
    """What was asked for, checked."""

    system: System
    values: Mapping[str, Value]
    output_dir: Path
    result: Path
    namespace: str
    domain_id: int
    checkpoint_sha256: str

    @property
    def results(self) -> Path:
        """Where the simulator writes each episode's result."""
        return self.output_dir / "results.jsonl"

    @property
    def task(self) -> str:
        """What the checkpoint was trained on."""
        return self.system.trained_on(self.values)


def parse(arguments: Sequence[str]) -> Request:
    """Raises UsageError or CheckpointError, before anything is started or written."""
    parser = _Parser(prog="bringup", description="Starts a system of nodes.", allow_abbrev=False)
    systems = parser.add_subparsers(dest="system", required=True, metavar=f"{{{','.join(SYSTEMS)}}}")
    for system in SYSTEMS.values():
        names = ", ".join(node.name for node in system.nodes)
        sub = systems.add_parser(system.name, help=f"the nodes {names}", allow_abbrev=False)
        for argument in system.arguments:
            choices = f" ({', '.join(filter(None, argument.choices))})" if argument.choices else ""
            sub.add_argument(
                f"--{argument.name.replace('_', '-')}",
                dest=argument.name,
                default=str(argument.default),
                metavar=argument.name.upper(),
                help=f"{argument.description}{choices}" + (f" [{argument.default}]" if argument.default != "" else ""),
            )
        sub.add_argument("--json", default="", metavar="FILE", help="the result; default: OUTPUT_DIR/summary.json")
        sub.add_argument("--namespace", default="", help="of all nodes and topics")
        sub.add_argument("--domain-id", default="", help="ROS_DOMAIN_ID; default: the environment's, or a free one")
    given = parser.parse_args(arguments)
    system = SYSTEMS[given.system]
    try:
        values = {a.name: a.parse(getattr(given, a.name)) for a in system.arguments}
    except ValueError as error:
        raise UsageError(f"--{error}") from None

    task = system.trained_on(values)
    checkpoint = Path(str(values["checkpoint"]) or system.default_checkpoint(values, resource_folder())).absolute()
    spec = read_spec(checkpoint)
    if spec.kind != system.kind:
        raise UsageError(f"{checkpoint}: is {with_article(spec.kind)}, {with_article(system.kind)} is needed")
    if spec.task != task:
        subject = system.subject or "task"
        raise UsageError(f"{checkpoint}: was trained on the {subject} {spec.task}, {task} is needed")
    values["checkpoint"] = str(checkpoint)
    if values.get("guard"):
        guard = Path(str(values["guard"])).absolute()
        kind = read_spec(guard).kind
        if kind != GUARD_KIND:
            raise UsageError(f"{guard}: is {with_article(kind)}, {with_article(GUARD_KIND)} is needed")
        if values["mode"] == "lockstep":
            raise UsageError("--guard: for --mode realtime; in lockstep no result may depend on the time that it takes")
        values["guard"] = str(guard)

    when = time.strftime("%Y%m%d-%H%M%S")
    output_dir = Path(str(values["output_dir"]) or f"runs/{task}-{when}-{os.getpid()}").absolute()
    values["output_dir"] = str(output_dir)
    result = Path(given.json).absolute() if given.json else output_dir / "summary.json"
    if result.is_dir():
        raise UsageError(f"--json {result}: is a folder, a file name is expected")
    for folder in (output_dir, result.parent):
        _check_writable(folder)
    if given.namespace and not re.fullmatch(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*", given.namespace):
        raise UsageError(f"--namespace {given.namespace!r}: expected names of letters, digits and _ between slashes")
    domain = given.domain_id or os.environ.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isdecimal() and int(domain) <= 232):
        raise UsageError(f"ROS_DOMAIN_ID {domain!r}: expected 0 to 232")
    return Request(
        system=system,
        values=values,
        output_dir=output_dir,
        result=result,
        namespace=given.namespace.strip("/"),
        domain_id=int(domain) if domain else free_domain_id(),
        checkpoint_sha256=file_sha256(checkpoint),
    )


def _check_writable(folder: Path) -> None:
    """Tries the nearest folder that there is; permissions alone do not tell (root, read-only file systems)."""
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    try:
        with tempfile.NamedTemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from None


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


@dataclass
class Observer:
    """What the system says of itself: episodes and what the executor does, for the progress line; and the results.

    Anybody can publish on a topic: what is heard there is for the eye, and does not change the outcome. Results are
    read from the file that the simulator adds them to.
    """

    task: str
    episodes: int
    file: Path
    """Of the results, a line of JSON each."""
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    news: dict[str, Any] = field(default_factory=dict)
    executor: str = "starting"
    """What the node that acts says of itself."""
    _size: int = 0
    actor: ClassVar[str] = "executor"
    """The hardware id under which it does."""
    expected: ClassVar[Mapping[str, tuple[type, ...]]] = {
        "event": (str,),
        "index": (int,),
        "step": (int,),
        "max_steps": (int,),
        "missed": (int,),
        "success": (bool,),
        "fault": (str,),
        "rate": (int, float),
        "acting": (bool,),
        "latency_ms": (int, float, NoneType),
    }
    """What news of an episode must say."""

    def subscribe(self, node: Node) -> None:
        node.create_subscription(String, topics.EPISODE, self._on_episode, topics.EPISODE_QOS)
        node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.DIAGNOSTICS_QOS)

    def _on_episode(self, msg: String) -> None:
        try:
            news = messages.episode_from_msg(msg)
        except messages.MessageError:
            return
        if all(_fits(news.get(name), types) for name, types in self.expected.items()):
            self.news = news

    def read(self) -> None:
        """Brings the results up to date."""
        size = self.file.stat().st_size if self.file.exists() else 0
        if size != self._size:
            self._size = size
            for result in read_lines(self.file):
                self.results[int(result["index"])] = result

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in messages.diagnostics_from_msg(msg):
            if status.hardware_id == self.actor:
                self.executor = status.summary

    def line(self) -> str:
        """The progress, in one line."""
        return messages.printable(self._line() if self.news else f"{self.task}  starting")

    def _line(self) -> str:
        news = self.news
        phase, pace = news["event"], ""
        if phase == "running":
            latency = f"  latency {news['latency_ms']:.0f} ms" if news["latency_ms"] is not None else ""
            pace = f"  {news['rate']:4.1f} Hz{latency}  missed {news['missed']}"
            # What the executor says of itself comes only once a second.
            why = news["fault"] or self.executor.removeprefix("holding: ")
            state = "acting" if news["acting"] else f"holding: {why}"
        else:
            state = {
                "waiting": f"waiting for the policy ({self.executor})",
                "drawing": "drawing the video",
                "pausing": "next episode",
                "end": "success" if news["success"] else "no success",
                "done": "done",
            }.get(phase, phase)
        return (
            f"{self.task}  episode {news['index'] + 1}/{self.episodes}  step {news['step']:3d}/{news['max_steps']}"
            f"{pace}  {state}{self._score()}"
        )

    def _score(self) -> str:
        done = [result["success"] for result in self.results.values()]
        return f"  {sum(done)} of {len(done)} succeeded" if done else ""

    def summary(self) -> dict[str, Any]:
        """What the results come to."""
        results = [self.results[i] for i in range(self.episodes)]
        successes = sum(bool(result["success"]) for result in results)
        latency_ms = {}
        for name in ("stamp to command", "publication to command"):
            medians = [timing["median"] for result in results if (timing := result["timings_ms"].get(name))]
            latency_ms[name] = round(statistics.median(medians), 3) if medians else None
        return {
            "success_rate": successes / len(results),
            "successes": successes,
            "missed": sum(result["missed"] for result in results),
            "held": sum(result["held"] for result in results),
            "overruns": sum(result["overruns"] for result in results),
            "mean_length": sum(result["steps"] for result in results) / len(results),
            "latency_ms": latency_ms,
            "results": results,
        }

    def outcome(self, summary: Mapping[str, Any]) -> str:
        """The summary in one line."""
        return f"{self.task}: {summary['successes']} of {self.episodes} succeeded"


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    """Whether it is of exactly these types (True is an int, too) and, if a number, one that can be shown."""
    return type(value) in types and (not isinstance(value, (int, float)) or -_SHOWN < value < _SHOWN)


class MazeObserver(Observer):
    """The same for a maze, whose episodes have a score."""

    expected = {
        **{name: types for name, types in Observer.expected.items() if name not in ("acting", "latency_ms")},
        "reward": (int, float),
    }

    def _line(self) -> str:
        news = self.news
        done = [result["score"] for result in self.results.values()]
        score = f"  score {sum(done) / len(done):.0f} of {len(done)}" if done else ""
        phase = {"waiting": "waiting for a plan", "running": f"{news['rate']:5.1f} Hz  missed {news['missed']}"}
        state = phase.get(news["event"], news["event"])
        return (
            f"{self.task}  episode {news['index'] + 1}/{self.episodes}  step {news['step']:3d}/{news['max_steps']}"
            f"  {state}  return {news['reward']:.0f}{'  ' + news['fault'] if news['fault'] else ''}{score}"
        )

    def summary(self) -> dict[str, Any]:
        results = [self.results[i] for i in range(self.episodes)]
        return {
            "score": statistics.mean(result["score"] for result in results),
            "mean_return": statistics.mean(result["return"] for result in results),
            "reached": sum(bool(result["reached"]) for result in results) / len(results),
            "missed": sum(result["missed"] for result in results),
            "results": results,
        }

    def outcome(self, summary: Mapping[str, Any]) -> str:
        return f"{self.task}: score {summary['score']:.1f}, mean of {self.episodes}"


class BalanceObserver(Observer):
    """The same for a Gymnasium task, whose episodes have a return."""

    actor = "rl_policy"

    def _score(self) -> str:
        returns = [result["return"] for result in self.results.values()]
        return f"  return {statistics.mean(returns):.1f} in {len(returns)}" if returns else ""

    def summary(self) -> dict[str, Any]:
        summary = super().summary()
        returns = [result["return"] for result in summary["results"]]
        return {"mean_return": statistics.mean(returns), "std_return": statistics.pstdev(returns), **summary}

    def outcome(self, summary: Mapping[str, Any]) -> str:
        return (
            f"{self.task}: return {summary['mean_return']:.1f} +- {summary['std_return']:.1f},"
            f" length {summary['mean_length']:.1f}, mean of {self.episodes}"
        )


OBSERVERS = {
    "simulation": Observer,
    "maze": MazeObserver,
    "cartpole": BalanceObserver,
    "double_pendulum": BalanceObserver,
}


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


def command(request: Request, index: int) -> list[str]:
    """The command line of node `index`; its chosen parameters go through a file that stays in the run's folder."""
    node = request.system.started(request.values)[index]
    chosen = request.output_dir / f"{node.name}.yaml"
    parameters = request.system.parameters(node, request.values)
    if node.required:
        parameters["results"] = str(request.results)
    chosen.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    files = [str(resource_folder() / "config" / node.config), str(chosen)]
    arguments = [argument for file in files for argument in ("--params-file", file)]
    remaps = [f"__node:={node.name}", *([f"__ns:=/{request.namespace}"] if request.namespace else [])]
    arguments += [argument for remap in remaps for argument in ("-r", remap)]
    return [sys.executable, "-m", node.module, "--ros-args", *arguments]


def run_system(request: Request, screen: Screen, stop: Sequence[int]) -> dict[str, Any]:
    """Runs all episodes and returns the result. Raises Failed; returns {} when a signal has filled `stop`."""
    began = time.monotonic()
    request.output_dir.mkdir(parents=True, exist_ok=True)
    environment = {**ENVIRONMENT, **os.environ, "ROS_DOMAIN_ID": str(request.domain_id)}
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment.setdefault("ROS_LOG_DIR", str(request.output_dir / "ros"))
    os.environ.update(environment)  # our own observer reads them there too
    request.results.unlink(missing_ok=True)
    observer = OBSERVERS[request.system.name](request.task, int(request.values["episodes"]), request.results)
    with ExitStack() as stack:
        context = Context()
        rclpy.init(args=[], context=context, domain_id=request.domain_id)
        stack.callback(rclpy.try_shutdown, context=context)
        name = f"bringup_{os.getpid()}"
        node = Node(name, context=context, namespace=request.namespace, use_global_arguments=False)
        stack.callback(node.destroy_node)
        observer.subscribe(node)
        executor = SingleThreadedExecutor(context=context)
        stack.callback(executor.shutdown)
        executor.add_node(node)
        supervisor = stack.enter_context(Supervisor(request.output_dir, environment, screen.show))
        for index, description in enumerate(request.system.started(request.values)):
            supervisor.start(description.name, command(request, index), description.restarts)
        required = {description.name for description in request.system.nodes if description.required}
        finished = False
        while not stop and not finished:
            executor.spin_once(timeout_sec=0.05)
            for ended in supervisor.poll():
                if ended.name not in required or ended.status != 0:
                    raise _failure(ended, request.output_dir)
                finished = True
            observer.read()
            screen.progress(observer.line())
        restarted = dict(supervisor.restarted)
    if stop:
        return {}
    missing = [i for i in range(observer.episodes) if i not in observer.results]
    if missing:
        raise Failed(f"no result of episode {', '.join(map(str, missing))}; logs: {request.output_dir}", 1)
    summary = observer.summary()
    results = summary.pop("results")
    chosen = {
        name: value for name, value in request.values.items() if name not in ("output_dir", request.system.subject)
    }
    return {
        "task": request.task,
        **summary,
        **chosen,
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
    try:
        request = parse(sys.argv[1:] if arguments is None else arguments)
        screen.show(f"ROS_DOMAIN_ID={request.domain_id}  logs: {request.output_dir}")
        result = run_system(request, screen, stop)
        if not result:
            raise Failed(f"stopped by {signal.Signals(stop[0]).name}", 128 + stop[0])
        write_json(request.result, result)
    except (UsageError, CheckpointError) as error:
        screen.end(str(error))
        return 2
    except Failed as error:
        screen.end(str(error))
        return error.status
    except OSError as error:
        screen.end(str(error))
        return 1
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    screen.end("")
    print(f"{result['outcome']}; {request.result}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
