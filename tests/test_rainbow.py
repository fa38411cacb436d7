"""Rainbow's parts against slow, obvious ones; the trainer's switches, its resuming and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import workers_that_end

from diffusion_ros import checkpoint
from training import command_line, train_rainbow
from training.ablate_rainbow import quartiles_to_threshold, table, variants
from training.networks.mlp import NoisyLinear, QNetwork, factorised_noise
from training.networks.q_passes import QPasses
from training.options.rainbow import SWITCHES, Options
from training.options.shared import of_seed
from training.parallel import Workers
from training.rl.gymnasium_task import discrete_task, first_episodes
from training.rl.rainbow import DiscretePolicy, Learner, landing, project
from training.rl.replay import Minibatches
from training.rl.side_by_side import side_by_side
from training.trainers import rainbow as rainbow_trainer
from training.trainers.rainbow import Trainer, steps_to

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def slow_projection(probabilities: np.ndarray, support: np.ndarray, r: float, discount: float) -> np.ndarray:
    """Algorithm 1 of Bellemare et al. 2017, an atom at a time."""
    gap = support[1] - support[0]
    result = np.zeros(len(support))
    for p, z in zip(probabilities, support, strict=True):
        b = (min(max(r + discount * z, support[0]), support[-1]) - support[0]) / gap
        lower, upper = int(np.floor(b)), int(np.ceil(b))
        if lower == upper:
            result[lower] += p
        else:
            result[lower] += p * (upper - b)
            result[upper] += p * (b - lower)
    return result


def test_projection_is_the_slow_one() -> None:
    rng = np.random.default_rng(0)
    support = np.linspace(-2, 6, 9)
    returns = np.concatenate([[0, 0, 1, 100, -100, 6, -2], rng.normal(size=200)])
    discount = np.concatenate([[0, 1, 1, 1, 1, 0, 0], rng.random(200)])
    probabilities = rng.dirichlet(np.ones(9), size=len(returns))
    found = project(torch.tensor(probabilities), *landing(*map(torch.tensor, (support, returns, discount)))).numpy()
    expected = [slow_projection(*row) for row in zip(probabilities, [support] * 207, returns, discount, strict=True)]
    assert np.allclose(found, expected, atol=1e-12)
    assert np.allclose(found.sum(axis=1), 1)
    mean = returns + discount * (probabilities @ support)
    moved = returns[:, None] + discount[:, None] * support
    inside = (moved >= -2).all(axis=1) & (moved <= 6).all(axis=1)
    assert inside.any() and np.allclose((found @ support)[inside], mean[inside])  # nothing is lost of the mean


def test_noise_is_factorised_and_has_its_distribution() -> None:
    noise = factorised_noise((200_000,), torch.Generator().manual_seed(0))
    # f(x) = sign(x) sqrt(|x|) of a standard normal: E f = 0, E f^2 = E |x| = sqrt(2 / pi), E f^4 = E x^2 = 1.
    assert abs(noise.mean()) < 0.01
    assert abs(noise.square().mean() - (2 / np.pi) ** 0.5) < 0.01
    assert abs(noise.pow(4).mean() - 1) < 0.02


def test_noisy_layer_is_a_linear_layer_of_noisy_weights() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(3, 2)
    assert torch.allclose(layer.weight_sigma, torch.tensor(0.5 / 3**0.5))
    inputs, outputs = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.3, -1.5]])
    layer.input_noise, layer.output_noise = inputs, outputs
    x = torch.randn(5, 3)
    weight = layer.weight + layer.weight_sigma * (outputs.T @ inputs)
    bias = layer.bias + layer.bias_sigma * outputs[0]
    assert torch.allclose(layer(x), x @ weight.T + bias, atol=1e-6)
    layer.eval()
    assert torch.allclose(layer(x), x @ layer.weight.T + layer.bias, atol=1e-6)


def test_rows_may_have_noise_of_their_own() -> None:
    torch.manual_seed(1)
    network = QNetwork(4, 2, (8, 8), noisy=True, dueling=True, atoms=3)
    noise = factorised_noise((6, network.noise_size()), torch.Generator().manual_seed(2))
    x = torch.randn(6, 4)
    network.set_noise(noise)
    together = network(x)
    for i in range(6):
        network.set_noise(noise[i : i + 1])
        assert torch.allclose(network(x[i : i + 1]), together[i : i + 1], atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 0


def test_dueling_takes_the_mean_off_the_advantages() -> None:
    torch.manual_seed(3)
    network = QNetwork(4, 3, (8, 8), dueling=True)
    x = torch.randn(5, 4)
    values = network.expectation(network(x))
    hidden = x
    for layer in network.hidden:
        hidden = layer(hidden).relu()
    value, advantage = network.value(hidden[:, :4]), network.advantage(hidden[:, 4:])
    assert torch.allclose(values.mean(dim=1, keepdim=True), value, atol=1e-6)
    assert torch.allclose(values - values[:, :1], advantage - advantage[:, :1], atol=1e-6)
    with pytest.raises(ValueError, match=r"widths \(8, 7\): dueling"):
        QNetwork(4, 3, (8, 7), dueling=True)


@pytest.mark.parametrize(
    ("noisy", "dueling", "atoms"), list(itertools.product((False, True), (False, True), (1, 5))), ids=str
)
@pytest.mark.parametrize("widths", [(24,), (16, 24), (24, 16, 16)], ids=str)
def test_passes_are_the_network_s_and_their_gradient_is_the_recorded_one(
    widths: tuple[int, ...], noisy: bool, dueling: bool, atoms: int
) -> None:
    torch.manual_seed(4)
    network = QNetwork(4, 3, widths, noisy, dueling, atoms)
    target = QNetwork(4, 3, widths, noisy, dueling, atoms)
    passes = QPasses(network, (False, False, True))
    with torch.no_grad():
        passes.target_weights.copy_(QPasses(target, (False,)).weights)
    generator = torch.Generator().manual_seed(5)
    noise = passes.noise(2, generator)[1]
    x, action = torch.randn(3, 7, 4), torch.randint(3, (7,))
    with torch.no_grad():
        found = passes.forward(x, noise)
    for k, of in enumerate((network, network, target)):
        of.set_noise(noise[k : k + 1])
        assert torch.allclose(found[k], of(x[k]), atol=1e-6)
    network.set_noise(noise[:1])
    outputs = network(x[0])[torch.arange(7), action]
    gradient = torch.randn(7, atoms)
    outputs.backward(gradient)
    with torch.no_grad():
        passes.backward(action, gradient)
    recorded = [p.grad for name, p in network.named_parameters()]
    assert all(g is not None and g.abs().max() > 0 for g in recorded)
    # Parameters are views of the vector: where each lies in it is where its gradient has to be.
    for parameter in network.parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
        place = slice(parameter.storage_offset(), parameter.storage_offset() + parameter.numel())
        assert parameter.data_ptr() == passes.weights[place].data_ptr()
        assert torch.allclose(passes.gradient[place], parameter.grad.flatten(), atol=1e-5)
    assert sum(p.numel() for p in network.parameters()) == len(passes.weights)


class Fixed(QNetwork):
    """A Q-network with given values in every state, which can be learnt nonetheless."""

    def __init__(self, values: list[float]) -> None:
        super().__init__(1, len(values), (1,))
        with torch.no_grad():
            self.advantage.weight.zero_()
            self.advantage.bias.copy_(torch.tensor(values))


def minibatch(observation: torch.Tensor, action: torch.Tensor, returns: float, discount: torch.Tensor) -> Minibatches:
    """One minibatch of transitions that stay where they are, of equal weights."""
    ones, x = torch.ones(1, len(action)), observation[None]
    return Minibatches(x, action[None], returns * ones, discount[None], x, ones, np.zeros(ones.shape, np.int64))


@pytest.mark.parametrize(("double", "target"), [(False, 1 + 0.5 * 8), (True, 1 + 0.5 * 3)])
def test_double_lets_the_network_choose_and_the_target_network_evaluate(double: bool, target: float) -> None:
    learner = Learner(Fixed([3.0, 8.0]), double, 1e-3, target_every=100)
    with torch.no_grad():
        learner.network.advantage.bias.copy_(torch.tensor([5.0, 1.0]))
    one = torch.ones(1)
    batch = minibatch(one[:, None], torch.tensor([1]), 1.0, one / 2)
    losses, priorities = learner.learn(batch, torch.Generator().manual_seed(0))
    error = abs(1.0 - target)
    assert priorities.item() == pytest.approx(error) and losses.item() == pytest.approx(error - 0.5)


@pytest.mark.parametrize("atoms", [1, 51])
def test_learner_finds_the_value_of_a_step_that_repeats(atoms: int) -> None:
    """Reward 1, discount 0.9: the value is 1 / (1 - 0.9) = 10, and 1 where the step is terminal."""
    torch.manual_seed(0)
    network = QNetwork(1, 2, (16,), atoms=atoms, v_min=0.0, v_max=20.0)
    learner = Learner(network, True, 1e-2, target_every=10)
    generator = torch.Generator().manual_seed(0)
    observation = torch.tensor([[0.0], [1.0]]).repeat(8, 1)
    batch = minibatch(observation, torch.arange(16) // 2 % 2, 1.0, torch.tensor([0.9, 0.0]).repeat(8))
    for _ in range(600):
        learner.learn(batch, generator)
    values = network.expectation(network(observation[:2]))
    assert torch.allclose(values[0], torch.tensor(10.0), atol=0.3)
    assert torch.allclose(values[1], torch.tensor(1.0), atol=0.1)


def test_losses_and_priorities_of_distributions_are_kullback_leibler_divergences() -> None:
    torch.manual_seed(0)
    network = QNetwork(1, 2, (4,), atoms=3, v_min=0.0, v_max=2.0)
    one = torch.ones(1)
    now = network(one[:, None])[0, 1].softmax(dim=0)
    # Terminal with a return of 1.5: half of it on the atom at 1, half on that at 2.
    divergence = (0.5 * (0.5 / now[1:]).log()).sum().item()
    batch = minibatch(one[:, None], torch.tensor([1]), 1.5, 0 * one)
    losses, priorities = Learner(network, True, 1e-3, 10).learn(batch, torch.Generator().manual_seed(0))
    assert losses.item() == pytest.approx(divergence, rel=1e-5) and torch.equal(losses, priorities)


def test_target_network_is_copied_every_so_many_updates() -> None:
    learner = Learner(Fixed([0.0, 0.0]), False, 1e-2, target_every=3)
    one = torch.ones(1)
    same = []
    for _ in range(6):
        learner.learn(minibatch(one[:, None], torch.tensor([0]), 1.0, one), torch.Generator().manual_seed(0))
        same.append(torch.equal(learner.passes.weights, learner.passes.target_weights))
    assert same == [False, False, True, False, False, True]


def small(out: Path, **changes: Any) -> Options:
    options = Options(
        out=out,
        total_timesteps=400,
        widths=(16, 16),
        num_envs=4,
        learning_starts=64,
        batch_size=16,
        updates_per_step=0.1,
        validate_every=100,
        validation_episodes=4,
        evaluation_episodes=0,
        save_every=200,
        seed=3,
    )
    return dataclasses.replace(options, **changes)


@pytest.mark.parametrize(
    "on", list(itertools.product((False, True), repeat=6)), ids=lambda on: "".join("01"[x] for x in on)
)
def test_every_subset_of_the_switches_trains(on: tuple[bool, ...], tmp_path: Path) -> None:
    switches = dict(zip(SWITCHES, on, strict=True))
    trainer = Trainer(small(tmp_path / "p.pt", total_timesteps=100, save_every=100, **switches))
    before = trainer.network.advantage.weight.clone()
    trainer.segment(trainer.bookkeeping.bar("", 0, 1))
    assert trainer.learner.updates > 0
    assert not torch.equal(before, trainer.network.advantage.weight)
    assert isinstance(trainer.network.advantage, NoisyLinear) == switches["noisy"]
    assert trainer.network.dueling == switches["dueling"] and (trainer.network.atoms > 1) == switches["categorical"]


def test_random_actions_become_fewer_down_to_their_end(tmp_path: Path) -> None:
    """Without noisy weights: from 1 along a line to end_e after exploration_fraction of the steps."""
    changes = {"noisy": False, "exploration_fraction": 0.5, "end_e": 0.2, "total_timesteps": 1000}
    trainer = Trainer(small(tmp_path / "p.pt", **changes))
    observation = np.repeat(np.array([[0.1, 0.2, 0.3, 0.4]], np.float32), 40_000, axis=0)
    greedy = trainer.learner.act(torch.from_numpy(observation[:1]), torch.Generator()).item()
    for steps, share in ((100, 0.84), (250, 0.6), (500, 0.2), (900, 0.2)):
        trainer.steps = steps
        action = trainer._explore(observation, torch.Generator(), np.random.default_rng(0))
        # Half of the random ones are the greedy one by chance.
        assert np.mean(action != greedy) == pytest.approx(share / 2, abs=0.01)


def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.pt", tmp_path / "parts.pt"
    rainbow_trainer.train_one(small(whole))
    stopped = Trainer(small(parts))
    save, saves = stopped.bookkeeping.save, []

    def save_and_stop(**state: Any) -> None:
        save(**state)
        if stopped.steps:
            saves.append(stopped.steps)
            raise KeyboardInterrupt

    stopped.bookkeeping.save = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert 200 <= saves[0] < 400 and not parts.exists()
    rainbow_trainer.train_one(small(parts, resume=True))
    one, other = checkpoint.weights(whole), checkpoint.weights(parts)
    assert list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)
    scores = [checkpoint.read_spec(path).scores for path in (whole, parts)]
    assert scores[0] == scores[1]
    with pytest.raises(ValueError, match="other options"):
        Trainer(small(parts, resume=True, gamma=0.9)).run()


def test_seed_decides_the_run(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        rainbow_trainer.train_one(small(tmp_path / f"{name}.pt", total_timesteps=150, seed=seed))
        weights.append(checkpoint.weights(tmp_path / f"{name}.pt")["network.advantage.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_checkpoint_fits_its_contract(tmp_path: Path) -> None:
    out = tmp_path / "p.pt"
    result = rainbow_trainer.train_one(small(out, evaluation_episodes=2))
    loaded = checkpoint.load(out, kind="discrete policy", task="cartpole")
    spec = loaded.spec
    assert (spec.environment, spec.rate, spec.action_low, spec.action_high) == ("CartPole-v1", 50.0, (0.0,), (1.0,))
    assert spec.inputs[0].shape == (4,) and spec.scores["evaluation"] == result["evaluation"]
    observation = torch.randn(7, 4)
    values = loaded.module.values(observation)
    assert values.shape == (7, 2) and torch.equal(loaded.module(observation), values.argmax(dim=1))
    # Exported are the mean weights: the same answer each time.
    assert torch.equal(loaded.module.values(observation), values)


def test_noise_is_not_exported() -> None:
    torch.manual_seed(0)
    network = QNetwork(4, 2, (8, 8), noisy=True)
    network.set_noise(factorised_noise((1, network.noise_size()), torch.Generator().manual_seed(0)))
    policy = checkpoint.script(DiscretePolicy(network).eval())
    plain = network.eval()
    x = torch.randn(3, 4)
    assert torch.equal(policy.values(x), plain.expectation(plain(x)))


def test_episodes_of_a_vector_are_the_first_of_each() -> None:
    environments = discrete_task("CartPole-v1").environments(3)
    episodes = first_episodes(environments, lambda observation: np.ones(3, np.int64), seed=5, max_steps=50)
    # Always to the right, the pole falls in about ten steps, and the vector has gone on with the others by then.
    assert ((episodes.lengths >= 8) & (episodes.lengths <= 11)).all()
    assert np.array_equal(episodes.returns, episodes.lengths)
    environments.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--env-id", "InvertedDoublePendulum-v5"], "its actions are continuous"),
        (["--env-id", "NoSuchTask-v0"], "NoSuchTask"),
        (["--v-max", "-1"], "v_max -1.0"),
        (["--total-timesteps", "0"], "total_timesteps 0"),
        (["--resume"], "nothing to resume from"),
        (["--resume", "--seeds", "0", "1"], "nor for the other seeds: nothing to resume from"),
        (["--total-timesteps", "400"], "learning_starts 1000: must be at most total_timesteps, 400"),
        (["--buffer-size", "32"], "buffer_size 32: at least a batch, 64"),
        (["--evaluation-episodes", "-1"], "evaluation_episodes -1"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.pt"
    monkeypatch.setattr(sys, "argv", ["train_rainbow", "--out", str(out), *arguments])
    with pytest.raises(SystemExit) as end:
        command_line.run(Options, train_rainbow.train, None)
    lines = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and len(lines) == 1 and said in lines[0]
    assert not out.exists()


@pytest.mark.slow  # two processes with everything to import; one run that goes on is above
def test_resuming_seeds_goes_on_with_some_and_begins_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = small(tmp_path / "p.pt", seeds=(1, 2), workers=2)
    first = of_seed(several, 1)
    begun = Trainer(dataclasses.replace(first, seed=1))
    begun.bookkeeping.save(**begun.state())
    train_rainbow.train(dataclasses.replace(several, resume=True))
    assert capsys.readouterr().out.count("wrote") == 2
    assert first.out.exists() and of_seed(several, 2).out.exists()


def test_what_was_saved_stays_until_a_new_run_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    rainbow_trainer.train_one(small(tmp_path / "p.pt"))
    state = tmp_path / "p.pt.run/state.pt"
    before = state.read_bytes()
    trainer = Trainer(small(tmp_path / "p.pt", seed=7))
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "segment", stop)
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    assert state.read_bytes() == before
    saved = Trainer(small(tmp_path / "p.pt", resume=True)).bookkeeping.saved()
    assert saved is not None and saved["steps"] > 0
    with pytest.raises(ValueError, match="was begun with other options than these: seed 3, now 7"):
        Trainer(small(tmp_path / "p.pt", seed=7, resume=True)).bookkeeping.saved()
    Trainer(small(tmp_path / "p.pt", seed=7)).run()
    assert state.read_bytes() != before


def test_returns_beyond_the_support_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has a return of -9.7.*, v_min 0 to v_max 200 must hold all"):
        Trainer(small(tmp_path / "p.pt", env_id="Acrobot-v1")).run()


@pytest.mark.slow
def test_a_run_that_always_ends_its_worker_is_one_line() -> None:
    with pytest.raises(RuntimeError, match="3 worker processes ended before they had done run 1: they could not"):
        list(side_by_side(workers_that_end.early, [1], Workers(2), "numbers"))
    assert not multiprocessing.active_children()


def test_steps_to_a_threshold() -> None:
    assert steps_to([(500, 10.0), (1000, 480.0), (1500, 300.0)], 475) == 1000
    assert steps_to([(500, 10.0)], 475) is None


def test_ablation_has_every_variant_and_counts_runs_that_never_got_there() -> None:
    found = variants()
    assert len(found) == 14 and sum(found["DQN"].values()) == 0 and sum(found["Rainbow"].values()) == 6
    assert all(sum(found[f"DQN + {name.replace('_', '-')}"].values()) == 1 for name in SWITCHES)
    assert all(not found[f"Rainbow - {name.replace('_', '-')}"][name] for name in SWITCHES)
    runs: list[dict[str, Any]] = [
        {"steps_to_475": steps, "evaluation": {"mean_return": 500.0, "min_return": 500.0}}
        for steps in (1000, 2000, None, None)
    ]
    assert quartiles_to_threshold(runs).tolist() == [2000.0, np.inf, np.inf]
    assert "| DQN | > 9,000 | 2,000 to > 9,000 | 2 of 4 | 500.0 | 4 of 4 |" in table({"DQN": runs}, 9000)
