"""DQN (Mnih et al. 2015) and Rainbow's six additions to it (Hessel et al. 2018, arXiv 1710.02298), learning only.

Each addition is a switch of its own:

| switch | changes | where |
|---|---|---|
| double | which next action is evaluated | Learner.learn |
| prioritised | which transitions are learnt from, and how much each counts | replay.Replay |
| dueling | the network's head | networks.mlp.QNetwork |
| noisy | how it explores | networks.mlp.NoisyLinear |
| categorical | what is predicted, and the loss | landing, project, Learner.learn |
| n_step | the targets | replay.NStepReturns |
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_ros import checkpoint
from training.networks.mlp import QNetwork, factorised_noise
from training.networks.q_passes import QPasses
from training.rl.replay import Minibatches


def landing(support: Tensor, returns: Tensor, discount: Tensor) -> tuple[Tensor, Tensor]:
    """Where the atoms of r + discount Z come to lie on Z's own support (Bellemare et al. 2017, arXiv 1707.06887).

    Args:
        support: (N,) ascending and evenly spaced.
        returns: (...) r.
        discount: (...).

    Returns:
        Of each atom the index of its lower neighbour (..., N), at most N - 2, and the share of the upper one (..., N):
        the nearer of the two has more. What is beyond an end goes to the end.
    """
    atoms = len(support)
    moved = torch.addcmul(returns[..., None], discount[..., None], support)
    position = ((moved - support[0]) * ((atoms - 1) / (support[-1] - support[0]))).clamp_(0, atoms - 1)
    # An atom that lands on the last one is shared by the last two, all of it for the upper.
    lower = position.floor().clamp_(max=atoms - 2)
    return lower.long(), position - lower


def project(probabilities: Tensor, lower: Tensor, upper_share: Tensor) -> Tensor:
    """The distribution (B, N) of r + discount Z from Z's probabilities (B, N): algorithm 1; see :func:`landing`."""
    upper = probabilities * upper_share
    projected = torch.zeros_like(probabilities).scatter_add_(1, lower, probabilities - upper)
    return projected.scatter_add_(1, lower + 1, upper)


class Learner:
    """A Q-network, its target network, and the update.

    Args:
        network: what is trained, with its own switches (dueling, noisy, categorical).
        double: choose the next action by the network and evaluate it by the target network (van Hasselt et al. 2016).
        learning_rate: Adam.
        target_every: updates between copies of the network to the target network.
    """

    def __init__(self, network: QNetwork, double: bool, learning_rate: float, target_every: int) -> None:
        self.network, self.target_every = network, target_every
        self.categorical = network.atoms > 1
        # Of the network at the observation and, if double, at the next one; of the target network at the next one.
        self.passes = QPasses(network, (False, False, True) if double else (False, True))
        parameter = nn.Parameter(self.passes.weights)
        parameter.grad = self.passes.gradient
        self.optimizer = torch.optim.Adam([parameter], learning_rate, eps=1e-5, fused=True)
        self.updates = 0

    @torch.no_grad()
    def act(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Greedy actions (B,) at observations (B, n); each row has noise of its own, if any."""
        self.network.set_noise(factorised_noise((len(observation), self.network.noise_size()), generator))
        return self.network.expectation(self.network(observation)).argmax(dim=1)

    @torch.no_grad()
    def learn(self, batches: Minibatches, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One step of Adam on each of K minibatches; returns the losses and the new priorities, both (K, B).

        In a minibatch the network, its choice of next actions and the target network have a draw of noise each
        (Fortunato et al. 2018, section 3.1).
        """
        following = [batches.next_observation] * (self.passes.n_passes - 1)
        observations = torch.stack((batches.observation, *following), dim=1)
        noise = self.passes.noise(len(observations), generator)
        scale = (batches.weights / batches.weights.shape[1])[..., None]
        if self.categorical:
            lower, upper_share = landing(self.network.support, batches.returns, batches.discount)
        rows = torch.arange(batches.action.shape[1])
        pairs = []
        for k, action in enumerate(batches.action):
            outputs = self.passes.forward(observations[k], noise[k])
            # The network chooses the next action if double, the target network itself if not.
            next_action = self.network.expectation(outputs[1]).argmax(dim=1)
            predicted, bootstrap = outputs[0][rows, action], outputs[-1][rows, next_action]  # (B, atoms)
            if self.categorical:
                target = project(bootstrap.softmax(dim=1), lower[k], upper_share[k])
                predicted = predicted.log_softmax(dim=1)
                gradient = predicted.exp() - target  # of the cross entropy, by the logits
            else:
                target = torch.addcmul(batches.returns[k, :, None], batches.discount[k, :, None], bootstrap)
                gradient = (predicted - target).clamp_(-1, 1)  # of Huber's loss
            self.passes.backward(action, gradient.mul_(scale[k]))
            self.optimizer.step()
            self.updates += 1
            if self.updates % self.target_every == 0:
                self.synchronise()
            pairs.append((predicted, target))
        predicted, target = (torch.stack(found) for found in zip(*pairs, strict=True))
        if self.categorical:
            # The Kullback-Leibler divergence is loss and priority (Hessel et al. 2018, section 3).
            losses = F.kl_div(predicted, target, reduction="none").sum(dim=2)
            return losses, losses.clamp(min=0)
        losses = F.smooth_l1_loss(predicted, target, reduction="none").squeeze(2)
        return losses, (predicted - target).abs().squeeze(2)

    @torch.no_grad()
    def synchronise(self) -> None:
        """Copies the network to the target network."""
        self.passes.target_weights.copy_(self.passes.weights)

    def state(self) -> dict[str, Any]:
        """For run.save_state."""
        return {
            "network": self.passes.weights,
            "target": self.passes.target_weights,
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The opposite of :meth:`state`."""
        self.passes.weights.copy_(state["network"])
        self.passes.target_weights.copy_(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = int(state["updates"])


class DiscretePolicy(nn.Module):
    """What is exported: the greedy action and the values that it is greedy about."""

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor) -> Tensor:
        """observation (B, n) float32; returns actions (B,) int64."""
        return self.values(observation).argmax(dim=1)

    @checkpoint.exported
    def values(self, observation: Tensor) -> Tensor:
        """observation (B, n) float32; returns action values (B, A), in units of return."""
        return self.network.expectation(self.network(observation))
