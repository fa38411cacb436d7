"""Scores a camera guard: what it catches and what it stops, on episodes outside of training and calibration."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from tqdm import tqdm

from diffusion_ros import checkpoint
from diffusion_ros.control.frozen_cameras import FrozenCameras
from diffusion_ros.models.camera_guard import GUARD_KIND, CameraGuard, Judgement
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import ACTION_SCALE, RATE
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.camera_faults import FAULTS, CameraFault
from diffusion_ros.simulators.episode import episode_stamp_ns
from training.data.experts import NOISE_PARTS, NoisyExpert
from training.evaluation.rollout import roll_out

FRAMES = 5
"""Scored pictures within which a fault is to be caught."""
NOISE = 0.3
"""Greatest of the experts' noise, in parts of the full command."""
MAX_FROZEN_NS = 250_000_000


def evaluate_guard(path: Path, episodes: int, seed: int) -> dict[str, Any]:
    """Per camera: false alarms on good frames, and for each fault the AUROC of single frames and the share caught.

    An expert with noise drives; pictures are scored at the guard's rate. Two spells of each fault begin at random in
    every episode, with extents of their own.
    """
    guard = CameraGuard(checkpoint.load(path, kind=GUARD_KIND))
    spec = guard.spec
    simulation = Simulation(spec.task, guard.cameras)
    stride = max(1, round(RATE / spec.rate))
    good: dict[str, list[float]] = defaultdict(list)
    alarms: dict[str, list[bool]] = defaultdict(list)
    bad: dict[tuple[str, str], list[float]] = defaultdict(list)
    caught: dict[tuple[str, str], list[int]] = defaultdict(list)
    scoring: list[float] = []
    results: list[dict[str, Any]] = []

    def look(camera: str, image: NDArray[np.uint8], pose: NDArray[np.float64]) -> float:
        began = time.perf_counter()
        score = guard.look(camera, image, pose).score
        scoring.append(time.perf_counter() - began)
        return score

    began = time.monotonic()
    for index in tqdm(range(episodes), desc=f"{spec.task} guard", unit="episode"):
        rng = np.random.default_rng([seed + index, 4])
        way, poses = drive(simulation, seed + index, rng)
        result: dict[str, Any] = {"index": index, "seed": seed + index, "steps": len(way)}
        for camera in guard.cameras:
            judgement, before = Judgement(), len(good[camera])
            for step in range(int(rng.integers(stride)), len(way), stride):
                score = look(camera, picture(simulation, camera, way[step]), poses[step])
                good[camera].append(score)
                alarms[camera].append(judgement.add(score))
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
                        bad[camera, fault].append(score)
                    caught[camera, fault].append(frames)
                    if not frames:
                        missed.append(fault)
                    simulation.disturb_view()
            result[camera] = {"greatest_good_score": max(good[camera][before:]), "missed": missed}
        results.append(result)
    simulation.close()
    cameras: dict[str, dict[str, Any]] = {}
    for camera in guard.cameras:
        faults: dict[str, dict[str, float]] = {}
        for fault in FAULTS:
            spells = np.array(caught[camera, fault])
            faults[fault] = {"caught": float(np.mean((spells > 0) & (spells <= FRAMES))), "spells": len(spells)}
            if fault != "frozen":
                ranks = mannwhitneyu(bad[camera, fault], good[camera])
                faults[fault]["auroc"] = float(ranks.statistic / (len(bad[camera, fault]) * len(good[camera])))
        cameras[camera] = {
            "good_frames": len(good[camera]),
            "false_alarms": float(np.mean(np.array(good[camera]) > 1)),
            "frames_under_alarm": float(np.mean(alarms[camera])),
            "faults": faults,
        }
    return {
        "task": spec.task,
        "episodes": episodes,
        "seed": seed,
        "score": float(np.mean([f["caught"] for camera in cameras.values() for f in camera["faults"].values()])),
        "cameras": cameras,
        "scoring_ms": 1000 * float(np.median(scoring)),
        "checkpoint": str(path),
        "checkpoint_sha256": guard.checkpoint.sha256,
        "seconds": round(time.monotonic() - began, 1),
        "results": results,
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


def watch_policy(guard_path: Path, policy_path: Path, episodes: int, seed: int) -> dict[str, Any]:
    """How many of a policy's episodes, with good pictures all along, the guard would stop."""
    guard = CameraGuard(checkpoint.load(guard_path, kind=GUARD_KIND))
    policy = Policy(checkpoint.load(policy_path, kind="policy", task=guard.spec.task))
    simulation = Simulation(guard.spec.task, guard.cameras)
    succeeded, stopped = 0, []
    for index in tqdm(range(episodes), desc=f"{guard.spec.task} guard and policy", unit="episode"):
        watcher = Watcher(guard, simulation)
        (episode,) = roll_out(policy, simulation, index + 1, seed, first=index, watch=watcher.look)
        succeeded += episode.success
        if watcher.alarm is not None:
            camera, step = watcher.alarm
            stopped.append({"seed": episode.seed, "success": episode.success, "camera": camera, "step": step})
    simulation.close()
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
