"""rl_policy: joint states in, a command for each out, from a discrete or continuous policy of reinforcement learning.

A state gets no command if it is stale, not finite, or published by two nodes. The robot then holds by itself. The node
keeps nothing from one state to the next, so it can be started again at any time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState

from diffusion_ros import checkpoint
from diffusion_ros.models.rl_policy import REACTIVE_KINDS, RlPolicy, RlPolicyError
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.ros.listener import MAX_BYTES, JointFilter, Listener
from diffusion_ros.ros.params import declare, parameter
from diffusion_ros.ros.runner import RunnableNode, run
from diffusion_ros.ros.trusted_checkpoint import TrustedCheckpoint, identity
from diffusion_ros.simulators.tasks import GYM_TASKS

_SILENT_SECONDS = 2.0
"""Longer than the silence between two episodes."""


@dataclass(frozen=True)
class RlPolicyParameters(TrustedCheckpoint):
    """Parameters of the rl_policy node."""

    checkpoint: str = parameter(description="path of a discrete or continuous policy's checkpoint (.pt)")
    task: str = parameter(
        "", "task that the checkpoint must have been trained on; '': any known one", choices=("", *GYM_TASKS)
    )
    mode: str = parameter(
        "realtime",
        "lockstep: the robot waits for each command; realtime: it does not, and old states get none",
        choices=("realtime", "lockstep"),
    )
    device: str = parameter("cpu", "torch device that the policy runs on")
    threads: int = parameter(1, "torch threads; more than one take time from the other nodes", low=1)
    max_state_age: float = parameter(0.1, "realtime: a state that is older gets no command [s]", low=0.001)


class RlPolicyNode(RunnableNode):
    """Subscribes to joint_states; publishes joint_command and diagnostics."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters, checkpoint) in one line."""
        super().__init__("rl_policy", parameter_overrides)
        self.parameters = p = declare(self, RlPolicyParameters)
        self.follows_clock &= p.mode == "realtime"
        torch.set_num_threads(p.threads)
        loaded = checkpoint.load(p.checkpoint, p.device, kind=REACTIVE_KINDS, task=p.task or None, **p.trust)
        self.get_logger().info(identity(p.checkpoint, loaded.sha256, loaded.signer))
        try:
            self.policy = RlPolicy(loaded)
        except RlPolicyError as error:
            raise ValueError(f"{p.checkpoint}: {error}") from None
        self._task = self.policy.task
        self._fault, self._level = "", OK
        """Why the last state got no command, and how bad that is."""
        self._publisher = self.create_publisher(JointState, topics.JOINT_COMMAND, topics.COMMAND_QOS)
        self._joints = JointFilter(self._task.joints)
        self._states = Listener(
            self,
            JointState,
            topics.JOINT_STATES,
            self._on_joint_states,
            lambda error, msg: self._hold(f"{topics.shown(self, topics.JOINT_STATES)}: {error}", ERROR),
            topics.sensor_qos(p.mode == "lockstep"),
            max_bytes=MAX_BYTES,
            concerns=self._joints,
        )
        # Our own among them: a second policy is a second publisher, to us as to the robot.
        self._commands = Listener.of_publishers(self, JointState, topics.JOINT_COMMAND, topics.WATCHED_QOS)
        self.diagnostics = Diagnostics(self, "rl_policy", self._refresh)
        for name, value in {
            "checkpoint": p.checkpoint,
            "sha256": loaded.sha256,
            "task": self._task.name,
            "kind": loaded.spec.kind,
            "mode": p.mode,
            "device": p.device,
            "threads": torch.get_num_threads(),
        }.items():
            self.diagnostics.value(name, value)

    def _on_joint_states(self, msg: JointState) -> None:
        began = time.monotonic()
        self.diagnostics.tick(topics.JOINT_STATES)
        stamp_ns, *state = messages.joint_motion_from_msg(msg, self._task.joints, self._task.has_efforts)
        conflict, stale = self._states.conflict() or self._commands.conflict(), self._stale(stamp_ns)
        if conflict or stale:
            self._hold(conflict or f"{topics.shown(self, topics.JOINT_STATES)}: {stale}", ERROR if conflict else WARN)
            return
        try:
            effort = self.policy.effort(*state)
        except RlPolicyError as error:
            self._hold(str(error), ERROR)
            return
        self._fault = ""
        self._publisher.publish(messages.joint_command_to_msg(self._task.joints[0], effort, stamp_ns))
        self.diagnostics.tick(topics.JOINT_COMMAND)
        self.diagnostics.latency("state to command", time.monotonic() - began)

    def _stale(self, stamp_ns: int) -> str:
        """'' or what is wrong with the time of a state. In lockstep stamps are no times of this machine."""
        age = (self.now_ns() - stamp_ns) / 1e9
        if self.parameters.mode == "lockstep" or abs(age) <= self.parameters.max_state_age:
            return ""
        when = f"{age:.3f} s old" if age > 0 else f"{-age:.3f} s in the future"
        return f"{when}, at most {self.parameters.max_state_age:g} s expected"

    def _hold(self, reason: str, level: int) -> None:
        self._fault, self._level = reason, level
        self._refresh()

    def _refresh(self) -> None:
        age, name = self.diagnostics.age(topics.JOINT_STATES), topics.shown(self, topics.JOINT_STATES)
        if self._fault:
            self.diagnostics.report(self._level, f"holding: {self._fault}")
        elif age is None:
            self.diagnostics.report(WARN, f"holding: {name}: {self._joints.nothing()}")
        elif self.parameters.mode == "realtime" and age > _SILENT_SECONDS:
            self.diagnostics.report(WARN, f"holding: {name}: silent for {age:.2f} s")
        else:
            self.diagnostics.report(OK, "publishing commands")


def main() -> int:
    return run(RlPolicyNode)


if __name__ == "__main__":
    raise SystemExit(main())
