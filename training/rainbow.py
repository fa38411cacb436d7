"""DQN (Mnih et al. 2015) and Rainbow's six additions to it (Hessel et al. 2018, arXiv 1710.02298), learning only.

Each addition is a switch of its own:

| switch | changes | where |
|---|---|---|
| double | which next action is evaluated | Learner._next_actions |
| prioritised | which transitions are learnt from, and how much each counts | replay.Replay |
| dueling | the network's head | networks.mlp.QNetwork |
| noisy | how it explores | networks.mlp.NoisyLinear |
| categorical | what is predicted, and the loss | project, Learner.update |
| n_step | the targets | replay.NStepReturns |
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_ros import checkpoint
from training.networks.mlp import QNetwork, factorised_noise


def project(probabilities: Tensor, support: Tensor, returns: Tensor, discount: Tensor) -> Tensor:
    """The distribution of r + discount Z on Z's own support (Bellemare et al. 2017, arXiv 1707.06887, algorithm 1).

    Args:
        probabilities: (B, N) of Z.
        support: (N,) ascending and evenly spaced.
        returns: (B,) r.
        discount: (B,).

    Returns:
        (B, N): each shifted atom's probability is shared by its two neighbours on the support, the nearer has more;
        what is beyond an end goes to the end.
    """
    atoms = len(support)
    moved = torch.addcmul(returns[:, None], discount[:, None], support[None])
    position = ((moved - support[0]) * ((atoms - 1) / (support[-1] - support[0]))).clamp_(0, atoms - 1)
    # An atom that lands on the last one is shared by the last two, all of it for the upper.
    lower = position.floor().clamp_(max=atoms - 2)
    upper_share = probabilities * (position - lower)
    index = lower.long()
    projected = torch.zeros_like(probabilities)
    projected.scatter_add_(1, index, probabilities - upper_share)
    return projected.scatter_add_(1, index + 1, upper_share)


class Learner:
    """A Q-network, its target network, and the update.

    Args:
        network: what is trained, with its own switches (dueling, noisy, categorical).
        double: choose the next action by the network and evaluate it by the target network (van Hasselt et al. 2016).
        noisy: whether the network has noisy layers.
        learning_rate: Adam.
        target_every: updates between copies of the network to the target network.
    """

    def __init__(self, network: QNetwork, double: bool, noisy: bool, learning_rate: float, target_every: int) -> None:
        self.network = network
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.double, self.noisy, self.target_every = double, noisy, target_every
        self.noise_size = network.noise_size() if noisy else 0
        self.categorical = network.atoms > 1
        self.optimizer = torch.optim.Adam(network.parameters(), learning_rate, eps=1e-5, fused=True)
        self.updates = 0
        self._weights: list[Tensor] = list(network.parameters())
        self._target_weights: list[Tensor] = list(self.target.parameters())

    @torch.no_grad()
    def act(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Greedy actions (B,) at observations (B, n); each row has noise of its own, if any."""
        if self.noisy:
            self.network.set_noise(factorised_noise((len(observation), self.noise_size), generator))
        return self.network.expectation(self.network(observation)).argmax(dim=1)

    def update(
        self,
        observation: Tensor,
        action: Tensor,
        returns: Tensor,
        discount: Tensor,
        next_observation: Tensor,
        weights: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """One step of Adam on a minibatch, see replay.Transitions; returns the loss and the new priorities (B,).

        A batch has one draw of noise; the network, its choice of next actions and the target network have independent
        ones (Fortunato et al. 2018, section 3.1).
        """
        rows = torch.arange(len(action))
        noises: tuple[Tensor, ...] = ()
        if self.noisy:
            noises = factorised_noise((3, self.noise_size), generator).split(1)
            self.target.set_noise(noises[0])
        with torch.no_grad():
            outputs = self.target(next_observation)
            next_action = self._next_actions(outputs, next_observation, noises)
            chosen = outputs[rows, next_action]  # (B, atoms)
            if self.categorical:
                target = project(chosen.softmax(dim=1), self.network.support, returns, discount)
            else:
                target = torch.addcmul(returns, discount, chosen.squeeze(1))
        if self.noisy:
            self.network.set_noise(noises[2])
        predicted = self.network(observation)[rows, action]
        if self.categorical:
            # The Kullback-Leibler divergence is loss and priority (Hessel et al. 2018, section 3).
            losses = F.kl_div(predicted.log_softmax(dim=1), target, reduction="none").sum(dim=1)
            priorities = losses.detach().clamp(min=0)
        else:
            predicted = predicted.squeeze(1)
            losses = F.smooth_l1_loss(predicted, target, reduction="none")
            priorities = (predicted.detach() - target).abs()
        loss = torch.dot(losses, weights) / len(weights)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.target_every == 0:
            self.synchronise()
        return loss.detach(), priorities

    def _next_actions(self, outputs: Tensor, next_observation: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """Best next actions (B,), by the target network's `outputs` (B, A, atoms) or, if double, by the network."""
        if self.double:
            if self.noisy:
                self.network.set_noise(noises[1])
            outputs = self.network(next_observation)
        return self.network.expectation(outputs).argmax(dim=1)

    @torch.no_grad()
    def synchronise(self) -> None:
        """Copies the network to the target network."""
        torch._foreach_copy_(self._target_weights, self._weights)

    def state(self) -> dict[str, Any]:
        """For run.save_state."""
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The opposite of :meth:`state`."""
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
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
