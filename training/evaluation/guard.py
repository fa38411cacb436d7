"""Scores a camera guard: what it catches and what it stops, on episodes outside of training and calibration."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from diffusion_ros import checkpoint
from diffusion_ros.control.frozen_cameras import FrozenCameras
from diffusion_ros.models.camera_guard import GUARD_KIND, CameraGuard, Judgement
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import ACTION_SCALE, RATE
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.camera_faults import FAULTS, CameraFault
from diffusion_ros.simulators.episode import episode_stamp_ns
from training.data.experts import NOISE_PARTS, NoisyExpert
from training.evaluation.episodes import MakeLines, Result, check_same, no_lines, run_episodes
from training.evaluation.rollout import roll_out
from training.parallel import Prepared, Workers

FRAMES = 5
"""Scored pictures within which a fault is to be caught."""
NOISE = 0.3
"""Greatest of the experts' noise, in parts of the full command."""
MAX_FROZEN_NS = 250_000_000


@dataclass(frozen=True)
class GuardEvaluation:
    """An expert with noise drives episode i, from seed + i; pictures are scored at the guard's rate.

    Two spells of each fault begin at random in every episode, with extents of their own.
    """

    path: Path
    sha256: str
    episodes: int
    seed: int

    @property
    def name(self) -> str:
        return f"{checkpoint.read_spec(self.path).task} guard"

    def worker(self) -> Callable[[int], Result]:
        torch.set_num_threads(1)
        guard = CameraGuard(checkpoint.load(self.path, kind=GUARD_KIND))
        check_same(self, guard.checkpoint)
        simulation = Simulation(guard.spec.task, guard.cameras)
        return Prepared(partial(_episode, guard, simulation, self.seed), simulation.close)

    def score(self, results: Sequence[Result]) -> str:
        caught = [spell for r in results for c in r[RAW].values() for f in c["caught"].values() for spell in f]
        return f"caught={np.mean([0 < frames <= FRAMES for frames in caught]):.2f}"


RAW = "raw"
"""Of an episode's result: the figures that the summary is made of, by camera."""


def _episode(guard: CameraGuard, simulation: Simulation, seed: int, index: int) -> Result:
    stride = max(1, round(RATE / guard.spec.rate))
    scoring: list[float] = []

    def look(camera: str, image: NDArray[np.uint8], pose: NDArray[np.float64]) -> float:
        began = time.perf_counter()
        score = float(guard.look(camera, image, pose).score)
        scoring.append(time.perf_counter() - began)
        return score

    rng = np.random.default_rng([seed + index, 4])
    way, poses = drive(simulation, seed + index, rng)
    result: Result = {"index": index, "seed": seed + index, "steps": len(way)}
    raw: dict[str, Any] = {}
    for camera in guard.cameras:
        judgement = Judgement()
        good: list[float] = []
        alarms: list[bool] = []
        for step in range(int(rng.integers(stride)), len(way), stride):
            good.append(look(camera, picture(simulation, camera, way[step]), poses[step]))
            alarms.append(bool(judgement.add(good[-1])))
        caught: dict[str, list[int]] = {fault: [] for fault in FAULTS}
        bad: dict[str, list[float]] = {fault: [] for fault in FAULTS}
        missed: list[str] = []
        for fault in FAULTS:
            for _ in range(2):
                made = CameraFault(fault, camera, int(rng.integers(2**31)))
                first = int(rng.integers(max(1, len(way) - stride * FRAMES)))
                made.set_scene(simulation)
                if fault == "frozen":
                    frames = _until_frozen(simulation, made, way[first:], poses[first:], stride)
                else:
                    frames, score = _until_alarm(simulation, made, way[first::stride], poses[first::stride], look)
                    bad[fault].append(score)
                caught[fault].append(frames)
                if not frames:
                    missed.append(fault)
                simulation.disturb_view()
        result[camera] = {"greatest_good_score": max(good), "missed": missed}
        raw[camera] = {"good": good, "alarms": alarms, "caught": caught, "bad": bad}
    return result | {RAW: raw, "scoring_ms": 1000 * float(np.median(scoring))}


def evaluate_guard(
    path: Path, episodes: int, seed: int, workers: Workers | None = None, lines: MakeLines = no_lines
) -> dict[str, Any]:
    """Per camera: false alarms on good frames, and for each fault the AUROC of single frames and the share caught.

    GuardEvaluation says how.
    """
    guard = CameraGuard(checkpoint.load(path, kind=GUARD_KIND))
    evaluation = GuardEvaluation(path, guard.checkpoint.sha256, episodes, seed)
    began = time.monotonic()
    (found,) = run_episodes([evaluation], workers, lines([evaluation]))
    cameras: dict[str, dict[str, Any]] = {}
    for camera in guard.cameras:
        raw = [result[RAW][camera] for result in found]
        good = np.concatenate([one["good"] for one in raw])
        faults: dict[str, dict[str, float]] = {}
        for fault in FAULTS:
            spells = np.array([frames for one in raw for frames in one["caught"][fault]])
            faults[fault] = {"caught": float(np.mean((spells > 0) & (spells <= FRAMES))), "spells": len(spells)}
            if fault != "frozen":
                bad = [score for one in raw for score in one["bad"][fault]]
                faults[fault]["auroc"] = float(mannwhitneyu(bad, good).statistic / (len(bad) * len(good)))
        cameras[camera] = {
            "good_frames": len(good),
            "false_alarms": float(np.mean(good > 1)),
            "frames_under_alarm": float(np.mean([alarm for one in raw for alarm in one["alarms"]])),
            "faults": faults,
        }
    return {
        "task": guard.spec.task,
        "episodes": episodes,
        "seed": seed,
        "score": float(np.mean([f["caught"] for camera in cameras.values() for f in camera["faults"].values()])),
        "cameras": cameras,
        "scoring_ms": float(np.median([result["scoring_ms"] for result in found])),
        "checkpoint": str(path),
        "checkpoint_sha256": guard.checkpoint.sha256,
        "seconds": round(time.monotonic() - began, 1),
        "results": [{k: v for k, v in result.items() if k not in (RAW, "scoring_ms")} for result in found],
    }


class Watcher:
    """What a guard would say in an episode in which nobody asks it."""

    def __init__(self, guard: CameraGuard, simulation: Simulation) -> None:
        self._guard, self._simulation = guard, simulation
        self._stride = max(1, round(RATE / guard.spec.rate))
        self._judgements = {camera: Judgement() for camera in guard.cameras}
        self.alarm: tuple[str, int] | None = None
        """Camera and step of the first."""

    def look(self, step: int) -> None:
        """Before each step."""
        if step % self._stride:
            return
        pose = hand_pose(self._simulation)
        for camera, judgement in self._judgements.items():
            image = picture(self._simulation, camera, self._simulation.data.qpos)
            if judgement.add(self._guard.look(camera, image, pose).score) and self.alarm is None:
                self.alarm = (camera, step)


@dataclass(frozen=True)
class WatchEvaluation:
    """A policy drives episode i, from seed + i, with good pictures all along, and a guard looks on."""

    path: Path
    sha256: str
    episodes: int
    seed: int
    policy: Path
    policy_sha256: str

    @property
    def name(self) -> str:
        return f"{checkpoint.read_spec(self.path).task} guard and policy"

    def worker(self) -> Callable[[int], Result]:
        torch.set_num_threads(1)
        guard = CameraGuard(checkpoint.load(self.path, kind=GUARD_KIND))
        check_same(self, guard.checkpoint)
        policy = Policy(checkpoint.load(self.policy, kind="policy", task=guard.spec.task))
        simulation = Simulation(guard.spec.task, guard.cameras)

        def episode(index: int) -> Result:
            watcher = Watcher(guard, simulation)
            (rolled,) = roll_out(policy, simulation, index + 1, self.seed, first=index, watch=watcher.look)
            camera, step = watcher.alarm or (None, None)
            return {"index": index, "seed": rolled.seed, "success": rolled.success, "camera": camera, "step": step}

        return Prepared(episode, simulation.close)

    def score(self, results: Sequence[Result]) -> str:
        return f"stopped={sum(result['camera'] is not None for result in results)}/{len(results)}"


def watch_policy(
    guard_path: Path,
    policy_path: Path,
    episodes: int,
    seed: int,
    workers: Workers | None = None,
    lines: MakeLines = no_lines,
) -> dict[str, Any]:
    """How many of a policy's episodes, with good pictures all along, the guard would stop."""
    spec = checkpoint.read_spec(guard_path)
    policy = checkpoint.load(policy_path, kind="policy", task=spec.task)
    sha256 = checkpoint.file_sha256(guard_path)
    evaluation = WatchEvaluation(guard_path, sha256, episodes, seed, policy_path, policy.sha256)
    (found,) = run_episodes([evaluation], workers, lines([evaluation]))
    stopped = [{n: r[n] for n in ("seed", "success", "camera", "step")} for r in found if r["camera"] is not None]
    succeeded = sum(result["success"] for result in found)
    return {"checkpoint": str(policy_path), "episodes": episodes, "succeeded": succeeded, "stopped": stopped}


def drive(
    simulation: Simulation, seed: int, rng: np.random.Generator
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Joint positions and the hand's poses (7) of an expert's episode, a control step apart."""
    simulation.reset(seed)
    expert = NoisyExpert(simulation, ACTION_SCALE * rng.uniform(0, NOISE) * NOISE_PARTS, rng)
    way: list[NDArray[np.float64]] = []
    poses: list[NDArray[np.float64]] = []
    while not simulation.success and len(way) < simulation.task.max_steps:
        way.append(simulation.data.qpos.copy())
        poses.append(hand_pose(simulation))
        expert.step()
    return way, poses


def hand_pose(simulation: Simulation) -> NDArray[np.float64]:
    """(7): position [m], quaternion xyzw."""
    frame = simulation.observe(images=False)
    return np.concatenate([frame["robot0_eef_pos"], frame["robot0_eef_quat"]])


def picture(simulation: Simulation, camera: str, qpos: NDArray[np.float64]) -> NDArray[np.uint8]:
    """What a camera shows, (H, W, 3) as policies see it, at joint positions `qpos`."""
    return simulation.render(camera, simulation.image_size, simulation.image_size, qpos)


def _until_alarm(
    simulation: Simulation,
    fault: CameraFault,
    way: list[NDArray[np.float64]],
    poses: list[NDArray[np.float64]],
    look: Any,
) -> tuple[int, float]:
    """Pictures until the alarm, 0 where none comes within FRAMES; and the first one's score."""
    judgement = Judgement()
    first = float("nan")
    for i, (qpos, pose) in enumerate(zip(way[:FRAMES], poses, strict=False)):
        score = look(fault.camera, fault.picture(picture(simulation, fault.camera, qpos)), pose)
        first = score if i == 0 else first
        if judgement.add(score):
            return i + 1, first
    return 0, first


def _until_frozen(
    simulation: Simulation,
    fault: CameraFault,
    way: list[NDArray[np.float64]],
    poses: list[NDArray[np.float64]],
    stride: int,
) -> int:
    """The same by all pictures of the camera, of which every `stride`-th would be scored."""
    watch = FrozenCameras(MAX_FROZEN_NS)
    for step in range(min(len(way), stride * FRAMES)):
        stamp_ns = episode_stamp_ns(0, step)
        watch.image(fault.camera, stamp_ns, fault.picture(picture(simulation, fault.camera, way[step])))
        watch.position(stamp_ns, poses[step][:3])
        if watch.reasons():
            return step // stride + 1
    return 0
