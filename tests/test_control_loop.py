"""When a chunk is made, and from what; the policy behind it; the specification it follows."""

from __future__ import annotations

import dataclasses

import fake_policy
import numpy as np
import pytest

from diffusion_ros import checkpoint
from diffusion_ros.control.observation import Frame
from diffusion_ros.control.policy_controller import PolicyController
from diffusion_ros.models.policy import FrameError, Policy, chunk_seed
from diffusion_ros.spec import CheckpointSpec, SpecError

PERIOD = 50_000_000


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    path = fake_policy.save(tmp_path_factory.mktemp("policy") / "fake.pt")
    return Policy(checkpoint.load(path, kind="policy"))


def frame(step: int, start: int = 10**9) -> Frame:
    rng = np.random.default_rng(step)
    values = {f"{camera}_image": rng.integers(0, 256, (84, 84, 3), np.uint8) for camera in fake_policy.CAMERAS}
    values["robot0_eef_pos"] = rng.normal(size=3)
    values["robot0_eef_quat"] = np.array([0.0, 0.0, 0.0, 1.0])
    values["robot0_gripper_qpos"] = np.array([0.04, -0.04])
    return Frame(start + step * PERIOD, values)


def run(controller: PolicyController, steps: range, lazy: bool = False) -> dict[int, np.ndarray]:
    """Chunks by step."""
    chunks = {}
    for step in steps:
        observed = frame(step)
        if not lazy or controller.needs_frame(observed.stamp_ns):
            controller.push(observed)
        if controller.needs_chunk(observed.stamp_ns):
            chunk = controller.chunk()
            assert chunk.stamp_ns == observed.stamp_ns and chunk.period_ns == PERIOD and chunk.rows.shape == (9, 7)
            chunks[step] = chunk.rows
    return chunks


def test_a_chunk_every_n_action_steps_or_lead_steps_earlier(policy):
    assert list(run(PolicyController(policy, 0), range(25))) == [0, 8, 16, 24]
    assert list(run(PolicyController(policy, 0, lead_steps=1), range(25))) == [0, 7, 14, 21]
    assert list(run(PolicyController(policy, 0, lead_steps=7), range(4))) == [0, 1, 2, 3]


def test_frames_that_no_chunk_needs_may_be_left_out(policy):
    assert [s for s in range(20) if _needed(policy, s)] == [0, 7, 8, 15, 16]
    eager, lazy = run(PolicyController(policy, 3), range(25)), run(PolicyController(policy, 3), range(25), lazy=True)
    assert list(eager) == list(lazy)
    for step in eager:
        assert np.array_equal(eager[step], lazy[step]), step


def _needed(policy: Policy, step: int) -> bool:
    controller = PolicyController(policy, 0)
    needed = False
    for s in range(step + 1):
        needed = controller.needs_frame(frame(s).stamp_ns)
        controller.push(frame(s))
        if controller.needs_chunk(frame(s).stamp_ns):
            controller.chunk()
    return needed


def test_another_episode_gets_its_chunk_at_once_whether_its_time_lies_ahead_or_behind(policy):
    controller = PolicyController(policy, 0)
    run(controller, range(4))
    for start in (2000 * 10**9, 5 * 10**9):
        first = frame(0, start)
        controller.push(first)
        assert controller.needs_chunk(first.stamp_ns)
        fresh = PolicyController(policy, 0)
        fresh.push(first)
        assert np.array_equal(controller.chunk().rows, fresh.chunk().rows), "nothing of the old episode is left"


def test_a_restarted_policy_goes_on_and_soon_makes_the_very_chunks_of_the_first(policy):
    first = run(PolicyController(policy, 0), range(33))
    restarted = PolicyController(policy, 0)
    again = run(restarted, range(16, 33))
    assert list(again) == [16, 24, 32]
    assert not np.array_equal(again[16], first[16]), "its window had one frame only"
    assert np.array_equal(again[24], first[24]) and np.array_equal(again[32], first[32])


def test_chunks_depend_on_the_seed_and_on_the_stamp_but_on_nothing_else(policy):
    one, two, other = (run(PolicyController(policy, seed), range(17)) for seed in (0, 0, 1))
    for step in one:
        assert np.array_equal(one[step], two[step]) and not np.array_equal(one[step], other[step])
    assert chunk_seed(0, 1) != chunk_seed(0, 2) != chunk_seed(1, 2)
    assert chunk_seed(7, 1_000_000_000) == 8618144315156149326, "for ever"
    assert 0 <= chunk_seed(0, 0) < 2**63


def test_no_frame_is_encoded_twice(policy, monkeypatch):
    encoded = []
    encode = policy.encode_checked
    monkeypatch.setattr(policy, "encode_checked", lambda values: encoded.append(1) or encode(values))
    controller = PolicyController(policy, 0, lead_steps=7)  # a chunk for each frame: each is in two windows
    run(controller, range(10))
    assert len(encoded) == 10


def test_a_frame_that_the_next_chunk_needs_is_encoded_before_that(policy, monkeypatch):
    lazy, controller = run(PolicyController(policy, 3), range(10)), PolicyController(policy, 3)
    encoded = []
    encode = policy.encode_checked
    monkeypatch.setattr(policy, "encode_checked", lambda values: encoded.append(step) or encode(values))
    for step in range(10):
        controller.push(frame(step))
        if controller.needs_chunk(frame(step).stamp_ns):
            before = len(encoded)
            assert np.array_equal(controller.chunk().rows, lazy[step])
            assert len(encoded) == before + 1, "the newest alone"
        controller.encode_ahead()
    assert encoded == [0, 7, 8]


@pytest.mark.parametrize("rate", [15.0, 25.0, 30.0, 60.0])
def test_of_frames_at_another_rate_those_are_encoded_before_a_chunk_that_it_may_be_made_from(policy, monkeypatch, rate):
    encoded = []
    encode = policy.encode_checked
    monkeypatch.setattr(policy, "encode_checked", lambda values: encoded.append(1) or encode(values))
    lazy, controller = PolicyController(policy, 3, spaced=True), PolicyController(policy, 3, spaced=True)
    frames = [Frame(10**9 + round(i * 1e9 / rate), frame(i).values) for i in range(round(2 * rate))]
    chunks, ahead = 0, 0
    for observed in frames:
        lazy.push(observed)
        controller.push(observed)
        if not controller.needs_chunk(observed.stamp_ns):
            before = len(encoded)
            controller.encode_ahead()
            ahead += len(encoded) - before
            continue
        before = len(encoded)
        rows = controller.chunk().rows
        assert len(encoded) == before + 1, "the newest alone"
        assert np.array_equal(rows, lazy.chunk().rows)
        chunks += 1
    assert chunks >= 4 and ahead <= chunks * np.ceil(rate / 10.0), "those of the last two control steps"


def test_the_same_frame_again_changes_nothing(policy):
    controller = PolicyController(policy, 0)
    run(controller, range(9))
    assert not controller.push(frame(8)) and not controller.needs_chunk(frame(8).stamp_ns)
    assert controller.newest_stamp_ns == frame(8).stamp_ns


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("agentview_image", np.zeros((96, 96, 3), np.uint8), r"agentview_image: shape \(96, 96, 3\).*\(84, 84, 3\)"),
        ("agentview_image", np.zeros((84, 84, 3)), "agentview_image: float64, uint8 expected"),
        ("robot0_eef_pos", np.array([0, np.nan, 0]), "robot0_eef_pos: .*finite"),
        ("robot0_eef_quat", None, "robot0_eef_quat: missing"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_and_not_taken(policy, name, value, message):
    controller = PolicyController(policy, 0)
    values = dict(frame(0).values)
    values[name] = value
    if value is None:
        del values[name]
    with pytest.raises(FrameError, match=message):
        controller.push(Frame(0, values))
    assert controller.newest_stamp_ns is None


def test_controllers_that_make_no_sense_are_refused(policy):
    with pytest.raises(ValueError, match="lead_steps 8"):
        PolicyController(policy, 0, lead_steps=8)
    with pytest.raises(ValueError, match="policy_seed -1"):
        PolicyController(policy, -1)


# The specification


def test_a_spec_survives_json_and_derives_the_rest():
    spec = fake_policy.spec(training={"lr": 1e-4}, scores={"success_rate": 0.98})
    assert CheckpointSpec.from_json(spec.to_json()) == spec
    assert spec.cameras == ("agentview", "robot0_eye_in_hand") and spec.n_rows == 9 and spec.period_ns == PERIOD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "opinion"}, "kind 'opinion'"),
        ({"rate": 0.0}, "rate 0.0"),
        ({"rate": float("nan")}, "rate nan"),
        ({"n_action_steps": 10}, "n_action_steps 10, at most 9"),
        ({"sampler": "euler"}, "sampler 'euler'"),
        ({"sampler_steps": 101}, "sampler_steps 101"),
        ({"inputs": ()}, "inputs is empty"),
        ({"action_low": (0.0,) * 6}, "action_low"),
        ({"workspace_low": (2.0, 0.0, 0.0)}, "workspace_low"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_in_one_line(change, message):
    with pytest.raises(SpecError, match=message) as error:
        fake_policy.spec(**change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "policy"}', "nonsense", b"\xff\xfe"])
def test_text_that_is_no_spec_is_refused_in_one_line(text):
    with pytest.raises(SpecError) as error:
        CheckpointSpec.from_json(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(CheckpointSpec)])
def test_a_field_of_the_wrong_type_is_refused_in_one_line(field):
    import json

    values = json.loads(fake_policy.spec().to_json())
    values[field] = 3.5 if field != "rate" else "fast"
    with pytest.raises(SpecError) as error:
        CheckpointSpec.from_json(json.dumps(values))
    assert "\n" not in str(error.value) and field.split("_")[0] in str(error.value)
