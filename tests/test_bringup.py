"""bringup: bad input before anything starts, whole runs, and nothing left behind however a run ends."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_policy
import fake_rl
import pytest
import rclpy
import ros_graph
from fake_planner import fake_planner
from gym_rollouts import gym_rollouts
from rclpy.node import Node
from std_msgs.msg import String

from diffusion_ros import bringup
from diffusion_ros.ros import messages, topics
from diffusion_ros.screen import fitted
from diffusion_ros.systems.explanations import explanations
from diffusion_ros.systems.gym import BalanceObserver
from diffusion_ros.systems.maze import MazeObserver
from diffusion_ros.systems.observer import Observer
from diffusion_ros.systems.supervisor import Ended, Supervisor

BOX: dict[str, Any] = {"workspace_low": (-1.0, -1.0, 0.8), "workspace_high": (1.0, 1.0, 1.5)}
ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return fake_policy.save(tmp_path / "policy.pt", fake_policy.spec(task="lift", environment="Lift", **BOX))


# Bad input


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["simulation", "--task", "walk"], "--task 'walk': expected one of lift, can, square"),
        (["simulation", "--checkpoint", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
        (["simulation", "--checkpoint", "foreign.pt"], "foreign.pt: truncated, or not a TorchScript file"),
        (["simulation", "--checkpoint", "truncated.pt"], "truncated.pt: truncated, or not a TorchScript file"),
        (["simulation", "--checkpoint", "policy.pt"], "policy.pt: was trained on the task lift, can is needed"),
        (["simulation", "--checkpoint", "planner.pt"], "planner.pt: is a planner, a policy is needed"),
        (["maze", "--size", "umaze", "--checkpoint", "policy.pt"], "policy.pt: is a policy, a planner is needed"),
        (["maze", "--checkpoint", "planner.pt"], "planner.pt: was trained on the size umaze, large is needed"),
        (["maze", "--size", "tiny"], "--size 'tiny': expected one of umaze, medium, large"),
        (["simulation", "--task", "lift", "--episodes", "0"], "--episodes 0: expected at least 1"),
        (["simulation", "--task", "lift", "--seed", "x"], "--seed 'x': expected a number"),
        (["simulation", "--task", "lift", "--mode", "fast"], "--mode 'fast': expected one of lockstep, realtime"),
        (["simulation", "--task", "lift", "--speed", "2"], "--speed 2.0: expected at most 1.0"),
        (["maze", "--size", "umaze", "--speed", "0"], "--speed 0.0: expected at least 0.05"),
        (
            ["simulation", "--task", "lift", "--speed", "0.5", "--mode", "lockstep"],
            "--speed 0.5: expected 1 in lockstep, which waits for each command",
        ),
        (
            ["simulation", "--task", "lift", "--speed", "0.5", "--use-sim-time", "false"],
            "--use-sim-time false: expected true with --speed 0.5",
        ),
        (["simulation", "--task", "lift", "--view", "above"], "--video 'above': expected one of frontview"),
        (["simulation", "--task", "lift", "--video", "above"], "--video 'above': expected one of frontview"),
        (["maze", "--video", "maybe"], "--video 'maybe': expected true or false"),
        (
            ["simulation", "--task", "lift", "--json", "policy.pt/x.json"],
            "policy.pt: cannot be written: Not a directory",
        ),
        (["simulation", "--task", "lift", "--json", "folder"], "folder: is a folder, a file name is expected"),
        (["simulation", "--task", "lift", "--output-dir", "policy.pt"], "policy.pt: cannot be written"),
        (["simulation", "--task", "lift", "--domain-id", "300"], "ROS_DOMAIN_ID '300': expected 0 to 232"),
        (["simulation", "--task", "lift", "--namespace", "a-b"], "--namespace 'a-b': expected names"),
        (["simulation", "--episode", "3"], "unrecognized arguments: --episode 3"),
        (["cartpole", "--checkpoint", "policy.pt"], "policy.pt: is a policy, a discrete policy is needed"),
        (
            ["double_pendulum", "--checkpoint", "cart.pt"],
            "cart.pt: is a discrete policy, a continuous policy is needed",
        ),
        (["cartpole", "--checkpoint", "other.pt"], "other.pt: was trained on the task Acrobot-v1, cartpole is needed"),
        (["cartpole", "--checkpoint", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
        (["fly"], "invalid choice: 'fly'"),
        ([], "arguments are required"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(
    arguments: list[str],
    expected: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", None)
    Path("foreign.pt").write_text("not a policy")
    Path("truncated.pt").write_bytes(checkpoint.read_bytes()[:2000])
    fake_planner(Path("planner.pt"))
    fake_rl.save(Path("cart.pt"))
    fake_rl.save(Path("other.pt"), spec_=dataclasses.replace(fake_rl.spec(), task="Acrobot-v1"))
    Path("folder").mkdir()
    Path("result.json").write_text("{}")
    before = files(tmp_path)
    if arguments and "--checkpoint" not in arguments:
        arguments = [*arguments, "--checkpoint", str(checkpoint)]
    if arguments and "--json" not in arguments:
        arguments = [*arguments, "--json", "result.json"]
    assert bringup.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert expected in line
    assert files(tmp_path) == before
    assert Path("result.json").read_text() == "{}"


def test_default_checkpoint_is_the_shipped_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, name in (
        ("maze --size medium", "maze_medium"),
        ("cartpole", "cartpole_rainbow"),
        ("double_pendulum", "double_pendulum_ppo"),
        ("simulation --task square", "square_pixels"),
    ):
        request = bringup.parse(arguments.split())
        shipped = ROOT / f"checkpoints/{name}.pt"
        assert request.startup.values["checkpoint"] == str(shipped)
        assert request.startup.checkpoint_sha256 == hashlib.sha256(shipped.read_bytes()).hexdigest()
    assert request.startup.output_dir.parent == tmp_path / "runs" and request.startup.output_dir.name.startswith(
        "square-"
    )
    assert request.result == request.startup.output_dir / "summary.json"


@pytest.mark.parametrize(
    ("system", "arguments", "name", "expected"),
    [
        ("simulation", [], "view", "frontview"),
        ("simulation", ["--video"], "view", "frontview"),
        ("simulation", ["--video", "birdview"], "view", "birdview"),
        ("simulation", ["--view", "birdview"], "view", "birdview"),
        ("simulation", ["--view", ""], "view", ""),
        ("simulation", ["--no-video"], "view", ""),
        ("simulation", ["--params-file", "mine.yaml"], "view", "agentview"),
        ("maze", [], "video", True),
        ("maze", ["--video", "false"], "video", False),
        ("cartpole", ["--no-video"], "video", False),
        ("cartpole", ["--video"], "video", True),
    ],
)
def test_videos_are_made_unless_somebody_says_otherwise(
    system: str, arguments: list[str], name: str, expected: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("simulation:\n  ros__parameters:\n    view: agentview\n")
    assert bringup.parse([system, *arguments]).startup.values[name] == expected


def test_domain_is_that_of_the_environment_or_free(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["simulation", "--task", "lift", "--checkpoint", str(checkpoint)]
    monkeypatch.setenv("ROS_DOMAIN_ID", "42")
    assert bringup.parse(arguments).domain_id == 42
    assert bringup.parse([*arguments, "--domain-id", "43"]).domain_id == 43
    monkeypatch.delenv("ROS_DOMAIN_ID")
    monkeypatch.setattr(bringup.random, "shuffle", lambda domains: None)
    free = bringup.parse(arguments).domain_id
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("", 7410 + 250 * free))
        assert bringup.free_domain_id() > free


def test_result_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    bringup.write_json(path, {"a": 1.5})
    assert json.loads(path.read_text()) == {"a": 1.5}
    with pytest.raises(ValueError, match="JSON"):
        bringup.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1.5}
    assert list(path.parent.iterdir()) == [path]


def test_progress_has_the_state_and_its_reason_first() -> None:
    observer = Observer("can", 3, Path("none.jsonl"))
    assert observer.parts() == ["starting", "can"]
    news = {"event": "running", "index": 1, "seed": 5, "step": 7, "max_steps": 400, "rate": 19.98, "latency_ms": 31.2}
    news |= {"missed": 2, "acting": True, "fault": "", "success": False}
    observer.results = {0: {"index": 0, "success": True}}
    observer.news = news
    assert observer.line() == ("acting  can 2/3  step   7/400  1 of 1 succeeded  20.0 Hz  latency 31 ms  missed 2")
    observer.executor = "holding: no chunk yet"
    observer.news = {**news, "acting": False}
    assert observer.parts()[0] == "holding: no chunk yet"
    observer.news = {**news, "acting": False, "fault": "no command in this period", "latency_ms": None}
    assert observer.line().startswith("holding: no command in this period  can 2/3")
    assert observer.line().endswith("20.0 Hz  missed 2")
    for event in ("waiting", "drawing", "pausing", "end", "done"):
        observer.news = {**news, "event": event}
        assert "\n" not in observer.line()


def test_progress_does_not_contradict_itself() -> None:
    """What the executor says comes once a second only: it may still be of the time before."""
    observer = Observer("can", 3, Path("none.jsonl"))
    observer.news = {"event": "running", "index": 0, "step": 7, "max_steps": 400, "rate": 20.0, "latency_ms": 31.2}
    observer.news |= {"missed": 0, "acting": False, "fault": "", "success": False}
    observer.executor = "acting"
    assert observer.parts()[0] == "holding"
    observer.news["event"] = "waiting"
    assert observer.parts()[0] == "waiting for the policy"


def test_what_starts_is_said() -> None:
    observer = Observer("can", 3, Path("none.jsonl"), nodes=("simulation", "policy"))
    first, what, task = observer.parts()
    assert (first[:10], what, task) == ("starting, ", "simulation, policy: importing libraries", "can")
    msg = messages.diagnostics_to_msg([messages.Status("policy", "", 0, "publishing chunks", {})], 0)
    observer._on_diagnostics(msg)
    assert observer.parts()[1] == "simulation: importing libraries"


def test_a_line_is_fitted_to_the_terminal() -> None:
    parts = ["holding: agentview: silent for 0.52 s", "can 2/3", "", "step   7/400", "20.0 Hz"]
    assert fitted(parts, 200) == "  ".join(filter(None, parts))
    assert fitted(parts, 60) == "holding: agentview: silent for 0.52 s  can 2/3  step   7/400"
    assert fitted(parts, 59) == "holding: agentview: silent for 0.52 s  can 2/3"
    assert fitted(parts, 20) == "holding: agentvie..."
    assert all(len(fitted(parts, width)) <= width for width in range(80))


def test_progress_of_a_maze_is_one_line() -> None:
    observer = MazeObserver("large", 2, Path("none.jsonl"))
    assert observer.parts() == ["starting", "large"]
    observer.results = {0: {"score": 210.4}}
    observer.news = {"event": "running", "index": 1, "step": 90, "max_steps": 800, "rate": 100.04, "missed": 1}
    observer.news |= {"reward": 41.0, "fault": "", "success": False}
    assert observer.line() == "driving  large 2/2  step  90/800  score 210 of 1  return 41  100.0 Hz  missed 1"
    observer.news |= {"fault": "no force yet"}
    assert observer.line().startswith("holding: no force yet  large 2/2")
    observer.news |= {"event": "waiting"}
    assert observer.parts()[0] == "waiting for a plan"


def test_progress_of_balancing_is_one_line() -> None:
    observer = BalanceObserver("cartpole", 2, Path("none.jsonl"))
    observer.results = {0: {"return": 480.0}}
    news = {"event": "running", "index": 1, "step": 90, "max_steps": 500, "rate": 50.04, "latency_ms": 2.0, "missed": 1}
    observer.news = {**news, "acting": True, "fault": "", "success": False}
    assert observer.line() == ("acting  cartpole 2/2  step  90/500  return 480.0 in 1  50.0 Hz  latency 2 ms  missed 1")


def test_the_strip_has_what_the_robot_did_and_why() -> None:
    observer = Observer("can", 3, Path("none.jsonl"))
    news = {"event": "running", "index": 0, "seed": 5, "max_steps": 400, "rate": 20.0, "latency_ms": None}
    news |= {"missed": 0, "acting": True, "fault": "", "success": False}
    said = [(4, True, ""), (8, True, ""), (12, False, "no command"), (16, True, "")]
    for step, acting, fault in said:
        observer._on_episode(messages.episode_to_msg({**news, "step": step, "acting": acting, "fault": fault}))
    observer._on_episode(messages.episode_to_msg({**news, "index": 1, "step": 3}))
    assert [(s.index, s.first, s.last, s.state, s.reason) for s in observer.strip] == [
        (0, 0, 8, "acting", ""),
        (0, 8, 12, "holding", "no command"),
        (0, 12, 16, "acting", ""),
        (1, 0, 3, "acting", ""),
    ]
    assert observer.reasons == {"no command": 1}


@pytest.mark.parametrize(
    ("results", "options", "restarted", "reasons", "expected"),
    [
        ([{"steps": 400, "missed": 8, "held": 8}], {"mode": "realtime"}, {}, {}, []),
        (
            [{"steps": 400, "missed": 59, "held": 59}],
            {"mode": "realtime", "speed": 1.0},
            {},
            {},
            ["59 of 400 periods had no command: this machine is too slow, try --mode lockstep or --speed 0.5"],
        ),
        (
            [{"steps": 400, "missed": 30}, {"steps": 400, "missed": 29}],
            {},
            {"policy": 2},
            {},
            ["policy ended and was started again 2 times: policy.log says why", "59 of 800 periods had no command"],
        ),
        (
            [{"steps": 400, "missed": 0, "overruns": 40}],
            {"speed": 1.0},
            {},
            {},
            ["40 of 400 periods began late: this machine is too slow, try --speed 0.5"],
        ),
        (
            [{"steps": 400, "missed": 0, "held": 100}],
            {},
            {},
            {"emergency stop: requested": 20, "no chunk": 3},
            ["the robot held in 100 of 400 periods, mostly because of: emergency stop: requested"],
        ),
        (
            [{"steps": 100, "achieved_speed": 0.31}],
            {"speed": 0.5},
            {},
            {},
            ["it ran at speed 0.31 instead of 0.5: this machine is too slow for that, try --speed 0.28"],
        ),
    ],
)
def test_outcomes_are_explained(
    results: list[dict[str, Any]],
    options: dict[str, Any],
    restarted: dict[str, int],
    reasons: dict[str, int],
    expected: list[str],
) -> None:
    assert explanations(results, options, restarted, reasons) == expected


# Whole runs


@pytest.fixture
def start(tmp_path: Path, checkpoint: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts bringup in a domain of the test's own."""
    started = []

    def popen(*arguments: str) -> subprocess.Popen[str]:
        own = arguments[0] in ("maze", "cartpole", "double_pendulum")
        system = [] if own else ["simulation", "--task", "lift", "--checkpoint", str(checkpoint)]
        video = [] if {"--view", "--video"} & set(arguments) else ["--no-video"]
        process = subprocess.Popen(
            [sys.executable, "-m", "diffusion_ros.bringup", *system, *arguments, *video]
            + ["--json", "result.json", "--output-dir", "run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )
        started.append(process)
        return process

    with ros_graph.own_domain():
        yield popen
        for process in started:
            process.kill()
            process.communicate()
        deadline = time.monotonic() + 30
        while nodes_of(tmp_path):
            assert time.monotonic() < deadline, "a node has outlived bringup"
            time.sleep(0.1)


def nodes_of(folder: Path) -> dict[str, int]:
    """Process ids of the nodes, by name, that bringup started with the run folder in `folder`."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_text().split("\0") if entry.name.isdecimal() else []
        except OSError:
            continue
        for name in ("simulation", "policy", "executor", "maze", "planner", "follower", "gym_simulation", "rl_policy"):
            if f"{folder}/run/parameters/{name}.yaml" in words:
                found[name] = int(entry.name)
    return found


def wait_for(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.05)
    return value


@pytest.mark.slow  # each node on a slower clock is in test_robot_time.py and test_simulation_node.py
def test_a_graph_at_half_speed_does_in_simulated_time_what_it_does_in_real_time(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start(
        *("--checkpoint", str(ROOT / "checkpoints/lift_state.pt"), "--mode", "realtime", "--view", ""),
        *("--speed", "0.5", "--episodes", "1", "--seed", "100000"),
    )
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    result = json.loads((tmp_path / "result.json").read_text())
    (episode,) = result["results"]
    assert (result["speed"], episode["success"], episode["rate"]) == (0.5, True, 20.0)
    assert 0 < episode["achieved_speed"] < 0.55
    given = {name: (tmp_path / f"run/parameters/{name}.yaml").read_text() for name in ("policy", "executor")}
    assert all("use_sim_time: true" in text for text in given.values())


# The nodes of a maze drive together in test_planner_nodes.py; what bringup does with a system is the same for all.
@pytest.mark.slow
def test_maze_run_writes_its_result(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    planner = fake_planner(tmp_path / "planner.pt")
    arguments = ["--checkpoint", str(planner), "--episodes", "1", "--seed", "100001", "--video", "false"]
    process = start("maze", "--size", "umaze", *arguments)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    result = json.loads((tmp_path / "result.json").read_text())
    (episode,) = result["results"]
    assert output == f"umaze: score {result['score']:.1f}, mean of 1; {tmp_path}/result.json\n"
    assert (result["task"], result["follow"], result["restarted"]) == ("umaze", "pursuit", {})
    assert (episode["index"], episode["seed"], episode["score"]) == (0, 100001, result["score"])
    assert result["reached"] == episode["reached"]


@pytest.mark.slow  # the supervisor that starts it again is tested below, a policy that comes back in test_nodes.py
def test_policy_that_is_killed_while_balancing_is_started_again(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """In lockstep nothing is lost: the result is that of an undisturbed run."""
    policy = fake_rl.save(tmp_path / "up.pt", fake_rl.EveryBitContinuous(), fake_rl.spec("double_pendulum"))
    arguments = ["double_pendulum", "--checkpoint", str(policy), "--mode", "lockstep", "--episodes", "1"]
    process = start(*arguments, "--max-steps", "800")
    rclpy.init()
    graph = ros_graph.Graph()
    try:
        news: list[dict[str, Any]] = []
        observer = graph.add(Node("observer"))
        observer.create_subscription(
            String, topics.EPISODE, lambda msg: news.append(messages.episode_from_msg(msg)), topics.EPISODE_QOS
        )
        graph.spin_until(lambda: news and news[-1]["step"] > 20, 90)
        os.kill(nodes_of(tmp_path)["rl_policy"], signal.SIGKILL)
    finally:
        graph.close()
        rclpy.try_shutdown()
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "rl_policy was killed by SIGKILL: starting it again" in errors
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["restarted"] == {"rl_policy": 1}
    (episode,) = result["results"]
    assert output.startswith(f"double_pendulum: return {episode['return']:.1f} +- 0.0, length {episode['steps']:.1f}")
    assert (result["success_rate"], episode["steps"]) == (1.0, 800)
    (plain,) = gym_rollouts(policy, 1, 100_000, 800)
    assert plain == {name: episode[name] for name in plain}


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],  # one handler has both
)
def test_signal_ends_everything(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    process = start("--mode", "realtime", "--view", "frontview")
    wait_for(lambda: len(nodes_of(tmp_path)) == 3)
    time.sleep(5.0)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status, errors
    assert nodes_of(tmp_path) == {}
    assert errors.splitlines()[-1] == f"stopped by {number.name}: no episode was finished; logs: {tmp_path}/run"
    assert "Traceback" not in errors
    assert not (tmp_path / "result.json").exists()
    assert not [path for path in files(tmp_path) if ".part" in path.name]


def test_nodes_do_not_outlive_a_killed_bringup(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start("--mode", "realtime")
    wait_for(lambda: len(nodes_of(tmp_path)) == 3)
    process.kill()
    wait_for(lambda: nodes_of(tmp_path) == {}, 30)


# The restart is in make test as well, above; what an executor and a simulator do meanwhile, in test_nodes.py.
@pytest.mark.slow
def test_simulator_holds_while_a_killed_policy_is_started_again(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start("--mode", "realtime", "--max-steps", "100000", "--episodes", "1")
    rclpy.init()
    graph = ros_graph.Graph()
    try:
        news: list[dict[str, Any]] = []
        observer = graph.add(Node("observer"))
        observer.create_subscription(
            String, topics.EPISODE, lambda msg: news.append(messages.episode_from_msg(msg)), topics.EPISODE_QOS
        )
        graph.spin_until(lambda: news and news[-1]["acting"], 90)
        first = nodes_of(tmp_path)
        os.kill(first["policy"], signal.SIGKILL)
        graph.spin_until(lambda: not news[-1]["acting"], 30)
        held = news[-1]["held"]
        graph.spin_until(lambda: news[-1]["acting"], 90)
        # The same episode goes on, and time went on meanwhile.
        assert news[-1]["index"] == 0 and news[-1]["held"] >= held > 0
        assert news[-1]["step"] > news[0]["step"]
        second = nodes_of(tmp_path)
        assert second["policy"] != first["policy"]
        assert (second["simulation"], second["executor"]) == (first["simulation"], first["executor"])
    finally:
        graph.close()
        rclpy.try_shutdown()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "policy was killed by SIGKILL: starting it again" in errors


def test_end_of_the_simulator_is_the_end(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start("--mode", "realtime")
    wait_for(lambda: len(nodes_of(tmp_path)) == 3)
    os.kill(nodes_of(tmp_path)["simulation"], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("simulation was killed by SIGKILL")
    assert not (tmp_path / "result.json").exists()


# That a node's line is bringup's is in test_installation.py, what is refused in test_export_proof.py.
@pytest.mark.slow
def test_node_that_refuses_its_checkpoint_gives_the_line(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, checkpoint: Path
) -> None:
    """What only loading can tell: the specification is good, the module is not."""
    spec = fake_policy.spec(task="lift", horizon=12, **BOX)  # promises two rows more than the module gives
    module = fake_policy.FakePolicy(spec.input_names, n_rows=9)
    fake_policy.checkpoint.save(module, spec, checkpoint)
    process = start("--mode", "lockstep")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "policy.pt: gives chunks of shape (1, 9, 7)" in errors.splitlines()[-1]


# The supervisor, with processes that misbehave


def run_children(tmp_path: Path, script: str, restarts: int = 0) -> tuple[list[Ended], list[str], Supervisor]:
    shown: list[str] = []
    ended: list[Ended] = []
    with Supervisor(tmp_path, dict(os.environ), shown.append) as supervisor:
        supervisor.start("child", [sys.executable, "-c", script], restarts)
        wait_for(lambda: ended.extend(supervisor.poll()) or ended)
    return ended, shown, supervisor


def test_child_is_started_again_as_often_as_it_may(tmp_path: Path) -> None:
    ended, shown, supervisor = run_children(tmp_path, "print('once'); raise SystemExit(3)", restarts=2)
    assert ended == [Ended("child", 3, "once")]
    assert shown == ["child ended with status 3: starting it again"] * 2
    assert supervisor.restarted == {"child": 2}
    assert (tmp_path / "child.log").read_text() == "once\n" * 3


def test_bad_input_is_not_tried_again(tmp_path: Path) -> None:
    ended, shown, _ = run_children(tmp_path, "print('x: no such file'); raise SystemExit(2)", restarts=2)
    assert ended == [Ended("child", 2, "x: no such file")]
    assert shown == []


def test_errors_are_shown_and_the_rest_is_not(tmp_path: Path) -> None:
    script = "print('[INFO] fine'); print('[ERROR] [1.0] [policy]: not fine'); print('[WARN] so so')"
    _, shown, _ = run_children(tmp_path, script)
    assert shown == ["[ERROR] [1.0] [policy]: not fine"]


def test_a_child_reads_the_terminal_only_where_it_may(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    before = os.dup(0)
    os.dup2(theirs, 0)
    try:
        with Supervisor(tmp_path, dict(os.environ), lambda line: None) as supervisor:
            for name, terminal in (("keyboard", True), ("other", False)):
                supervisor.start(name, ["sh", "-c", f"test -t 0; echo $? > {tmp_path}/{name}.txt"], 0, terminal)
            ended: list[Ended] = []
            while len(ended) < 2:
                ended += supervisor.poll()
                time.sleep(0.01)
    finally:
        os.dup2(before, 0)
        for descriptor in (before, ours, theirs):
            os.close(descriptor)
    assert [(tmp_path / f"{name}.txt").read_text() for name in ("keyboard", "other")] == ["0\n", "1\n"]


def test_stubborn_children_are_killed_with_their_own(tmp_path: Path) -> None:
    script = """
import signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
    supervisor = Supervisor(tmp_path, dict(os.environ), print)
    supervisor.start("child", [sys.executable, "-c", script], 0)
    grandchild = wait_for(lambda: (tmp_path / "child.log").read_text().strip())
    supervisor.stop(patience=0.5)
    wait_for(
        lambda: not Path(f"/proc/{grandchild}/cmdline").exists() or not Path(f"/proc/{grandchild}/cmdline").read_text()
    )
