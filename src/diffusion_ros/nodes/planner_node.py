"""planner: a goal in, a plan out: by the service ~/plan, from goal_pose (RViz's goal tool), and again at a set rate.

Callbacks only check and store; a worker thread samples, so that odometry never waits for a plan. Whatever is asked for
and cannot be planned is refused with its reason, and the last valid plan stays.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from nav_msgs.srv import GetPlan
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.parameter import Parameter
from rclpy.task import Future
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from diffusion_ros import checkpoint, messages, topics
from diffusion_ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.maze import BALL_RADIUS, FRAME, MazeMap, jumped
from diffusion_ros.nodes.runner import RunnableNode, run
from diffusion_ros.params import declare, parameter
from diffusion_ros.planner import Array, Plan, PlanError, Planner, Plans
from diffusion_ros.spec import SAMPLERS

_BEST = (0.1, 0.7, 0.2, 1.0)
_OTHER = (0.4, 0.4, 0.8, 0.35)
_DENOISING = (0.9, 0.5, 0.1, 0.5)


@dataclass(frozen=True)
class PlannerParameters:
    """Parameters of the planner node."""

    checkpoint: str = parameter(description="path of a planner checkpoint (.pt)")
    device: str = parameter("cpu", "torch device that the planner runs on")
    threads: int = parameter(1, "torch threads; more than one spin against other busy processes", low=1)
    seed: int = parameter(0, "seed of the noise of the first plan; each further one has the next", low=0)
    sampler: str = parameter("", "'' for the checkpoint's own", choices=("", *SAMPLERS))
    sampler_steps: int = parameter(0, "denoising steps, 0 for the checkpoint's own", low=0)
    candidates: int = parameter(4, "plans that are sampled; the best of those that keep clear of walls is taken", low=1)
    budget: float = parameter(0.0, "seconds after which no denoising step is begun any more; 0: none", low=0.0)
    replan_rate: float = parameter(0.0, "plans a second while there is a goal; 0: once a goal [Hz]", low=0.0, high=50.0)
    warm_part: float = parameter(
        0.25,
        "how far the plan before is noised for the next one, in parts of all steps; 0: from noise",
        low=0.0,
        high=1.0,
    )
    max_odometry_age: float = parameter(0.5, "odometry that is older is not planned from [s]", low=0.0)
    obstacle_margin: float = parameter(0.15, "kept from obstacles, beside the ball's radius [m]", low=0.0)
    obstacle_weight: float = parameter(1.0, "weight of the obstacles' guide", low=0.0)


@dataclass(frozen=True)
class Request:
    """What the worker is to plan."""

    start: Array
    """(4) m and m/s."""
    stamp_ns: int
    goal: Array
    """(2) m."""
    warm: Plan | None
    answer: Future[Plan | None] | None
    """Of the service that waits for it."""


class PlannerNode(RunnableNode):
    """Subscribes to map, odom, goal_pose and obstacles; publishes plan, planned_trajectory, candidates, denoising."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters, checkpoint) in one line."""
        super().__init__("planner", parameter_overrides)
        self.parameters = p = declare(self, PlannerParameters)
        torch.set_num_threads(p.threads)
        self.planner = Planner(
            checkpoint.load(
                p.checkpoint,
                p.device,
                kind="planner",
                sampler=p.sampler or None,
                sampler_steps=p.sampler_steps or None,
            )
        )
        self._period_ns = round(1e9 * self.planner.spec.stride / self.planner.spec.rate)
        self._map: MazeMap | None = None
        self._odometry: tuple[int, Array, float] | None = None
        """Stamp [ns], state (4), when it came."""
        self._goal: Array | None = None
        self._obstacles: Array = np.zeros((0, 3))
        self._seed = p.seed
        self._last: tuple[Plan, int] | None = None
        """The last valid plan and its stamp [ns]."""
        self._refused = ""

        self._plan_publisher = self.create_publisher(Path, topics.PLAN, topics.DESCRIPTION_QOS)
        self._trajectory_publisher = self.create_publisher(
            JointTrajectory, topics.PLANNED_TRAJECTORY, topics.COMMAND_QOS
        )
        self._candidates_publisher = self.create_publisher(MarkerArray, topics.CANDIDATES, topics.DESCRIPTION_QOS)
        self._denoising_publisher = self.create_publisher(MarkerArray, topics.DENOISING, topics.DESCRIPTION_QOS)
        self.diagnostics = Diagnostics(self, f"{self.planner.spec.task} planner", self._refresh)
        self.diagnostics.value("checkpoint", p.checkpoint)
        self.diagnostics.value("sha256", self.planner.checkpoint.sha256)
        self.diagnostics.value("sampler", f"{self.planner.spec.sampler} {self.planner.spec.sampler_steps}")

        self._condition = threading.Condition()
        self._request: Request | None = None
        self._busy = False
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="planning", daemon=True)
        self._worker.start()

        self.create_subscription(OccupancyGrid, topics.MAP, self._on_map, topics.DESCRIPTION_QOS)
        self.create_subscription(Odometry, topics.ODOMETRY, self._on_odometry, topics.SENSOR_QOS)
        self.create_subscription(PoseStamped, topics.GOAL, self._on_goal, topics.COMMAND_QOS)
        self.create_subscription(MarkerArray, topics.OBSTACLES, self._on_obstacles, topics.COMMAND_QOS)
        self.create_service(GetPlan, "~/plan", self._on_get_plan)
        period = 1.0 / p.replan_rate if p.replan_rate > 0 else 0.1
        self.create_timer(period, self._replan, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # Callbacks: check and store

    def _on_map(self, msg: OccupancyGrid) -> None:
        try:
            self._map = MazeMap(messages.grid_from_msg(msg))
        except messages.MessageError as error:
            self._refuse(f"{topics.MAP}: {error}")

    def _on_odometry(self, msg: Odometry) -> None:
        try:
            stamp_ns, position, velocity = messages.odometry_from_msg(msg)
        except messages.MessageError as error:
            self._odometry = None
            self._refuse(f"{topics.ODOMETRY}: {error}")
            return
        now = time.monotonic()
        if self._odometry is not None and self._goal is not None:
            _, state, came = self._odometry
            if now - came > self.parameters.max_odometry_age or jumped(state[:2], position, now - came):
                # A new episode, or a robot that somebody has moved: the goal was another one's.
                self._goal = self._last = None
        self.diagnostics.tick(topics.ODOMETRY)
        self._odometry = stamp_ns, np.append(position, velocity), now

    def _on_obstacles(self, msg: MarkerArray) -> None:
        try:
            self._obstacles = messages.balls_from_msg(msg)
        except messages.MessageError as error:
            self._refuse(f"{topics.OBSTACLES}: {error}")

    def _on_goal(self, msg: PoseStamped) -> None:
        """A new goal takes the place of the last one, if it can be planned to."""
        try:
            goal = self._position(msg, "goal")
            request = self._from_odometry(goal, None)
        except PlanError as error:
            self._refuse(str(error))
            return
        self._goal = goal
        self._last = None
        self._submit(request, waits=True)

    async def _on_get_plan(self, request: GetPlan.Request, response: GetPlan.Response) -> GetPlan.Response:
        """Plans from `start` (from the odometry where its frame is ''), to `goal`; an empty path where it cannot."""
        try:
            goal = self._position(request.goal, "goal")
            if request.start.header.frame_id:
                start = np.append(self._position(request.start, "start"), [0.0, 0.0])
                now_ns = self.get_clock().now().nanoseconds
                asked = Request(start, now_ns, goal, None, Future(executor=self.executor))
            else:
                asked = self._from_odometry(goal, Future(executor=self.executor))
            if not self._submit(asked):
                raise PlanError("another plan is being made")
        except PlanError as error:
            self._refuse(str(error))
            return response
        assert asked.answer is not None
        plan = await asked.answer
        if plan is not None:
            response.plan = self._path(plan, asked.stamp_ns)
        return response

    def _replan(self) -> None:
        p = self.parameters
        if p.replan_rate == 0 or self._goal is None or self._last is None or self._odometry_age() > p.max_odometry_age:
            return
        try:
            request = self._from_odometry(self._goal, None)
        except PlanError as error:
            self._refuse(str(error))
            return
        plan, stamp_ns = self._last
        warm = None
        if p.warm_part > 0:
            progress = round((request.stamp_ns - stamp_ns) / self._period_ns)
            warm = self.planner.shifted(plan, min(max(0, progress), len(plan.rows) - 1))
        self._submit(Request(request.start, request.stamp_ns, request.goal, warm, None))

    def _position(self, pose: PoseStamped, name: str) -> Array:
        """(2) m in the map. Raises PlanError for what no plan can begin or end at."""
        if pose.header.frame_id not in ("", FRAME):
            raise PlanError(f"{name} in frame {pose.header.frame_id!r}: expected {FRAME!r}")
        if self._map is None:
            raise PlanError(f"{name}: there is no {topics.MAP} yet")
        position = np.array([pose.pose.position.x, pose.pose.position.y])
        problem = self._map.problem(position, margin=BALL_RADIUS)
        if problem:
            raise PlanError(f"{name} {problem}")
        return position

    def _from_odometry(self, goal: Array, answer: Future[Plan | None] | None) -> Request:
        if self._odometry is None:
            raise PlanError(f"no {topics.ODOMETRY} to plan from")
        stamp_ns, state, _ = self._odometry
        age = self._odometry_age()
        if age > self.parameters.max_odometry_age:
            raise PlanError(
                f"{topics.ODOMETRY} is {age:.2f} s old, at most {self.parameters.max_odometry_age:g} s expected"
            )
        return Request(state, stamp_ns, goal, None, answer)

    def _odometry_age(self) -> float:
        """Seconds since the last one came."""
        return np.inf if self._odometry is None else time.monotonic() - self._odometry[2]

    def _submit(self, request: Request, waits: bool = False) -> bool:
        """Hands it to the worker; False where that is busy, unless the request may wait (and replace one that does)."""
        with self._condition:
            if (self._busy or self._request is not None) and not waits:
                return False
            replaced, self._request = self._request, request
            self._condition.notify()
        if replaced is not None and replaced.answer is not None:
            replaced.answer.set_result(None)
        return True

    def _refuse(self, reason: str) -> None:
        self._refused = reason
        self._refresh()

    # The worker thread

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._request is not None or self._closing)
                if self._closing:
                    return
                request, self._request = self._request, None
                self._busy = True
                refused = self._refused
            assert request is not None
            plan: Plan | None = None
            try:
                plan = self._plan(request)
                if self._refused is refused:  # and not another one that came meanwhile
                    self._refused = ""
            except PlanError as error:
                self._refused = str(error)
            except Exception as error:
                # A planner that dies silently in its thread would look like one that is thinking.
                self.get_logger().error(traceback.format_exc())
                self._refused = f"planning failed: {' '.join(str(error).split())[-300:]}"
            finally:
                with self._condition:
                    self._busy = False
            if request.answer is not None:
                request.answer.set_result(plan)

    def _plan(self, request: Request) -> Plan:
        p = self.parameters
        guides: dict[str, Array] = {}
        obstacles = self._obstacles
        if len(obstacles):
            radii = obstacles[:, 2:] + BALL_RADIUS + p.obstacle_margin
            weights = np.full((len(obstacles), 1), p.obstacle_weight)
            guides = {"obstacles": np.hstack([obstacles[:, :2], radii, weights]), "iterations": np.array([10.0])}
        watched = self._denoising_publisher.get_subscription_count() > 0
        plans = self.planner.plan(
            request.start,
            np.append(request.goal, [0.0, 0.0]),
            guides=guides,
            candidates=p.candidates,
            seed=self._seed,
            warm=request.warm,
            warm_part=p.warm_part,
            budget=p.budget or None,
            watch=watched,
        )
        self._seed += 1
        self.diagnostics.latency("planning", plans.seconds)
        best = self._clear(plans.candidates)
        if request.answer is None and self._goal is not None and np.array_equal(request.goal, self._goal):
            self._last = best, request.stamp_ns
            self._publish(best, plans, request.stamp_ns)
        return best

    def _clear(self, candidates: list[Plan]) -> Plan:
        """The first of them that keeps out of walls and obstacles. Raises PlanError where none does."""
        reasons = []
        for plan in candidates:
            dense, _ = plan.dense(self.planner.spec.rate)
            assert self._map is not None
            if float(self._map.wall_distance(dense).min()) <= 0:
                reasons.append("through a wall")
                continue
            away = np.linalg.norm(dense[:, None] - self._obstacles[:, :2], axis=2) - self._obstacles[:, 2]
            # Where the obstacle is on the robot itself there is no other way than out of it.
            if len(self._obstacles) and float(away[1:].min()) < min(0.0, float(away[0].min())):
                reasons.append("through an obstacle")
                continue
            return plan
        raise PlanError(f"none of {len(candidates)} plans can be driven: {', '.join(sorted(set(reasons)))}")

    def _publish(self, best: Plan, plans: Plans, stamp_ns: int) -> None:
        self._plan_publisher.publish(self._path(best, stamp_ns))
        positions, velocities = best.dense(self.planner.spec.rate)
        step_ns = round(1e9 / self.planner.spec.rate)
        states = np.hstack([positions, velocities])
        self._trajectory_publisher.publish(messages.trajectory_to_msg(states, step_ns, stamp_ns, FRAME))
        self.diagnostics.tick(topics.PLAN)
        lines = [plan.part("position") for plan in plans.candidates]
        colours = [_BEST if plan is best else _OTHER for plan in plans.candidates]
        self._candidates_publisher.publish(messages.lines_to_msg(lines, colours, "candidates", FRAME))
        if plans.denoising:
            column = self.planner.columns["position"]
            steps = [estimate[0][:, column] for estimate in plans.denoising]
            fade = [(*_DENOISING[:3], (i + 1) / len(steps)) for i in range(len(steps))]
            self._denoising_publisher.publish(messages.lines_to_msg(steps, fade, "denoising", FRAME))

    def _path(self, plan: Plan, stamp_ns: int) -> Path:
        position = plan.part("position")
        stamps = [stamp_ns + i * self._period_ns for i in range(len(position))]
        return messages.path_to_msg(np.hstack([position, np.zeros((len(position), 1))]), stamps, stamp_ns, FRAME)

    # Diagnostics

    def _refresh(self) -> None:
        if self._refused:
            kept = "; the last valid plan stays" if self._last is not None else ""
            self.diagnostics.report(ERROR, f"refused: {self._refused}{kept}")
        elif self._map is None:
            self.diagnostics.report(WARN, f"no {topics.MAP} yet")
        elif self._odometry_age() > self.parameters.max_odometry_age:
            self.diagnostics.report(WARN, f"no {topics.ODOMETRY}, or an old one")
        elif self._goal is None:
            self.diagnostics.report(OK, "waiting for a goal")
        else:
            self.diagnostics.report(OK, "planned")

    def close(self) -> None:
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._worker.join(timeout=5.0)


def main() -> int:
    return run(PlannerNode)


if __name__ == "__main__":
    raise SystemExit(main())
