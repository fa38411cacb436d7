"""Multilayer perceptrons for reinforcement learning: a Q-network with Rainbow's switches, PPO's actor and critic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoisyLinear(nn.Module):
    """A linear layer whose weights are noisy in training (Fortunato et al. 2018, arXiv 1706.10295, section 3).

    Factorised Gaussian noise: w = mu + sigma * f(eps_out) f(eps_in)^T, b = mu_b + sigma_b * f(eps_out), with
    f(x) = sign(x) sqrt(|x|). It is applied to the input and the output instead of the weights, which is the same and
    lets each row of a batch have noise of its own. In eval mode the weights are the means.

    Args:
        in_features: p.
        out_features: q.
        sigma0: every sigma starts at sigma0 / sqrt(p).
    """

    def __init__(self, in_features: int, out_features: int, sigma0: float = 0.5) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), sigma0 * bound))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), sigma0 * bound))
        self.input_noise: Tensor = nn.Buffer(torch.zeros(1, in_features), persistent=False)
        self.output_noise: Tensor = nn.Buffer(torch.zeros(1, out_features), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, p); returns (B, q)."""
        mean = F.linear(x, self.weight, self.bias)
        if not self.training:
            return mean
        noise = F.linear(x * self.input_noise, self.weight_sigma, self.bias_sigma)
        return torch.addcmul(mean, self.output_noise, noise)


def factorised_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """f(eps) for standard normal eps of `shape`, with f(x) = sign(x) sqrt(|x|) (Fortunato et al. 2018, eq. 10, 11)."""
    eps = torch.randn(shape, generator=generator)
    return eps.abs().sqrt_().copysign_(eps)


class QNetwork(nn.Module):
    """Action values, or their distributions, of observations.

    Args:
        observation_size: n.
        n_actions: A.
        widths: of the hidden layers, at least one.
        noisy: noisy layers. The first stays plain, as the convolutions of the papers do: its features are the same
            under any noise.
        dueling: a stream for the state's value and one for the actions' advantages: q = v + a - mean(a) (Wang et al.
            2016, arXiv 1511.06581, eq. 9). Each has half of the last hidden layer, so that the network is no larger.
        atoms: support points of a categorical distribution (Bellemare et al. 2017, arXiv 1707.06887); 1 for values.
        v_min: least return on the support.
        v_max: greatest.

    Raises:
        ValueError: a last hidden layer that cannot be halved for the streams.
    """

    def __init__(
        self,
        observation_size: int,
        n_actions: int,
        widths: Sequence[int] = (128, 128),
        noisy: bool = False,
        dueling: bool = False,
        atoms: int = 1,
        v_min: float = 0.0,
        v_max: float = 100.0,
    ) -> None:
        super().__init__()
        if dueling and widths[-1] % 2:
            raise ValueError(f"widths {tuple(widths)}: dueling streams need a last layer of even width")
        self.n_actions, self.atoms, self.dueling = n_actions, atoms, dueling
        self.support = nn.Buffer(torch.linspace(v_min, v_max, atoms), persistent=False)
        layer = NoisyLinear if noisy else nn.Linear
        sizes = list(itertools.pairwise([observation_size, *widths]))
        self.hidden = nn.ModuleList((layer if i else nn.Linear)(*size) for i, size in enumerate(sizes))
        stream = widths[-1] // 2 if dueling else widths[-1]
        self.value = layer(stream, atoms) if dueling else nn.Identity()
        self.advantage = layer(stream, n_actions * atoms)

    def forward(self, observation: Tensor) -> Tensor:
        """observation (B, n); returns (B, A, atoms): logits of the distributions, or values where atoms is 1."""
        x = observation
        for layer in self.hidden:
            x = F.relu(layer(x))
        if not self.dueling:
            advantage: Tensor = self.advantage(x)
            return advantage.view(-1, self.n_actions, self.atoms)
        value_features, features = x.chunk(2, dim=1)
        value = self.value(value_features).view(-1, 1, self.atoms)
        advantage = self.advantage(features).view(-1, self.n_actions, self.atoms)
        combined: Tensor = value + advantage - advantage.mean(dim=1, keepdim=True)
        return combined

    def expectation(self, outputs: Tensor) -> Tensor:
        """What :meth:`forward` returned, (B, A, atoms); returns the action values (B, A), in units of return."""
        if self.atoms == 1:
            return outputs.squeeze(2)
        return outputs.softmax(dim=2) @ self.support

    def layers(self) -> list[NoisyLinear | nn.Linear]:
        """All layers: the hidden ones, the value's if dueling, the advantages'."""
        layers = (*self.hidden, self.value, self.advantage)
        return [layer for layer in layers if isinstance(layer, (NoisyLinear, nn.Linear))]

    def noisy_layers(self) -> list[NoisyLinear]:
        """The layers that take noise, in the order in which :meth:`set_noise` gives it out."""
        return [layer for layer in self.layers() if isinstance(layer, NoisyLinear)]

    def noise_size(self) -> int:
        """Numbers in one draw of all layers' noise."""
        return sum(sum(layer.weight.shape) for layer in self.noisy_layers())

    def set_noise(self, noise: Tensor) -> None:
        """noise (1, noise_size) for a whole batch or (B, noise_size) for each row its own; see factorised_noise."""
        start = 0
        for layer in self.noisy_layers():
            outputs, inputs = layer.weight.shape
            layer.input_noise = noise[:, start : start + inputs]
            layer.output_noise = noise[:, start + inputs : start + inputs + outputs]
            start += inputs + outputs


def tanh_mlp(inputs: int, widths: Sequence[int], outputs: int, output_gain: float) -> nn.Sequential:
    """(B, inputs) -> (B, outputs) through tanh layers; orthogonal weights with gain sqrt(2), `output_gain` at the end.

    The initialisation of PPO's reference implementation (Schulman et al. 2017, arXiv 1707.06347; OpenAI Baselines).
    """
    sizes = [inputs, *widths, outputs]
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        last = i == len(sizes) - 2
        linear = nn.Linear(sizes[i], sizes[i + 1])
        nn.init.orthogonal_(linear.weight, output_gain if last else math.sqrt(2))
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)


class ActorCritic(nn.Module):
    """PPO's Gaussian actor, whose log standard deviation does not depend on the state, and a critic of its own.

    Args:
        observation_size: n.
        action_size: m.
        widths: of the hidden layers of both.
        log_std: where the log standard deviation starts, in units of half the action's range.
    """

    def __init__(
        self, observation_size: int, action_size: int, widths: Sequence[int] = (64, 64), log_std: float = 0.0
    ) -> None:
        super().__init__()
        self.actor = tanh_mlp(observation_size, widths, action_size, output_gain=0.01)
        self.critic = tanh_mlp(observation_size, widths, 1, output_gain=1.0)
        self.log_std = nn.Parameter(torch.full((action_size,), log_std))

    def mean(self, observation: Tensor) -> Tensor:
        """observation (B, n), normalised; returns the mean action (B, m), in units of half the action's range."""
        mean: Tensor = self.actor(observation)
        return mean

    def value(self, observation: Tensor) -> Tensor:
        """observation (B, n), normalised; returns (B,) in units of the scaled return."""
        value: Tensor = self.critic(observation)
        return value.squeeze(1)

    def log_prob(self, mean: Tensor, action: Tensor) -> Tensor:
        """Log density (B,) of action (B, m) around mean (B, m)."""
        z = (action - mean) * (-self.log_std).exp()
        size = action.shape[1]
        return -0.5 * z.square().sum(dim=1) - (self.log_std.sum() + 0.5 * size * math.log(2 * math.pi))

    def entropy(self) -> Tensor:
        """Of the actor, in nats, the same in every state."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
