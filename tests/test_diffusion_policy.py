"""The policy module: eager equals scripted, diffusers agrees, the options do what they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from scipy.spatial.transform import Rotation
from some_slow import one_in
from torch import Tensor, nn

from diffusion_ros.checkpoint import script
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.normalizer import LimitsNormalizer
from training.diffusion.policy import (
    HAND_REACH,
    DiffusionPolicy,
    ObservationEncoder,
    PolicyLoss,
    make_denoiser,
    object_vector,
    rotation_6d,
)

ACTION_LIMITS = np.array([0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0])


def make_policy(
    cameras: tuple[str, ...] = (),
    kind: str = "unet",
    conditioning: str = "observation",
    prediction: str = "epsilon",
    action_steps_only: bool = False,
    pose_head: bool = False,
    use_object: bool = True,
    pose_points: bool = False,
    max_delay: int = 0,
) -> DiffusionPolicy:
    torch.manual_seed(0)
    hand = LimitsNormalizer(-np.ones(11), np.ones(11))
    pose = LimitsNormalizer(-np.ones(12), np.ones(12))
    encoder = ObservationEncoder(cameras, use_object, hand, pose, "small", pose_head, pose_points)
    inpainting = conditioning == "inpainting"
    rows = 8 if action_steps_only else 10
    width = 7 + (encoder.out_dim if inpainting else 0)
    small = {"n_layers": 2, "n_heads": 2, "width": 32} if kind == "transformer" else {"widths": (16, 32)}
    seen = width + (1 if max_delay else 0)
    denoiser = make_denoiser(kind, seen, rows, 0 if inpainting else 2, encoder.out_dim, out_dim=width, **small)
    limits = LimitsNormalizer(-ACTION_LIMITS, ACTION_LIMITS)
    schedule = NoiseSchedule(100, "squaredcos_cap_v2", prediction)
    return DiffusionPolicy(
        encoder, denoiser, schedule, limits, 2, rows, conditioning, action_steps_only, max_delay=max_delay
    ).eval()


def observations(n: int = 2, cameras: tuple[str, ...] = ()) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    obs = {
        "robot0_eef_pos": torch.randn((n, 2, 3), generator=generator),
        "robot0_eef_quat": torch.randn((n, 2, 4), generator=generator),
        "robot0_gripper_qpos": torch.randn((n, 2, 2), generator=generator),
        "object_pos": torch.randn((n, 2, 3), generator=generator),
        "object_quat": torch.randn((n, 2, 4), generator=generator),
    }
    for camera in cameras:
        obs[f"{camera}_image"] = torch.randint(0, 256, (n, 2, 84, 84, 3), generator=generator, dtype=torch.uint8)
    return obs


def test_rotation_is_scipys_and_blind_to_the_sign() -> None:
    quaternion = Rotation.random(5, random_state=0).as_quat()
    expected = Rotation.from_quat(quaternion).as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(5, 6)
    np.testing.assert_allclose(rotation_6d(torch.tensor(quaternion)).numpy(), expected, atol=1e-12)
    torch.testing.assert_close(rotation_6d(torch.tensor(-quaternion)), rotation_6d(torch.tensor(quaternion)))


@pytest.mark.parametrize("sampler", one_in(2, ["ddim", "ddpm"]))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": "transformer"},
        {"conditioning": "inpainting"},
        {"conditioning": "inpainting", "kind": "transformer"},
        {"action_steps_only": True, "kind": "transformer"},
        {"prediction": "sample"},
        {"cameras": ("agentview", "robot0_eye_in_hand"), "pose_head": True, "use_object": False},
        {"cameras": ("agentview",), "pose_head": True},
        {"cameras": ("agentview",), "pose_head": True, "pose_points": True},
    ],
    ids=str,
)
def test_eager_equals_scripted_bit_for_bit(options: dict[str, object], sampler: str) -> None:
    policy = make_policy(**options)
    policy.sampler = sampler
    obs = observations(cameras=tuple(policy.encoder.cameras))
    scripted = script(policy)
    with torch.inference_mode():
        eager = policy(obs, 3, 10)
        assert eager.shape == (2, 8 if policy.first_row == 0 else 9, 7)
        assert torch.equal(eager, scripted(obs, 3, 10))
        assert not torch.equal(eager, policy(obs, 4, 10))


class Linear(nn.Module):
    """A denoiser that anybody can repeat: mixes rows, time and condition."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return 0.3 * x + 0.01 * t[:, None, None] / 100 + 0.05 * cond.mean()


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 10), ("ddim", 100), ("ddpm", 100)])
def test_sampling_is_diffusers(sampler: str, steps: int, prediction: str) -> None:
    policy = make_policy(prediction=prediction)
    policy.denoiser = Linear()
    policy.sampler = sampler
    features = torch.randn((2, 2, policy.encoder.out_dim), generator=torch.Generator().manual_seed(5))
    kind = DDIMScheduler if sampler == "ddim" else DDPMScheduler
    scheduler = kind(100, beta_schedule="squaredcos_cap_v2", prediction_type=prediction, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(11)
    x = torch.randn((2, 10, 7), generator=generator)
    for t in scheduler.timesteps:
        output = policy.denoiser(x, torch.full((2,), int(t)), features)
        if sampler == "ddim":
            x = scheduler.step(output, t, x).prev_sample
        else:
            noise = torch.randn((2, 10, 7), generator=generator)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, n=noise, **k: n)
                x = scheduler.step(output, t, x).prev_sample
    expected = policy.action_limits.unnormalize(x)[:, 1:]
    torch.testing.assert_close(policy.sample(features, 11, steps), expected, rtol=1e-5, atol=1e-6)


def test_inpainted_features_are_what_was_observed() -> None:
    policy = make_policy(conditioning="inpainting")
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            seen.append(x.clone())
            assert cond.shape[1] == 0
            return torch.zeros_like(x)

    policy.denoiser = Spy()
    features = torch.randn((1, 2, policy.encoder.out_dim))
    policy.sample(features, 0, 10)
    assert len(seen) == 10
    for x in seen:
        assert torch.equal(x[:, :2, 7:], features)
        assert not torch.equal(x[:, 2:4, 7:], features)


def batch(policy: DiffusionPolicy, n: int = 4) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    steps = policy.rows if policy.inpainting else 2
    features = torch.randn((n, steps, policy.encoder.out_dim), generator=generator)
    actions = 0.04 * torch.randn((n, policy.rows, 7), generator=generator)
    valid = torch.ones((n, policy.rows), dtype=torch.bool)
    noise = torch.randn((2, n, policy.rows, policy.width), generator=generator)
    t = torch.randint(0, 100, (2, n), generator=generator)
    return features, actions, valid, noise, t


class Oracle(nn.Module):
    """Predicts what it is told to, for the loss to be checked by hand."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.answer.reshape(*x.shape[:2], -1)


def test_loss_of_the_right_answer_is_zero_and_padding_does_not_count() -> None:
    policy = make_policy()
    features, actions, valid, noise, t = batch(policy)
    policy.denoiser = Oracle(noise)
    assert PolicyLoss(policy)(features, actions, valid, noise, t) == 0
    wrong = noise.clone()
    wrong[:, :, -1] += 1.0
    policy.denoiser = Oracle(wrong)
    assert PolicyLoss(policy)(features, actions, valid, noise, t).item() == pytest.approx(0.1)
    valid[:, -1] = False
    assert PolicyLoss(policy)(features, actions, valid, noise, t) == 0


def test_loss_leaves_the_inpainted_part_out() -> None:
    policy = make_policy(conditioning="inpainting")
    features, actions, valid, noise, t = batch(policy)
    wrong = noise.clone()
    wrong[:, :, :2, 7:] += 1.0
    policy.denoiser = Oracle(wrong)
    assert PolicyLoss(policy)(features, actions, valid, noise, t) == 0
    wrong[:, :, 2, 7:] += 1.0
    assert PolicyLoss(policy)(features, actions, valid, noise, t) > 0


@pytest.mark.parametrize(
    ("trained", "cameras", "pose_points"),
    one_in(3, itertools.product([True, False], [("agentview", "wrist"), ("agentview",)], [True, False])),
)
def test_encoders_side_by_side_see_the_same(trained: bool, cameras: tuple[str, ...], pose_points: bool) -> None:
    policy = make_policy(cameras, pose_head=True, use_object=False, pose_points=pose_points)
    policy.encoder.reduced = trained
    frames = {name: value[:, 0] for name, value in observations(2, cameras).items()}
    expected = policy.encode(frames)
    single, half = script(policy), script(policy)
    single.encoder.joined = single.layers_side_by_side(False)
    half.encoder.joined = half.layers_side_by_side(True)
    torch.testing.assert_close(single.encode(frames), expected, atol=1e-5, rtol=0)
    assert torch.equal(half.encode(frames), half.encode(frames))
    torch.testing.assert_close(half.encode(frames), expected, atol=0.02, rtol=0)
    assert torch.equal(half.encode(frames), single.encode(frames)) == (not trained)
    assert torch.equal(policy.encode(frames), expected)
    assert half.state_dict().keys() == policy.state_dict().keys()


def test_sample_prediction_wants_the_actions() -> None:
    policy = make_policy(prediction="sample")
    features, actions, valid, noise, t = batch(policy)
    policy.denoiser = Oracle(policy.action_limits.normalize(actions).repeat(2, 1, 1))
    assert PolicyLoss(policy)(features, actions, valid, noise, t) == 0


def test_estimated_pose_needs_no_pose() -> None:
    policy = make_policy(("agentview",), pose_head=True, use_object=False)
    obs = observations(cameras=("agentview",))
    with torch.inference_mode():
        with_pose = policy(obs, 0, 2)
        del obs["object_pos"], obs["object_quat"]
        assert torch.equal(policy(obs, 0, 2), with_pose)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_pose_in_the_hands_frame_and_in_the_worlds_are_weighed(weight: float) -> None:
    encoder = make_policy(("agentview",), pose_head=True, pose_points=True).encoder
    encoder.object_limits = LimitsNormalizer(-np.full(12, 0.5), np.full(12, 0.7))
    rng = np.random.default_rng(0)
    hand, truth, other = Rotation.random(3, rng=0), Rotation.random(3, rng=1), Rotation.random(3, rng=2)
    at, object_at, other_at = rng.normal(size=(3, 3, 3))

    def columns(rotation: Rotation) -> np.ndarray:
        return rotation.as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(-1, 6)

    world = encoder.object_limits.normalize(torch.tensor(np.hstack([other_at, columns(other), np.zeros((3, 3))])))
    in_hand = np.hstack([hand.inv().apply(object_at - at) / HAND_REACH, columns(hand.inv() * truth)])
    gates = np.full((3, 2), [np.log(weight / (1 - weight)) if 0 < weight < 1 else 100 * (2 * weight - 1)])
    estimates = torch.cat([world[:, :9], torch.tensor(np.hstack([in_hand, gates]))], dim=1)
    pose = encoder.weigh(estimates, torch.tensor(np.hstack([at, columns(hand), np.zeros((3, 2))])))
    position = weight * other_at + (1 - weight) * object_at
    expected = np.hstack([position, weight * columns(other) + (1 - weight) * columns(truth), position - at])
    np.testing.assert_allclose(encoder.object_limits.unnormalize(pose), expected, atol=1e-6)


def test_object_vector_is_relative_to_the_hand() -> None:
    obs = {name: value[:, 0] for name, value in observations().items()}
    moved = {**obs, "object_pos": obs["object_pos"] + 1, "robot0_eef_pos": obs["robot0_eef_pos"] + 1}
    torch.testing.assert_close(object_vector(moved)[:, 9:], object_vector(obs)[:, 9:])


class Watched(nn.Module):
    """Remembers what it is shown, and answers with the same numbers for ever."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.shown.append(x)
        return torch.full((*x.shape[:2], self.width), 0.25)


@pytest.mark.parametrize("conditioning", ["observation", "inpainting"])
def test_rows_that_are_executed_anyway_are_written_back_and_a_channel_says_which(conditioning: str) -> None:
    policy = make_policy(prediction="sample", conditioning=conditioning, max_delay=4)
    policy.denoiser = watched = Watched(policy.width)
    features = torch.randn((2, 2, policy.encoder.out_dim), generator=torch.Generator().manual_seed(5))
    executed = 0.01 * torch.randn((2, 10, 7), generator=torch.Generator().manual_seed(6))
    weights = torch.zeros((2, 10))
    weights[0, :3], weights[1, :8] = 1.0, 1.0  # of the second more than it was trained for: one past row and four
    weights[0, 3] = 0.9  # likely is not certain
    rows = policy.sample_after(features, executed, weights, 3, 2)
    normalized = policy.action_limits.normalize(executed)
    for x in watched.shown:
        for i, known in enumerate((3, 5)):
            assert torch.equal(x[i, :known, :7], normalized[i, :known])
            assert not torch.isclose(x[i, known:, :7], normalized[i, known:]).all(dim=1).any()
            assert torch.equal(x[i, :, -1], (torch.arange(10) < known).float())
            torch.testing.assert_close(rows[i, : known - 1], executed[i, 1:known])
            assert torch.equal(
                rows[i, known - 1 :], policy.action_limits.unnormalize(torch.full((10 - known, 7), 0.25))
            )
    nothing = torch.zeros_like(weights)
    assert torch.equal(policy.sample_after(features, executed, nothing, 3, 2), policy.sample(features, 3, 2))


def test_what_is_known_is_what_was_executed_and_no_part_of_the_loss() -> None:
    policy = make_policy(prediction="sample", max_delay=4)
    features, actions, valid, noise, t = batch(policy)
    executed, known = actions + 0.01, torch.tensor([0, 1, 3, 5])
    answer = policy.action_limits.normalize(actions).repeat(2, 1, 1)
    before = torch.arange(10) < known[:, None]
    wrong = answer + before.repeat(2, 1)[:, :, None]

    class Checked(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            given = before.repeat(2, 1)
            assert torch.equal(x[..., -1] > 0, given)
            assert torch.equal(x[..., :7][given], policy.action_limits.normalize(executed).repeat(2, 1, 1)[given])
            return wrong

    policy.denoiser = Checked()
    assert PolicyLoss(policy)(features, actions, valid, noise, t, executed, known) == 0
    wrong = wrong + (torch.arange(10) == 5)[:, None]
    assert PolicyLoss(policy)(features, actions, valid, noise, t, executed, known) > 0


@pytest.mark.parametrize(("max_delay", "prediction"), [(4, "sample"), (0, "epsilon"), (0, "sample")])
def test_going_on_is_the_same_in_torchscript(max_delay: int, prediction: str) -> None:
    policy = make_policy(prediction=prediction, max_delay=max_delay)
    features = torch.randn((1, 2, policy.encoder.out_dim), generator=torch.Generator().manual_seed(5))
    executed, weights = torch.full((1, 10, 7), 0.02), torch.linspace(1, 0, 10)[None]
    weights[:, :3] = 1.0
    eager = policy.sample_after(features, executed, weights, 3, 4)
    scripted = script(policy).sample_after(features, executed, weights, 3, 4)
    torch.testing.assert_close(scripted, eager, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(eager, policy.sample(features, 3, 4), atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_the_pull_is_the_gradient_of_the_weighted_distance(prediction: str) -> None:
    """A denoiser that is linear in x: its derivative is known."""
    policy = make_policy(prediction=prediction)
    matrix = 0.1 * torch.randn((7, 7), generator=torch.Generator().manual_seed(1))

    class Straight(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return x @ matrix.T

    policy.denoiser = Straight()
    x = 0.1 * torch.randn((1, 10, 7), generator=torch.Generator().manual_seed(2))
    executed, weights, t = torch.full((1, 10, 7), 0.3), torch.linspace(1, 0, 10)[None], torch.tensor([60])
    alpha_bar = policy.schedule.alphas_cumprod[60].double()
    jacobian = matrix.double()
    if prediction == "epsilon":
        jacobian = (torch.eye(7).double() - (1 - alpha_bar).sqrt() * jacobian) / alpha_bar.sqrt()
    x0 = (x.double() @ jacobian.T).clamp(-1, 1)
    away = weights[..., None].double() * (executed.double() - x0)
    strength = min(1 / alpha_bar.sqrt(), 5 * (1 - alpha_bar).sqrt())
    expected = x0 + strength * away @ jacobian
    output = policy.pulled(x, t, x[:, :0], executed, weights)
    torch.testing.assert_close(policy.schedule.predict_x0(output, x, t).double(), expected, rtol=1e-4, atol=1e-5)


def test_rows_after_a_deviation_that_is_not_known_do_not_count() -> None:
    policy = make_policy(prediction="sample", max_delay=4)
    features, actions, valid, noise, t = batch(policy)
    executed, known = actions.clone(), torch.tensor([0, 1, 3, 5])
    executed[:, 2] += 0.01  # the third row: known to the last two
    answer = policy.action_limits.normalize(actions)
    counted = torch.arange(10) >= known[:, None]
    counted &= (torch.arange(10) <= 2) | (known[:, None] > 2)
    for wrong, zero in ((counted, False), (~counted, True)):
        policy.denoiser = Oracle((answer + wrong[:, :, None]).repeat(2, 1, 1))
        loss = PolicyLoss(policy, certain_rows=True)(features, actions, valid, noise, t, executed, known)
        assert (loss == 0) == zero
