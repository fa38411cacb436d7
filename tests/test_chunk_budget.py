"""What the time of a chunk goes into: on a clock that stands still but for what the test lets happen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_policy
import numpy as np
import pytest
import ros_graph
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message

from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.robot import FINGERS, WORLD_FRAME, optical_frame
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.chunk_budget import PARTS, WHOLE, ChunkBudget, Reading
from diffusion_ros.systems.arm import SIMULATION
from diffusion_ros.systems.observer import PolicyObserver

MS = 1e-3


class Time:
    """A steady clock and the system's, which go on when they are told to."""

    def __init__(self) -> None:
        self.steady, self.system_ns = 100.0, 1_700_000_000_000_000_000

    def passes(self, seconds: float) -> None:
        self.steady += seconds
        self.system_ns += round(seconds * 1e9)

    def reading(self) -> Reading:
        return Reading(lambda: self.steady, lambda: self.system_ns)

    def while_(self, seconds: float, do: Callable[..., Any]) -> Callable[..., Any]:
        """The same, taking that long."""

        def slow(*args: Any, **options: Any) -> Any:
            self.passes(seconds)
            return do(*args, **options)

        return slow


def test_parts_follow_one_another_and_are_the_whole_together() -> None:
    time = Time()
    reading = time.reading()
    reading.begin(time.system_ns)  # another message, before
    time.passes(50 * MS)
    reading.end()
    arrived_ns = time.system_ns
    time.passes(2 * MS)  # the picture waits
    reading.begin(arrived_ns)
    begun = reading.begun
    time.passes(0.5 * MS)  # and is read
    reading.end()
    time.passes(4 * MS)  # until the rest of its frame comes
    reading.begin(time.system_ns)
    time.passes(0.25 * MS)
    budget = ChunkBudget(begun, reading)
    reading.end()
    time.passes(8 * MS)  # the worker is busy
    budget.taken(reading.seconds())
    for part, seconds in (("convert", 0.125), ("encode", 16.0), ("denoise", 32.0), ("publish", 1.0)):
        time.passes(seconds * MS)
        budget.lap(part)
    latencies = budget.latencies()
    whole = latencies.pop(WHOLE)
    assert tuple(latencies) == PARTS
    expected = {"receive": 14.0, "convert": 0.875, "encode": 16.0, "denoise": 32.0, "publish": 1.0}
    assert latencies == pytest.approx({name: ms * MS for name, ms in expected.items()})
    assert whole == pytest.approx((time.system_ns - arrived_ns) / 1e9)


@pytest.mark.parametrize("received", [lambda now: 0, lambda now: now + 5_000_000, lambda now: now - 3_600_000_000_000])
def test_without_a_credible_arrival_it_begins_with_reading(received: Callable[[int], int]) -> None:
    """A middleware that does not say, or a clock that was set."""
    time = Time()
    reading = time.reading()
    reading.begin(received(time.system_ns))
    assert reading.begun.arrived == time.steady


def sensors(node: PolicyNode, time: Time, waited: float) -> None:
    """One frame, each message of which has waited for so long, the pictures first."""
    stamp = time.system_ns
    assert node._source.simulator is not None
    listeners = node._source.simulator.listeners
    picture = np.arange(84 * 84 * 3, dtype=np.uint32).reshape(84, 84, 3).astype(np.uint8)
    received = {"publisher_gid": {"data": b"robot"}, "received_timestamp": stamp - round(waited * 1e9)}
    for camera in fake_policy.CAMERAS:
        image = messages.image_to_msg(picture, stamp, optical_frame(camera))
        listeners[topics.image(camera)].take(image, received)
    joints = messages.joint_state_to_msg(FINGERS, (0.02, -0.02), (0.0, 0.0), stamp)
    listeners[topics.JOINT_STATES].take(serialize_message(joints), received)
    pose = messages.pose_to_msg((0.1, 0.0, 0.9), (0.0, 0.0, 0.0, 1.0), stamp, WORLD_FRAME)
    listeners[topics.EEF_POSE].take(pose, received)


def test_the_policy_says_what_its_chunks_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    path = fake_policy.save(tmp_path / "pixels.pt")
    with ros_graph.graph() as graph:
        parameters = {"checkpoint": str(path), "mode": "realtime", "min_frame_rate": 0.0, "max_frozen": 0.0}
        node = graph.add(PolicyNode([Parameter(name, value=value) for name, value in parameters.items()]))
        node.reading = time.reading()
        node.now_ns = lambda: time.system_ns
        monkeypatch.setattr(messages, "image_from_msg", time.while_(0.5 * MS, messages.image_from_msg))
        monkeypatch.setattr(messages, "pose_from_msg", time.while_(0.25 * MS, messages.pose_from_msg))
        monkeypatch.setattr(node.policy, "encode_checked", time.while_(3 * MS, node.policy.encode_checked))
        monkeypatch.setattr(node.policy, "sample", time.while_(5 * MS, node.policy.sample))
        sent = []
        monkeypatch.setattr(node._chunk_publisher, "publish", time.while_(1 * MS, sent.append))
        sensors(node, time, 2 * MS)
        graph.spin_until(lambda: sent and not node.thinking)
        values = node.diagnostics.values()
    # By the last picture: the first one's conversion is part of what the last one waited for.
    expected = {"receive": 2.5, "convert": 0.75, "encode": 3.0, "denoise": 5.0, "publish": 1.0}
    found = {name: float(values[f"{name} median [ms]"]) for name in (*PARTS, WHOLE)}
    assert found == pytest.approx({**expected, WHOLE: sum(expected.values())}, abs=0.02)
    assert "inference median [ms]" not in values


def status(values: dict[str, str], name: str = "policy") -> DiagnosticArray:
    found = messages.Status(name, "can policy", 0, "publishing chunks", values)
    return messages.diagnostics_to_msg([found], 1_000_000_000)


def test_a_run_says_at_its_end_what_its_chunks_took() -> None:
    assert SIMULATION.observer is PolicyObserver
    observer = PolicyObserver("can", 1, Path("none.jsonl"))
    assert observer.remark() == ""
    said = {f"{name} median [ms]": f"{i + 0.25:.2f}" for i, name in enumerate((*PARTS, WHOLE))}
    observer._on_diagnostics(status({**said, "receive median [ms]": "9.00"}, "somebody_else/policy"))
    for wrong in ({"encode median [ms]": "nan"}, {"encode median [ms]": "soon"}, {"encode median [ms]": "1e300"}):
        observer._on_diagnostics(status({**said, **wrong}))
    observer._on_diagnostics(status({"receive median [ms]": "1.0"}))
    assert observer.remark() == "" and observer.chunk_ms == {}
    observer._on_diagnostics(status(said))
    assert observer.remark() == (
        "a chunk 5.2 ms after its picture: receive 0.2, convert 1.2, encode 2.2, denoise 3.2, publish 4.2 (medians)"
    )
    observer.results = {0: {"success": True, "missed": 0, "held": 0, "overruns": 0, "steps": 9, "timings_ms": {}}}
    assert observer.summary()["chunk_ms"] == {name: i + 0.25 for i, name in enumerate((*PARTS, WHOLE))}
