"""The trainer learns what can be learnt, resumes to the same weights, and runs in several processes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import fake_policy
import h5py
import numpy as np
import pytest
import torch
from processes_training import trained_by_two_and_one
from some_slow import but

from diffusion_ros import checkpoint
from diffusion_ros.models.policy import Policy
from diffusion_ros.simulators.tasks import ARM_RESPONSE
from training.data.demonstrations import load_demonstrations
from training.diffusion.policy import PolicyLoss
from training.networks.transformer import DiffusionTransformer
from training.options.policy import Options
from training.policy_setup import make_spec
from training.run import ExponentialMovingAverage, load_state, save_state, step_generator, warm_cosine
from training.trainers import policy as policy_trainer
from training.trainers.policy import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate", "scripted_at_the_end")


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations with a rule: towards the object, closing when it is near."""
    path = tmp_path_factory.mktemp("data") / "demos.hdf5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for i in range(12):
            position = rng.uniform(-0.1, 0.1, 3)
            target = rng.uniform(-0.1, 0.1, 3)
            rows: dict[str, list[np.ndarray]] = {"pos": [], "action": [], "image": []}
            for _ in range(30):
                step = np.clip((target - position) * 0.3, -0.05, 0.05)
                near = np.linalg.norm(target - position) < 0.02
                image = np.zeros((84, 84, 3), np.uint8)
                u, v = (42 + 300 * target[:2]).astype(int)
                image[v - 4 : v + 4, u - 4 : u + 4] = (255, 40, 40)
                image += rng.integers(0, 20, image.shape, np.uint8)
                rows["pos"].append(position.copy())
                rows["image"].append(image)
                rows["action"].append(np.concatenate([step / 0.05, np.zeros(3), [1.0 if near else -1.0]]))
                position = position + step
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = np.stack(rows["action"])
            demo["obs/robot0_eef_pos"] = np.stack(rows["pos"])
            demo["obs/robot0_eef_quat"] = np.tile([1.0, 0, 0, 0], (30, 1))
            demo["obs/robot0_gripper_qpos"] = np.tile([0.04, -0.04], (30, 1))
            demo["obs/object"] = np.tile(np.concatenate([target, [0, 0, 0, 1], np.zeros(3)]), (30, 1))
            for camera in ("agentview", "robot0_eye_in_hand"):
                demo[f"obs/{camera}_image"] = np.stack(rows["image"])
    return path


def options(data: Path, out: Path, **changes: object) -> Options:
    small: dict[str, object] = {
        "observations": "state",
        "denoiser": "unet",
        "unet_widths": (32, 64),
        "iterations": 40,
        "learning_rate": 2e-3,
        "rollouts": 0,
        "save_every": 20,
        "vision": "small",
    }
    return Options(data=(data,), out=out, **{**small, **changes})


@pytest.mark.slow
def test_policy_learns_to_go_to_the_object(demonstrations: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.pt"
    changes: dict[str, object] = {"iterations": 300, "batch_size": 128, "unet_widths": (48,), "learning_rate": 3e-3}
    Trainer(options(demonstrations, out, **changes, prediction_type="sample")).run()
    policy = Policy(checkpoint.load(out, kind="policy", task="lift"))
    data = load_demonstrations(demonstrations, ())
    errors, scale = [], []
    for step in range(int(data.starts[0]) + 1, int(data.starts[1]) - 12, 4):
        frames = [{n: data.observations[n][s] for n in policy.spec.input_names} for s in (step - 1, step)]
        rows = policy.sample([policy.encode(frame) for frame in frames], seed=step)
        truth = data.actions[step : step + 9]
        errors.append(np.abs(rows[:, :3] - truth[:, :3]).mean())
        scale.append(np.abs(truth[:, :3]).mean())
    assert np.mean(errors) < 0.35 * np.mean(scale)


@pytest.mark.slow
def test_a_student_learns_the_samples_of_its_teacher_in_one_step(demonstrations: Path, tmp_path: Path) -> None:
    teacher, student = tmp_path / "teacher.pt", tmp_path / "student.pt"
    changes: dict[str, object] = {"prediction_type": "sample", "unet_widths": (48,), "batch_size": 64}
    Trainer(options(demonstrations, teacher, **changes, iterations=60, num_inference_steps=8)).run()
    distilled = {**changes, "distil": teacher, "num_inference_steps": 1}
    Trainer(options(demonstrations, student, **distilled, iterations=100)).run()
    one, other = (Policy(checkpoint.load(path)) for path in (teacher, student))
    assert other.spec.sampler_steps == 1 and other.spec.data_hash != one.spec.data_hash
    data = load_demonstrations(demonstrations, ())
    frames = [{n: data.observations[n][s] for n in one.spec.input_names} for s in (4, 5)]
    off: dict[str, list[float]] = {"teacher": [], "student": []}
    for seed in range(20):
        wanted = one.sample([one.encode(frame) for frame in frames], seed)
        for name, policy in (("teacher", one), ("student", other)):
            made = policy.sample([policy.encode(frame) for frame in frames], seed, 1)
            off[name].append(float(np.linalg.norm(made - wanted)))
    assert np.mean(off["student"]) < 0.8 * np.mean(off["teacher"])
    with pytest.raises(ValueError, match=r"distil: the network of .*teacher\.pt is another"):
        Trainer(options(demonstrations, student, **{**distilled, "unet_widths": (32,)}))


def with_executed(demonstrations: Path, folder: Path) -> Path:
    """The same in another file, which says that other actions were executed."""
    known = folder / "known.hdf5"
    known.write_bytes(demonstrations.read_bytes())
    with h5py.File(known, "r+") as file:
        for demo in file["data"].values():
            demo["executed_actions"] = np.clip(demo["actions"][:] + 0.1, -1, 1)
    return known


def test_a_policy_that_goes_on_needs_to_know_what_was_executed(demonstrations: Path, tmp_path: Path) -> None:
    changes: dict[str, object] = {"max_delay": 3, "horizon": 12, "certain_rows": True, "iterations": 2}
    with pytest.raises(ValueError, match=r"max_delay 3: .* has no executed_actions"):
        Trainer(options(demonstrations, tmp_path / "x.pt", **changes))
    known = with_executed(demonstrations, tmp_path)
    Trainer(options(known, tmp_path / "x.pt", **changes)).run()
    policy = Policy(checkpoint.load(tmp_path / "x.pt"))
    assert policy.spec.max_delay == 3 and policy.goes_on


@pytest.mark.slow
def test_a_policy_that_goes_on_can_be_a_teacher(demonstrations: Path, tmp_path: Path) -> None:
    known = with_executed(demonstrations, tmp_path)
    changes: dict[str, object] = {"max_delay": 3, "horizon": 12, "iterations": 2, "prediction_type": "sample"}
    Trainer(options(known, tmp_path / "x.pt", **changes)).run()
    changes |= {"distil": tmp_path / "x.pt", "num_inference_steps": 1}
    Trainer(options(known, tmp_path / "y.pt", **changes)).run()
    student = Policy(checkpoint.load(tmp_path / "y.pt"))
    assert (student.spec.max_delay, student.spec.sampler_steps) == (3, 1) and student.goes_on
    changes |= {"start_from": tmp_path / "y.pt", "learning_rate": 0.0, "ema_decay": 0.0}
    Trainer(options(known, tmp_path / "z.pt", **changes)).run()
    again, taught, teacher = (checkpoint.weights(tmp_path / f"{name}.pt") for name in "zyx")
    assert all(torch.equal(value, taught[name]) for name, value in again.items())
    assert not all(torch.equal(value, teacher[name]) for name, value in again.items())


VARIANTS = {
    "transformer": {"denoiser": "transformer", "layers": 1, "width": 32, "heads": 2},
    "inpainting": {"conditioning": "inpainting"},
    "action steps only": {"action_steps_only": True, "denoiser": "transformer", "layers": 1, "width": 32},
    "encoder layers": {"denoiser": "transformer", "layers": 1, "width": 32, "condition_layers": 1},
    "sample prediction": {"prediction_type": "sample"},
    "end to end from pixels": {"observations": "pixels", "batch_size": 4, "noise_draws": 2},
    "both": {"observations": "both", "batch_size": 4},
    "resnet18": {"observations": "pixels", "vision": "resnet18", "batch_size": 2, "iterations": 2},
    "two phases": {
        "observations": "pixels",
        "pose_head": True,
        "encoder_iterations": 4,
        "cached_crops": 1,
        "batch_size": 8,
        "mixed_precision": "bf16",
    },
    "pose points": {
        "observations": "pixels",
        "pose_head": True,
        "pose_points": True,
        "encoder_iterations": 4,
        "cached_crops": 1,
        "batch_size": 8,
    },
}


SLOW = ("resnet18", "two phases", "both", "pose points")
"""Pixels are in other variants, two phases in the runs that are resumed; a ResNet-18 takes seconds to build."""


class Knows(torch.nn.Module):
    """A denoiser that gives this answer, if it is told what was observed where it should be."""

    def __init__(self, answer: torch.Tensor, features: torch.Tensor) -> None:
        super().__init__()
        self.answer, self.features = answer, features

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        draws = len(x) // len(self.features)
        if x.shape[2] > 7:  # observations are part of what is denoised
            assert cond.shape[1] == 0
            assert torch.equal(x[:, :2, 7:], self.features[:, :2].repeat(draws, 1, 1))
        else:
            assert torch.equal(cond, self.features.repeat(draws, 1, 1))
        return self.answer


@pytest.mark.parametrize("variant", but(SLOW, VARIANTS))
def test_every_option_trains_exports_and_loads(variant: str, demonstrations: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.pt"
    changes: dict[str, object] = {"iterations": 4, "half_weights": variant == "transformer", **VARIANTS[variant]}
    trainer = Trainer(options(demonstrations, out, **changes))
    # Each option reaches what is trained, as it was asked for and not as it happens to be by default.
    policy = trainer.policy
    assert policy.schedule.prediction_type == changes.get("prediction_type", "epsilon")
    assert policy.inpainting == (changes.get("conditioning") == "inpainting")
    assert isinstance(policy.denoiser, DiffusionTransformer) == (changes.get("denoiser") == "transformer")
    assert policy.rows == (8 if "action_steps_only" in changes else 10) and policy.encoder.use_object == (
        changes.get("observations", "state") != "pixels"
    )
    # The loss: 0 for a network that answers what it is to predict, and knows what is observed.
    batch = trainer.draw(trainer.train, torch.Generator().manual_seed(0), 4, crops=False)
    acted = torch.from_numpy(trainer.train.acted)[batch["chosen"]]
    observed = acted if policy.inpainting else torch.from_numpy(trainer.train.observed)[batch["chosen"]]
    features = trainer.window_features(observed, None).detach()
    rows, valid = trainer.resident.actions[acted], torch.from_numpy(trainer.train.valid)[batch["chosen"]]
    actions = policy.action_limits.normalize(rows)
    clean = torch.cat([actions, features], dim=2) if policy.inpainting else actions
    answer = clean.repeat(len(batch["noise"]), 1, 1) if "prediction_type" in changes else batch["noise"].flatten(0, 1)
    denoiser, policy.denoiser = policy.denoiser, Knows(answer, features)
    arguments = (features, rows, valid, batch["noise"], batch["t"])
    assert PolicyLoss(policy)(*arguments) == 0
    policy.denoiser.answer = answer + 1.0
    assert PolicyLoss(policy)(*arguments).item() == pytest.approx(1.0, abs=1e-5)
    policy.denoiser = denoiser
    trainer.run()
    loaded = checkpoint.load(out, kind="policy")
    assert loaded.spec.n_action_steps == 8
    assert loaded.spec.cameras == (("agentview", "robot0_eye_in_hand") if "observations" in changes else ())
    assert loaded.spec.training["seed"] == 0 and len(loaded.spec.data_hash) == 64
    # What the nodes are tested with declares what a trained policy does.
    fake = fake_policy.spec(
        tuple(
            tensor
            for tensor in (*fake_policy.images(), *fake_policy.LOW_DIM, *fake_policy.OBJECT)
            if tensor.name in loaded.spec.input_names
        )
    )
    assert loaded.spec.outputs == fake.outputs
    assert tuple(dataclasses.replace(tensor, low=(), high=()) for tensor in loaded.spec.inputs) == fake.inputs


TWO_PHASES = {"observations": "pixels", "pose_head": True, "encoder_iterations": 4, "cached_crops": 1, "batch_size": 4}


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        # With dropout, which draws numbers too.
        pytest.param({"denoiser": "transformer", "layers": 1, "width": 32}, [(0, 2)], id="transformer"),
        pytest.param(TWO_PHASES, [(2, 0)], id="two phases", marks=pytest.mark.slow),
        pytest.param(TWO_PHASES, [(2, 0), (4, 0), (4, 2)], id="stopped thrice", marks=pytest.mark.slow),
        # The encoders of the one, in the single phase of the other.
        pytest.param({"observations": "both", "batch_size": 2}, [(0, 2)], id="end to end", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_has_the_same_weights_wherever_its_data_lie(
    demonstrations: Path, tmp_path: Path, changes: dict[str, object], stops: list[tuple[int, int]]
) -> None:
    """stops: iterations of the encoder and of the denoiser after which it is stopped, and gone on with."""
    changes = {**changes, "iterations": 4, "save_every": 2, "rollouts": 0}
    here, there, whole, out = (tmp_path / name for name in ("here.hdf5", "there.hdf5", "whole.pt", "policy.pt"))
    here.write_bytes(demonstrations.read_bytes())
    Trainer(options(here, whole, **changes)).run()
    for stop in stops:
        trainer = Trainer(options(here, out, **changes, resume=stop != stops[0]))
        save, saved = trainer.bookkeeping.save, []

        def save_and_stop(**state: object) -> None:
            save(**state)  # noqa: B023 (within this turn of the loop)
            saved.append((state["encoder_iteration"], state["iteration"]))  # noqa: B023
            raise KeyboardInterrupt

        trainer.bookkeeping.save = save_and_stop
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        assert saved == [stop] and not out.exists()
    here.rename(there)
    Trainer(options(there, out, **changes, resume=True)).run()
    first, second = (checkpoint.foreign(path).state_dict() for path in (whole, out))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_what_cannot_be_exported_fails_at_once(
    demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(module: torch.nn.Module) -> None:
        raise RuntimeError("not TorchScript")

    monkeypatch.setattr(policy_trainer.checkpoint, "script", script)
    with pytest.raises(RuntimeError, match="not TorchScript"):
        Trainer(options(demonstrations, tmp_path / "x.pt"))


def test_other_data_are_not_gone_on_with(demonstrations: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "moved.hdf5", tmp_path / "policy.pt"
    changes: dict[str, object] = {"iterations": 1, "observations": "both", "batch_size": 2}
    Trainer(options(demonstrations, out, **changes)).run()
    written, kept = out.read_bytes(), demonstrations.read_bytes()
    for name, value in (("actions", 0.123), ("obs/agentview_image", 77), ("obs/object", 0.4)):
        path.write_bytes(kept)
        with h5py.File(path, "r+") as file:
            file[f"data/demo_3/{name}"][5, 2] = value
        with pytest.raises(
            ValueError, match=r"begun with data of SHA-256 \w{16}, .*moved.hdf5 has \w{16} now"
        ) as error:
            Trainer(options(path, out, **changes, resume=True)).run()
        assert "\n" not in str(error.value) and out.read_bytes() == written


def test_a_policy_says_what_a_real_robot_must_know_of_its_data(demonstrations: Path, tmp_path: Path) -> None:
    for observations, pictures in (("state", {}), ("pixels", {"scale": "cover", "interpolation": "area"})):
        trainer = Trainer(options(demonstrations, tmp_path / "x.pt", observations=observations))
        spec = make_spec(trainer.options, trainer.data, trainer.actions)
        assert spec.pictures == pictures
        assert spec.base_pose == (-0.56, 0.0, 0.912, 0.0, 0.0, 0.0, 1.0) and spec.response == ARM_RESPONSE


def test_resume_refuses_other_options_and_nothing(demonstrations: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.pt"
    with pytest.raises(ValueError, match="nothing to resume from"):
        Trainer(options(demonstrations, out, resume=True)).run()
    Trainer(options(demonstrations, out, iterations=4, save_every=2)).run()
    with pytest.raises(ValueError, match="other options"):
        Trainer(options(demonstrations, out, iterations=6, resume=True)).run()
    # What the weights do not depend on may be changed.
    weights = checkpoint.foreign(out).state_dict()
    Trainer(options(demonstrations, out, iterations=4, n_action_steps=3, num_inference_steps=5, resume=True)).run()
    spec = checkpoint.read_spec(out)
    assert (spec.n_action_steps, spec.sampler_steps) == (3, 5)
    assert all(torch.equal(value, weights[name]) for name, value in checkpoint.foreign(out).state_dict().items())


@pytest.mark.slow
def test_a_run_of_the_version_before_is_gone_on_with(demonstrations: Path, tmp_path: Path) -> None:
    """Its options have other names, and it has no hash of its data: they must be where they were, and look alike."""
    here, there, out = tmp_path / "here.hdf5", tmp_path / "there.hdf5", tmp_path / "policy.pt"
    for path in (here, there):
        path.write_bytes(demonstrations.read_bytes())
    whole = Trainer(options(here, out, iterations=4, save_every=2))
    whole.run()
    state = load_state(whole.options.run_folder / "state.pt")
    del state["data_sha256"]
    saved = json.loads(state["options"])
    saved["prediction"], saved["ema_max_decay"] = saved.pop("prediction_type"), saved.pop("ema_decay")
    saved["data"] = saved["data"][0]  # there was one file
    saved |= {"embedding_dropout": 0.0, "pose_weight": 1.0, "encoder_weight_decay": 1e-6, "demonstrations": None}
    state["options"] = json.dumps(saved)
    save_state(whole.options.run_folder / "state.pt", state)
    small = {"iterations": 4, "resume": True}
    with pytest.raises(ValueError, match=r"begun with data .*here.hdf5 and without their hash, now .*there.hdf5"):
        Trainer(options(there, out, **small)).run()
    with pytest.raises(
        ValueError, match="begun with other options than these: prediction_type 'epsilon', now 'sample'"
    ):
        Trainer(options(here, out, **small, prediction_type="sample")).run()
    Trainer(options(here, out, **small)).run()
    save_state(whole.options.run_folder / "state.pt", state)
    with h5py.File(here, "r+") as file:
        file["data/demo_3/obs/robot0_eef_pos"][5, 2] = 0.9
    with pytest.raises(ValueError, match=r"begun with other data than .*here.hdf5 holds now: encoder.hand_limits"):
        Trainer(options(here, out, **small)).run()
    save_state(whole.options.run_folder / "state.pt", {**state, "options": json.dumps(saved | {"pose_weight": 2.0})})
    with pytest.raises(ValueError, match=r"begun with other options than these: pose_weight 2\.0, now None"):
        Trainer(options(here, out, **small)).run()


@pytest.mark.slow
def test_two_processes_train_one_policy(demonstrations: Path, tmp_path: Path) -> None:
    words = "observations='state', denoiser='unet', iterations=3, rollouts=0, batch_size=8"
    words += f", data=(Path({str(demonstrations)!r}),)"
    two, one = trained_by_two_and_one("policy", "policy", "_export", words, tmp_path)
    assert len(two) == 2 and two[0] == two[1] != one[0]
    checkpoint.load(tmp_path / "x.pt")


@pytest.mark.slow
def test_a_run_may_start_from_another_ones_encoders(demonstrations: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    changes: dict[str, object] = {**VARIANTS["pose points"], "encoder_iterations": 1, "iterations": 1, "rollouts": 0}
    one = Trainer(options(demonstrations, first, **changes, seed=1))
    checkpoint.save(one.policy, make_spec(one.options, one.data, one.actions), first)
    trainer = Trainer(options(demonstrations, second, **{**changes, "start_from": first, "crop": 84}))
    theirs = checkpoint.foreign(first).state_dict()
    taken: list[str] = []
    take = trainer._take_vision

    def take_and_compare(path: Path) -> None:
        take(path)
        mine = trainer.policy.encoder.state_dict()
        taken.extend(n for n, v in mine.items() if torch.equal(v, theirs[f"encoder.{n}"]))

    trainer._take_vision = take_and_compare
    trainer.run()
    assert {f"encoder.{name}" for name in taken} >= {
        name for name in theirs if name.startswith(("encoder.vision", "encoder.pose_head"))
    }
    checkpoint.load(second)
    other = Trainer(
        options(demonstrations, tmp_path / "third.pt", **{**changes, "pose_points": False, "start_from": first})
    )
    with pytest.raises(ValueError, match="its image encoders or pose head are others than these, as vision"):
        other.run()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_action_steps": 10}, "n_action_steps 10"),
        ({"pose_head": True}, "for images"),
        ({"pose_points": True}, "needs --pose-head"),
        ({"observations": "pixels", "encoder_iterations": 5}, "needs --pose-head"),
        ({"action_steps_only": True, "conditioning": "inpainting"}, "exclude each other"),
        ({"iterations": 0}, "iterations 0: must be at least 1"),
        ({"crop": 7}, "crop 7"),
        ({"picture_size": "84"}, "picture_size '84'"),
        ({"inputs": ()}, "inputs none"),
    ],
)
def test_bad_options(demonstrations: Path, tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        options(demonstrations, tmp_path / "x.pt", **changes)


def test_average_is_what_the_formula_says() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    average = ExponentialMovingAverage(layer, 0.9999)
    assert average.decay(0) == 0 and average.decay(1) == pytest.approx(1 - 2**-0.75)
    assert average.decay(10**9) == 0.9999
    expected = 0.0
    for step in range(5):
        layer.weight.data.fill_(float(step))
        average.update()
        decay = 0.0 if step == 0 else 1 - (1 + step) ** -0.75
        expected = decay * expected + (1 - decay) * step
    assert average.average[0].item() == pytest.approx(expected)
    with average.applied():
        assert layer.weight.item() == pytest.approx(expected)
    assert layer.weight.item() == 4.0


def test_learning_rate_and_step_randomness() -> None:
    assert warm_cosine(0, 100, 10) == 0.1 and warm_cosine(9, 100, 10) == 1.0
    assert warm_cosine(55, 100, 10) == pytest.approx(0.5) and warm_cosine(100, 100, 10) == pytest.approx(0)
    draws = {
        tuple(torch.randn(3, generator=step_generator(0, 3, i, rank)).tolist()) for i in range(5) for rank in range(2)
    }
    assert len(draws) == 10


def test_state_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"x": torch.ones(3)})
    with pytest.raises(Exception, match="pickle"):
        save_state(path, {"x": lambda: None})
    assert torch.equal(load_state(path)["x"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        load_state(path)
