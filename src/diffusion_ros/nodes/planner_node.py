"""planner: a goal in, a plan out. Goals come by the service ~/plan or on goal_pose (RViz's goal tool).

With `replan_rate` it plans again for the same goal. Callbacks only check and store. A worker thread samples, so that no
sensor waits for a plan, and the node's thread publishes the result. What cannot be planned is refused with its reason,
and the last valid plan stays.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from nav_msgs.srv import GetPlan
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.parameter import Parameter
from rclpy.task import Future
from visualization_msgs.msg import MarkerArray

from diffusion_ros import checkpoint
from diffusion_ros.models.hand_planner import make_planner, plans_hands
from diffusion_ros.models.kind import SAMPLERS
from diffusion_ros.models.planner import Array, Plan, PlanError, Plans, clearance, leads_into, obstacle_guides
from diffusion_ros.nodes.arm_domain import ArmDomain
from diffusion_ros.nodes.maze_domain import MazeDomain
from diffusion_ros.nodes.planner_domain import Domain
from diffusion_ros.robot import FINGERS, FRAME_PREFIX
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.managed_node import AUTOSTART, ManagedNode
from diffusion_ros.ros.params import declare, parameter
from diffusion_ros.ros.runner import run
from diffusion_ros.ros.trusted_checkpoint import TrustedCheckpoint, identity
from diffusion_ros.ros.worker import Worker, failure

_BEST = (0.1, 0.7, 0.2, 1.0)
_OTHER = (0.4, 0.4, 0.8, 0.35)
_OBSTACLE_BYTES = 262_144
"""Of a message of obstacles: about 1,500 balls."""
_DENOISING = (0.9, 0.5, 0.1, 0.5)


@dataclass(frozen=True)
class PlannerParameters(TrustedCheckpoint):
    """Parameters of the planner node."""

    checkpoint: str = parameter(description="path of a planner checkpoint (.pt)")
    device: str = parameter("cpu", "torch device that the planner runs on")
    threads: int = parameter(1, "torch threads; more than one take time from the other nodes", low=1)
    seed: int = parameter(0, "seed of the first plan's noise; each further plan has the next seed", low=0)
    sampler: str = parameter("", "sampler; '': the checkpoint's own", choices=("", *SAMPLERS))
    sampler_steps: int = parameter(0, "denoising steps; 0: the checkpoint's own", low=0)
    candidates: int = parameter(4, "plans that are sampled at once; the best one that keeps clear is taken", low=1)
    budget: float = parameter(0.0, "no denoising step begins after this time [s]; 0: no limit", low=0.0)
    replan_rate: float = parameter(
        0.0, "plans in a second while there is a goal [Hz]; 0: one plan for each goal", low=0.0, high=50.0
    )
    warm_part: float = parameter(
        0.25,
        "a new plan starts from the plan before, noised up to this part of all steps; 0: it starts from noise",
        low=0.0,
        high=1.0,
    )
    max_state_age: float = parameter(0.5, "no plan starts from an odometry or an eef_pose that is older [s]", low=0.0)
    max_obstacle_age: float = parameter(
        1.0, "if obstacles were heard of and are then silent for longer, the robot stops [s]; 0: never", low=0.0
    )
    obstacle_margin: float = parameter(
        0.1, "distance to keep from obstacles, beside the radius of the ball or the hand [m]", low=0.0
    )
    obstacle_weight: float = parameter(1.0, "weight of the obstacles' guide", low=0.0)
    gripper_joints: tuple[str, ...] = parameter(FINGERS, "an arm's: the fingers' names in joint_states")
    frame_prefix: str = parameter("", FRAME_PREFIX)
    autostart: bool = parameter(True, AUTOSTART)


@dataclass(frozen=True)
class PlanRequest:
    """What the worker is to plan."""

    start: tuple[int, Array] | None
    """Stamp [ns] and state (S); None: where the robot is when the worker comes to it."""
    goal: Array
    """State (S)."""
    warm: Plan | None = None
    answer: Future[Outcome] | None = None
    """Of the service that waits for it."""


@dataclass(frozen=True)
class Outcome:
    """What came of a request."""

    request: PlanRequest
    stamp_ns: int = 0
    """Of the plans' start."""
    plans: Plans | None = None
    best: Plan | None = None
    refused: str = ""
    """Why there is no plan."""
    refused_before: str = ""
    """What the node had refused when the worker began."""


class PlannerNode(ManagedNode):
    """Subscribes to goal_pose, obstacles and what its domain needs; publishes plan, candidates and denoising."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters, checkpoint) in one line."""
        super().__init__("planner", parameter_overrides)
        self.parameters = p = declare(self, PlannerParameters, _completed)
        self.start(p.autostart)

    def configure(self) -> None:
        p = self.parameters
        torch.set_num_threads(p.threads)
        self.planner = make_planner(
            checkpoint.load(
                p.checkpoint,
                p.device,
                kind="planner",
                sampler=p.sampler,
                sampler_steps=p.sampler_steps,
                **p.trust,
            )
        )
        loaded = self.planner.checkpoint
        self.get_logger().info(identity(p.checkpoint, loaded.sha256, loaded.signer))
        self._period_ns = round(1e9 * self.planner.spec.stride / self.planner.spec.rate)
        self._goal: Array | None = None
        self.obstacles: Array = np.zeros((0, 4))
        """Centres and radii (N, 4) m."""
        self._seed = p.seed
        self._last: tuple[Plan, Array] | None = None
        """The last valid plan, and the goal (S) that it leads to."""
        self._refused = ""
        self._obstacles_came: float | None = None
        self._obstacle_fault = ""
        """Why it is not known where the obstacles are."""
        self._interrupted = False
        """Whether a fault has stopped the robot on its way to the goal."""

        self._plan_publisher = self.create_publisher(Path, topics.PLAN, topics.DESCRIPTION_QOS)
        self._candidates_publisher = self.create_publisher(MarkerArray, topics.CANDIDATES, topics.DESCRIPTION_QOS)
        self._denoising_publisher = self.create_publisher(MarkerArray, topics.DENOISING, topics.DESCRIPTION_QOS)
        self.diagnostics = Diagnostics(self, f"{self.planner.spec.task} planner", self._refresh)
        self.diagnostics.value("checkpoint", p.checkpoint)
        self.diagnostics.value("sha256", self.planner.checkpoint.sha256)
        self.diagnostics.value("sampler", f"{self.planner.spec.sampler} {self.planner.spec.sampler_steps}")
        self.domain: Domain = (ArmDomain if plans_hands(self.planner.spec) else MazeDomain)(self, self)

        self._worker = Worker("planning", self._take, self._work)
        self._request: PlanRequest | None = None
        self._busy = False
        self._outcomes: deque[Outcome] = deque()
        self._came = self.create_guard_condition(self._deliver)
        self._worker.start()

        self.create_subscription(PoseStamped, topics.GOAL, self._on_goal, topics.COMMAND_QOS)
        self._obstacle_listener = Listener(
            self,
            MarkerArray,
            topics.OBSTACLES,
            self._on_obstacles,
            self._on_bad_obstacles,
            topics.WATCHED_QOS,
            max_bytes=_OBSTACLE_BYTES,
        )
        # A group of its own: in the common one nothing else would be heard while it waits for its plan.
        self.create_service(GetPlan, "~/plan", self._on_get_plan, callback_group=ReentrantCallbackGroup())
        period = 1.0 / p.replan_rate if p.replan_rate > 0 else 0.1
        self.every(period, self._replan)
        self.every(0.1, self._watch_obstacles)

    def deactivate(self) -> None:
        """The robot stops on its way, and has no goal any more."""
        self.domain.halt()
        self.forget()
        self._refresh()

    def forget(self) -> None:
        """The goal was for a robot that is somewhere else now."""
        self._goal = self._last = None

    def interrupt(self, reason: str) -> None:
        """Stops the robot on its way; `resume` goes on to the goal that it was under way to."""
        with self._worker.condition:
            planning = self._goal is not None and (self._busy or self._request is not None)
        self._interrupted |= self.domain.halt() or planning
        self.refuse(reason)

    def resume(self) -> None:
        """Plans anew from where the robot is, once what has interrupted it is over; before that nothing."""
        if not self._interrupted:
            return
        try:
            self._here()
        except PlanError:
            return
        self._interrupted, self._refused = False, ""
        if self._goal is not None:
            self._submit(PlanRequest(None, self._goal), waits=True)

    def refuse(self, reason: str) -> None:
        """Says why something was not done; the last valid plan stays."""
        self._refused = reason
        self._refresh()

    # Callbacks: check and store

    def _on_obstacles(self, msg: MarkerArray) -> None:
        if conflict := self._obstacle_listener.conflict():
            raise messages.MessageError(conflict)
        self.obstacles = messages.balls_from_msg(msg, self.domain.frame)
        self._obstacles_came = self.seconds()
        self._obstacle_fault = ""
        self.domain.heed()
        self.resume()

    def _on_bad_obstacles(self, error: messages.MessageError, msg: MarkerArray | None) -> None:
        self._lose_obstacles(f"{topics.shown(self, topics.OBSTACLES)}: {error}")

    def _watch_obstacles(self) -> None:
        limit, came = self.parameters.max_obstacle_age, self._obstacles_came
        if limit > 0 and came is not None and (silent := self.seconds() - came) > limit:
            self._lose_obstacles(f"{topics.shown(self, topics.OBSTACLES)}: silent for {silent:.1f} s")

    def _lose_obstacles(self, reason: str) -> None:
        """It is not known any more where the obstacles are: whoever drove on would drive blind."""
        self._obstacle_fault = reason
        self.interrupt(reason)

    def _on_goal(self, msg: PoseStamped) -> None:
        """A new goal takes the place of the last one; until there is a plan to it, the last plan is followed."""
        try:
            goal = self._state_at(msg, "goal")
            if self._interrupted or self._obstacle_fault:
                # Instead of the goal that it was under way to, once it goes on.
                self._goal, self._interrupted = goal, True
            self._here()
        except PlanError as error:
            self.refuse(str(error))
            return
        self._goal, self._interrupted = goal, False
        self._submit(PlanRequest(None, goal), waits=True)

    async def _on_get_plan(self, request: GetPlan.Request, response: GetPlan.Response) -> GetPlan.Response:
        """Plans from `start` to `goal`; a `start` without a frame means where the robot is. No plan: an empty path;
        its header.frame_id says "refused: " and why, as GetPlan has no other word for it."""
        try:
            goal = self._state_at(request.goal, "goal")
            if request.start.header.frame_id:
                start = self.now_ns(), self._state_at(request.start, "start")
            else:
                start = self._here()
            asked = PlanRequest(start, goal, answer=Future(executor=self.executor))
            if not self._submit(asked):
                raise PlanError("another plan is being made")
        except PlanError as error:
            self.refuse(str(error))
            return self._refusal(response, str(error))
        assert asked.answer is not None
        outcome = await asked.answer
        assert outcome is not None
        if outcome.best is None:
            return self._refusal(response, outcome.refused or "a newer goal came before it was made")
        response.plan = self._path(outcome.best, outcome.stamp_ns)
        return response

    def _refusal(self, response: GetPlan.Response, reason: str) -> GetPlan.Response:
        self.get_logger().warning(f"~/plan refused: {messages.printable(reason)}")
        response.plan.header.frame_id = messages.printable(f"refused: {reason}")
        return response

    def _replan(self) -> None:
        p = self.parameters
        if p.replan_rate == 0 or self._goal is None or self._state_age() > p.max_state_age:
            return
        try:
            _, state = self._here()
        except PlanError as error:
            self.refuse(str(error))
            return
        warm = None
        # Where the last attempt was refused, the next one begins from noise: it is to come to something else.
        if p.warm_part > 0 and self._last is not None and self._leads_there(self._last[1]) and not self._refused:
            plan = self._last[0]
            # By where the robot is: it need not have kept to the plan's time.
            position = plan.part("position")
            done = int(np.linalg.norm(position - state[: position.shape[1]], axis=1).argmin())
            warm = self.planner.shifted(plan, done)
        self._submit(PlanRequest(None, self._goal, warm))

    def _leads_there(self, goal: Array) -> bool:
        """Whether a plan to this goal (S) is one to the goal that the node has now."""
        return self._goal is not None and np.array_equal(goal, self._goal, equal_nan=True)

    def _state_at(self, pose: PoseStamped, name: str) -> Array:
        """State (S) at rest in a pose. Raises PlanError for what no plan can begin or end at."""
        if pose.header.frame_id not in ("", self.domain.frame):
            raise PlanError(f"{name} in frame {pose.header.frame_id!r}: expected {self.domain.frame!r}")
        return self.domain.state_at(pose, name)

    def _here(self) -> tuple[int, Array]:
        """Stamp [ns] and state (S) of the robot. Raises PlanError where there is none that can be planned from."""
        if not self.active:
            raise PlanError("the planner is not active")
        state = self.domain.state()
        if state is None:
            raise PlanError(f"no {self.domain.state_topic} to plan from")
        if unknown := self.without_time():
            raise PlanError(unknown)
        age = self._state_age()
        if age > self.parameters.max_state_age:
            raise PlanError(
                f"{self.domain.state_topic} is {age:.2f} s old, at most {self.parameters.max_state_age:g} s expected"
            )
        if self._obstacle_fault:
            raise PlanError(self._obstacle_fault)
        if problem := self.domain.conflict() or self.domain.unready(state[1]):
            raise PlanError(problem)
        return state[0], state[1]

    def _state_age(self) -> float:
        """Seconds since the last one came."""
        state = self.domain.state()
        return np.inf if state is None else self.seconds() - state[2]

    def _submit(self, request: PlanRequest, waits: bool = False) -> bool:
        """Hands it to the worker; False where that is busy, unless the request may wait (and replace one that does)."""
        with self._worker.condition:
            if (self._busy or self._request is not None) and not waits:
                return False
            replaced, self._request = self._request, request
            self._worker.condition.notify()
        if replaced is not None and replaced.answer is not None:
            replaced.answer.set_result(Outcome(replaced))
        return True

    def _deliver(self) -> None:
        """What the worker has made, in the node's thread."""
        while self._outcomes:
            outcome = self._outcomes.popleft()
            request, best, plans = outcome.request, outcome.best, outcome.plans
            if request.answer is None and not self._leads_there(request.goal):
                continue  # nobody wants to go there any more
            if outcome.refused:
                self._refused = outcome.refused
            elif self._refused is outcome.refused_before:  # and not for another reason meanwhile
                self._refused = ""
            if request.answer is not None:
                request.answer.set_result(outcome)
            elif self._obstacle_fault:
                continue  # it was made from obstacles that may be elsewhere now
            elif best is not None and plans is not None:
                self._last = best, request.goal
                self._publish(best, plans, outcome.stamp_ns)
            self._refresh()

    # The worker thread

    def _take(self) -> tuple[PlanRequest, str] | None:
        """The request, and what was refused before it."""
        if self._request is None:
            return None
        request, self._request = self._request, None
        self._busy = True
        return request, self._refused

    def _work(self, taken: tuple[PlanRequest, str]) -> None:
        request, before = taken
        try:
            outcome = self._plan(request, before)
        except PlanError as error:
            outcome = Outcome(request, refused=str(error))
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            outcome = Outcome(request, refused=failure("planning", error))
        self._outcomes.append(outcome)
        with self._worker.condition:
            self._busy = False
        self._came.trigger()

    def _plan(self, request: PlanRequest, refused_before: str) -> Outcome:
        p = self.parameters
        stamp_ns, start = self._here() if request.start is None else request.start
        margin = self.domain.radius + p.obstacle_margin
        guides = obstacle_guides(self.obstacles, self.planner.position_dim, margin, p.obstacle_weight)
        watched = self._denoising_publisher.get_subscription_count() > 0
        plans = self.planner.plan(
            start,
            request.goal,
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
        return Outcome(request, stamp_ns, plans, self._clear(plans.candidates), refused_before=refused_before)

    def _clear(self, candidates: list[Plan]) -> Plan:
        """The first of them that can be gone and keeps clear of obstacles. Raises PlanError where none does."""
        reasons = []
        obstacles = self.obstacles
        for plan in candidates:
            dense, _ = plan.dense(self.planner.spec.rate)
            reason = self.domain.unfit(dense)
            if not reason and leads_into(clearance(dense, obstacles, self.domain.radius + self.domain.stray)):
                reason = "through an obstacle"
            if not reason:
                return plan
            reasons.append(reason)
        raise PlanError(f"none of {len(candidates)} plans can be driven: {', '.join(sorted(set(reasons)))}")

    def _publish(self, best: Plan, plans: Plans, stamp_ns: int) -> None:
        self._plan_publisher.publish(self._path(best, stamp_ns))
        self.domain.follow(best, stamp_ns)
        self.diagnostics.tick(topics.PLAN)
        frame, width = self.domain.frame, self.domain.line_width
        lines = [self._points(plan.part("position")) for plan in plans.candidates]
        colours = [_BEST if plan is best else _OTHER for plan in plans.candidates]
        self._candidates_publisher.publish(messages.lines_to_msg(lines, colours, "candidates", frame, width))
        if plans.denoising:
            column = self.planner.columns["position"]
            steps = [self._points(estimate[0][:, column]) for estimate in plans.denoising]
            fade = [(*_DENOISING[:3], (i + 1) / len(steps)) for i in range(len(steps))]
            self._denoising_publisher.publish(messages.lines_to_msg(steps, fade, "denoising", frame, width))

    @staticmethod
    def _points(position: Array) -> Array:
        """(N, 3) of (N, 2) on the ground or (N, 3)."""
        return np.hstack([position, np.zeros((len(position), 3 - position.shape[1]))])

    def _path(self, plan: Plan, stamp_ns: int) -> Path:
        position = plan.part("position")
        stamps = [stamp_ns + i * self._period_ns for i in range(len(position))]
        return messages.path_to_msg(self._points(position), stamps, stamp_ns, self.domain.frame)

    # Diagnostics

    def _refresh(self) -> None:
        if not self.active:
            self.diagnostics.report(WARN, "not active")
        elif self._refused:
            kept = "; the last valid plan stays" if self._last is not None else ""
            self.diagnostics.report(ERROR, f"refused: {self._refused}{kept}")
        elif self.domain.missing():
            self.diagnostics.report(WARN, f"no {self.domain.missing()} yet")
        elif self._state_age() > self.parameters.max_state_age:
            self.diagnostics.report(WARN, f"no {self.domain.state_topic}, or an old one")
        elif self._goal is None:
            self.diagnostics.report(OK, "waiting for a goal")
        else:
            self.diagnostics.report(OK, "planned")

    def cleanup(self) -> None:
        self._worker.close()


def _completed(p: PlannerParameters) -> PlannerParameters:
    """What was given, and the checkpoint's where nothing was."""
    spec = checkpoint.read_spec(p.checkpoint, **p.trust)
    return replace(
        p,
        sampler=p.sampler or spec.sampler,
        sampler_steps=p.sampler_steps or spec.sampler_steps,
    )


def main() -> int:
    return run(PlannerNode)


if __name__ == "__main__":
    raise SystemExit(main())
