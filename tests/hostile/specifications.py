"""Specifications that ask for what no robot has, or that break what reads them: read as executors do, and loaded."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from tests.hostile.case import Hostile
from tests.hostile.checkpoints import honest, load, write

Fields = dict[str, Any]
SPEC = "extra/spec.json"


@functools.cache
def _text() -> str:
    return honest()[SPEC].decode()


def fields() -> Fields:
    made: Fields = json.loads(_text())
    return made


def used(text: str | bytes) -> Callable[[Path], None]:
    """By a node that only reads it, and by one that loads it: both refuse it."""

    def use(folder: Path) -> None:
        content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        path = write(folder / "policy.pt", honest() | {SPEC: content})
        try:
            checkpoint.read_spec(path)
        except CheckpointError as error:
            if not str(error).isprintable():
                raise
        else:
            if content not in LOADED:
                raise AssertionError("read as if it were one")
        load(path)

    return use


def with_(**changes: object) -> str:
    return json.dumps(fields() | changes)


def _tensor(**changes: object) -> str:
    made = fields()
    made["inputs"][0] |= changes
    return json.dumps(made)


LOADED: set[bytes] = set()
"""Specifications that can be read, but that no module fulfils."""
TEXTS: dict[str, str | bytes] = {
    "lists 100,000 deep": '{"kind": ' + 100_000 * "[" + 100_000 * "]" + "}",
    "objects 100,000 deep": 100_000 * '{"a":' + "1" + 100_000 * "}",
    "scores 500 deep": with_(scores={}).replace('"scores": {}', '"scores": {"a": ' + 500 * "[" + 500 * "]" + "}"),
    "2 MB": with_(task="x" * 2_000_000),
    "no text": b"\xff\xfe{}",
    "not JSON": "{'kind': 1}",
    "a list": "[]",
    "null": "null",
    "a number of 5,000 digits": _text().replace('"rate": 20.0', '"rate": 1' + 5000 * "0"),
    "a number of 400 digits": _text().replace('"rate": 20.0', '"rate": 1' + 400 * "0"),
    "a limit of 400 digits": _text().replace("0.05", "1" + 400 * "0", 1),
    "NaN": _text().replace('"rate": 20.0', '"rate": NaN'),
    "infinity": _text().replace('"rate": 20.0', '"rate": Infinity'),
    "NaN among the scores": with_(scores={}).replace('"scores": {}', '"scores": {"a": NaN}'),
    "a name twice": _text().replace('"kind"', '"kind": "planner", "kind"', 1),
    "half a character": _text().replace('"can"', '"\\ud800"'),
    "a rate of 1e-300": with_(rate=1e-300),
    "a rate of 1e300": with_(rate=1e300),
    "a rate of 0.001": with_(rate=0.001),
    "a rate that is true": with_(rate=True),
    "50 m a step": with_(action_low=[-50.0] * 3 + [-0.5] * 3 + [-1.0], action_high=[50.0] * 3 + [0.5] * 3 + [1.0]),
    "30 rad a step": with_(action_low=[-0.05] * 3 + [-30.0] * 3 + [-1.0], action_high=[0.05] * 3 + [30.0] * 3 + [1.0]),
    "a box of 1e9 m": with_(workspace_low=[-1e9] * 3, workspace_high=[1e9] * 3),
    "limits that are texts": with_(action_low=["x"] * 7),
    "limits that are infinite": with_(workspace_high=[1e400] * 3),
    "a horizon of 2**62": with_(horizon=2**62),
    "a horizon of 1e9": with_(horizon=10**9, n_action_steps=1),
    "observation steps of 1e9": with_(horizon=10**9, n_obs_steps=10**9, n_action_steps=1),
    "1e9 steps of the sampler": with_(sampler_steps=10**9, num_train_timesteps=10**9),
    "a picture of a million pixels square": _tensor(shape=[10**6, 10**6, 3]),
    "a picture of 2**62 pixels": _tensor(shape=[2**62, 1, 3]),
    "a shape of 100 axes": _tensor(shape=[1] * 100),
    "a shape of texts": _tensor(shape=["a", "b"]),
    "a shape that is a number": _tensor(shape=7),
    "a name that is a list": _tensor(name=["a"]),
    "a name with control characters": _tensor(name="a\n\x1b[31mb"),
    "a name of a million letters": _tensor(name="x" * 900_000),
    "a type that is a list": _tensor(dtype=["uint8"]),
    "a unit that is an object": _tensor(unit={}),
    "a frame that is null": _tensor(frame=None),
    "100,000 inputs": with_(inputs=[fields()["inputs"][2] | {"name": f"a{i}"} for i in range(5_000)]),
    "inputs that are numbers": with_(inputs=[1, 2]),
    "inputs that are an object": with_(inputs={}),
    "the same input twice": with_(inputs=[fields()["inputs"][0]] * 2),
    "no inputs": with_(inputs=[]),
    "a kind that is a list": with_(kind=["policy"]),
    "a kind with control characters": with_(kind="a\n\x1b[31mb"),
    "a kind of a million letters": with_(kind="x" * 900_000),
    "a task with control characters": with_(task="can\n\x1b[31mERROR"),
    "an unknown field of a million letters": with_(**{"x" * 900_000: 1}),
    "an unknown field with control characters": with_(**{"a\nb": 1}),
    "actions of lists in lists": with_(actions={"kind": ["delta"]}),
    "actions whose axes are an object": with_(actions={"kind": "delta", "axes": {}}),
    "a chain of texts": with_(actions={"kind": "joint_positions", "joints": ["a"], "chain": [["x"] * 10]}),
    "a chain of huge numbers": with_(
        actions={"kind": "joint_positions", "joints": ["a"], "chain": [[10**400] * 10], "tip": [10**400] * 7}
    ),
    "pictures of another kind": with_(pictures={"scale": ["cover"]}),
    "typical of texts": with_(typical={"robot0_eef_quat": {"mean": ["x"] * 4, "angle": "y"}}),
    "typical of huge numbers": with_(typical={"robot0_eef_quat": {"mean": [1e308] * 4, "angle": 1e308}}),
    "typical of nothing": with_(typical={"robot0_eef_quat": None}),
    "a base that turns by huge numbers": with_(base_pose=[0.0, 0.0, 0.0, 1e308, 1e308, 1e308, 1e308]),
    "a response of huge numbers": with_(response=[10**400, 1]),
    "a delay of 2**62": with_(max_delay=2**62),
}
FULFILLED_BY_NONE = {
    "a horizon that the module has not": with_(horizon=60),
}
LOADED.update(text.encode() for text in FULFILLED_BY_NONE.values())


def cases() -> list[Hostile]:
    return [
        Hostile("specification", name, used(text), (CheckpointError,))
        for name, text in (TEXTS | FULFILLED_BY_NONE).items()
    ]
