"""What a recorded session is: its contract, its robot, the observations that are taken from it, and the node and the
spec by which they become frames as on the robot.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage

from diffusion_ros import robot_file, yaml_file
from diffusion_ros.control.pictures import PictureError, fit
from diffusion_ros.robot import EEF_POS, EEF_QUAT, FINGERS, GRIPPER_QPOS, OBJECT_POS, OBJECT_QUAT
from diffusion_ros.robot_check import POSES, compare_inputs
from diffusion_ros.robot_file import HAND, RobotFile
from diffusion_ros.ros import messages, topics
from diffusion_ros.spec import FITTED, IMAGE_SUFFIX, CheckpointSpec, TensorSpec
from training.data.bag_file import BagFile, Contract, read_contract
from training.data.episodes import Layout
from training.data.replay_node import ReplayNode

EXECUTED = "executed_action"
_COMMAND = "command"
"""What the contract calls eef_command."""
_NUMBERS = {EEF_POS: 3, EEF_QUAT: 4, GRIPPER_QPOS: len(FINGERS), OBJECT_POS: 3, OBJECT_QUAT: 4}
"""Of the simulator."""


class Session:
    """One recorded session, and what is asked of it. Raises ValueError, in one line."""

    def __init__(
        self,
        path: Path,
        observations: Sequence[str] | None = (),
        size: tuple[int, int] | None = None,
        rate: float | None = None,
        robot: Path | None = None,
    ) -> None:
        """observations: names of inputs (robot0_eef_pos, agentview_image, ...); () those of the session's checkpoint,
        or all where it had none; None: all that were recorded. size: height and width of pictures, fitted as live;
        None: as recorded, less the crop. rate: control steps a second, the session's or a whole fraction of it; None:
        the session's. robot: a YAML in the place of the one in the bag, for one whose latencies, say, were measured
        afterwards."""
        self.path = path
        self.file = BagFile(path)
        self.contract = read_contract(self.file)
        self.fold = _fold(path, self.contract, rate)
        """How many rows make a step."""
        self.rate = self.contract.rate / self.fold
        """Steps a second [Hz]."""
        self.robot = self._read_robot(robot)
        """None for the simulator."""
        self.size = size
        self._names = self._choose(observations)
        self.spec = self._specification()
        """What a checkpoint of these observations would say, as far as observing goes."""
        self._check()

    def node(self) -> Any:
        """A new one, with the session's names. Any: it is no RunnableNode, but has all that is asked of one."""
        recorded = self.contract.topics
        if self.robot is None:
            keys: list[tuple[str, str]] = [(name, topics.source(name)) for name in _NUMBERS]
            keys += [(name, topics.source(name)) for name in recorded if name.endswith(IMAGE_SUFFIX)]
            keys += [(_COMMAND, topics.EEF_COMMAND)]
        else:
            robot = self.robot
            keys = [(name, source.topic) for pose, source in robot.poses.items() for name in (*POSES[pose], pose)]
            keys += [(name, source.topic) for name, source in robot.numbers.items()]
            keys += [(f"{name}_static", f"{source.topic}_static") for name, source in robot.poses.items()]
            keys += [(f"{camera}{IMAGE_SUFFIX}", source.topic) for camera, source in robot.pictures.items()]
            keys += [] if robot.description is None else [("robot_description", robot.description.topic)]
        names = {topic: recorded[key] for key, topic in [*keys, (EXECUTED, EXECUTED)] if key in recorded}
        return ReplayNode(names, self.contract.namespace, self.file.topics)

    def topic(self, name: str) -> str:
        """An observation's, in full."""
        return self._offered()[name]

    def fitted(self, name: str, part: NDArray[Any]) -> NDArray[Any]:
        """An observation in the size that is asked for."""
        if self.size is None or not name.endswith(IMAGE_SUFFIX):
            return part
        try:
            return fit(part, *self.size)
        except PictureError as error:
            raise ValueError(f"{self.path}: observation {name}: {error}") from None

    def layout(self) -> Layout:
        """What holds for all episodes."""
        contract, spec = self.contract, self.spec
        most = np.maximum(np.abs(contract.action_low), np.abs(contract.action_high))
        if contract.action.kind == "delta":
            most[:6] *= self.fold
        pictures = {tensor.name: tensor.shape[:2] for tensor in spec.inputs if tensor.name.endswith(IMAGE_SUFFIX)}
        return Layout(
            environment=spec.environment,
            robot=contract.robot_name,
            rate=self.rate,
            actions=contract.action,
            scale=tuple(most.tolist()),
            numbers={tensor.name: tensor.shape[0] for tensor in spec.inputs if tensor.name not in pictures},
            pictures={name: self.size or (height, width) for name, (height, width) in pictures.items()},
            # A person's rows are like those of the session's checkpoint, and all is in its frame.
            base_pose=spec.base_pose if self.robot is not None else (),
            response=self._response(),
            executed=True,
        )

    def _read_robot(self, path: Path | None) -> RobotFile | None:
        if path is not None:
            return robot_file.read(path)
        if not self.contract.robot:
            return None
        # As long as this is: the description is read each time that the bag is.
        file = Path(tempfile.mkdtemp()) / "robot.yaml"
        weakref.finalize(self, shutil.rmtree, file.parent, ignore_errors=True)
        file.write_text(self.contract.robot)
        try:
            if self.contract.description:
                content = yaml_file.load(file)
                (file.parent / "robot.urdf").write_text(self.contract.description)
                file.write_text(yaml.safe_dump({**content, "description": {"file": "robot.urdf"}}))
            return replace(robot_file.read(file), path=self.path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(file), f"{self.path}: the robot's YAML")) from None

    def _choose(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """The observations, each with its topic in the bag."""
        offered = self._offered()
        # Of the simulator's some are published for some tasks only.
        there = [name for name, topic in offered.items() if self.robot is not None or topic in self.file.topics]
        if wanted is None:
            wanted = [name for name in there if offered[name] in self.file.topics]
        names = tuple(wanted or self._spec_names() or there)
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{self.path}: observations {', '.join(names) or 'none'}: each once expected")
        for name in names:
            if name not in offered:
                whose = "the robot's YAML" if self.robot is not None else "the session"
                raise ValueError(
                    f"{self.path}: observation {name}: {whose} has none of that name, it has {', '.join(there)}"
                )
            if offered[name] not in self.file.topics:
                raise ValueError(f"{self.path}: observation {name}: its topic {offered[name]} is not in the bag")
        if (robot := self.robot) is not None and robot.poses[HAND].source == "fk" and robot.description is not None:
            described = self.node().resolve_topic_name(robot.description.topic or "/")
            if robot.description.topic and described not in self.file.topics:
                raise ValueError(f"{self.path}: observation {HAND}: the description {described} is not in the bag")
        return names

    def _offered(self) -> dict[str, str]:
        """Observation -> full name of its topic, of all that there may be."""
        node = self.node()
        if self.robot is None:
            named = (*self.contract.topics, *self._spec_names())
            names = {name: topics.source(name) for name in _NUMBERS}
            names |= {name: topics.source(name) for name in named if name.endswith(IMAGE_SUFFIX)}
        else:
            names = {name: source.topic for pose, source in self.robot.poses.items() for name in POSES[pose]}
            names |= {name: source.topic for name, source in self.robot.numbers.items()}
            names |= {f"{camera}{IMAGE_SUFFIX}": source.topic for camera, source in self.robot.pictures.items()}
        return {name: node.resolve_topic_name(topic) for name, topic in names.items()}

    def _spec_names(self) -> tuple[str, ...]:
        return () if self.contract.spec is None else self.contract.spec.input_names

    def _specification(self) -> CheckpointSpec:
        contract = self.contract
        known = {} if contract.spec is None else {tensor.name: tensor for tensor in contract.spec.inputs}
        inputs = tuple(self._tensor(name, known.get(name)) for name in self._names)
        if contract.spec is not None:
            return replace(contract.spec, inputs=inputs, rate=self.rate, pictures=FITTED, typical={})
        return CheckpointSpec(
            kind="policy",
            task=contract.task,
            environment=contract.task,
            inputs=inputs,
            outputs=(TensorSpec("action", (contract.action.width,), "float32", "m, rad; gripper", contract.frame),),
            rate=self.rate,
            horizon=1,
            n_obs_steps=1,
            n_action_steps=1,
            action_low=contract.action_low,
            action_high=contract.action_high,
            pictures=FITTED,
        )

    def _check(self) -> None:
        if self.robot is not None and (wrong := compare_inputs(self.robot, self.spec)):
            raise ValueError(f"{self.robot.path}: {wrong[0]}")
        for tensor in self.spec.inputs:
            if tensor.name.endswith(IMAGE_SUFFIX):
                self.fitted(tensor.name, np.zeros(tensor.shape, np.uint8))

    def _tensor(self, name: str, known: TensorSpec | None) -> TensorSpec:
        if name.endswith(IMAGE_SUFFIX):
            recorded = self._recorded_size(name)
            # The simulator's are taken as they come, and fitted behind that.
            height, width = recorded if self.size is None or self.robot is None else self.size
            return TensorSpec(name, (height, width, 3), "uint8", "rgb", "")
        if known is not None:
            return known
        if name in _NUMBERS and (self.robot is None or name not in self.robot.numbers):
            return TensorSpec(name, (_NUMBERS[name],), "float32", "", self.contract.frame)
        assert self.robot is not None
        return TensorSpec(name, (len(self.robot.numbers[name].joints),), "float32", "", "")

    def _recorded_size(self, name: str) -> tuple[int, int]:
        """Height and width of the first picture that can be read, less the crop."""
        source = None if self.robot is None else self.robot.pictures[name.removesuffix(IMAGE_SUFFIX)]
        topic = self.topic(name)
        kind = messages.message_type(self.file.topics[topic])
        wrong = "no picture of it in the bag"
        for _, _, content in self.file.messages([topic]):
            try:
                msg = deserialize_message(content, kind)
                packed = isinstance(msg, CompressedImage)
                _, image = messages.compressed_image_from_msg(msg) if packed else messages.image_from_msg(msg)
                if source is not None and source.crop is not None:
                    image = fit(image, source.crop[3], source.crop[2], source.crop)
            except (ValueError, RuntimeError) as error:
                wrong = str(error)
                continue
            return int(image.shape[0]), int(image.shape[1])
        raise ValueError(f"{self.path}: observation {name}: {topic}: {wrong}")

    def _response(self) -> tuple[float, ...]:
        """Of the session's checkpoint. The simulator's own arm needs none said."""
        if self.robot is None or not self.spec.response:
            return ()
        if self.fold > 1:
            rule = f"the session's {self.contract.rate:g} Hz expected: rows of an arm that lags cannot be joined"
            raise ValueError(f"{self.path}: rate {self.rate:g} Hz, {rule}")
        return self.spec.response


def _fold(path: Path, contract: Contract, rate: float | None) -> int:
    """How many rows make a step."""
    if rate is None:
        return 1
    fold = round(contract.rate / rate) if 0 < rate < math.inf else 0
    if fold < 1 or abs(contract.rate / fold - rate) > 1e-6 * rate:
        raise ValueError(
            f"{path}: rate {rate:g} Hz, the session's {contract.rate:g} or a whole fraction of it expected"
        )
    if fold > 1 and contract.action.kind == "delta" and contract.action.axes == "tool":
        raise ValueError(f"{path}: rate {rate:g} Hz, of deltas in the tool's axes the session's expected")
    return fold
