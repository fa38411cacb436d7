"""The passes of an update through a Q-network and its target network as one product, and the gradient.

In networks this small, calling operations takes longer than they do. So the weights of all layers are one vector, the
passes of an update are one batched product a layer, and the gradient is written out instead of recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.networks.mlp import QNetwork, factorised_noise


class QPasses:
    """The weights of a Q-network and of its target network, and K passes at once with the weights of either.

    The network's parameters become views of `weights`: what changes one changes the other.

    Args:
        network: see mlp.QNetwork.
        of_target: for each pass, whether it is the target network's. The first is the network's and has the gradient.
    """

    def __init__(self, network: QNetwork, of_target: Sequence[bool]) -> None:
        self.n_passes = len(of_target)
        self.n_actions, self.atoms, self.dueling = network.n_actions, network.atoms, network.dueling
        # In the vector: the means of plain layers, those of noisy layers, the sigmas.
        layers, noisy = network.layers(), network.noisy_layers()
        means = [p for layer in layers for p in (layer.weight, layer.bias)]
        sigmas = [p for layer in noisy for p in (layer.weight_sigma, layer.bias_sigma)]
        self.weights = torch.cat([p.detach().flatten() for p in (*means, *sigmas)])
        self.target_weights = self.weights.clone()
        self.gradient = torch.zeros_like(self.weights)
        """What `backward` finds."""
        for parameter, view in zip((*means, *sigmas), _views(self.weights, (*means, *sigmas)), strict=True):
            parameter.data = view

        n_means, n_noisy = (sum(p.numel() for p in group) for group in (means, sigmas))
        sizes = [n_means - n_noisy, n_noisy, n_noisy]
        used, eps = torch.empty(self.n_passes, n_means), torch.empty(self.n_passes, n_noisy)
        sources = [(self.target_weights if target else self.weights).split(sizes) for target in of_target]
        self._mixes = [(*source, *row.split(sizes[:2]), e) for source, row, e in zip(sources, used, eps, strict=True)]
        """Of each pass: plain means, noisy means, sigmas; where the weights in use go, plain and noisy; their noise."""
        self._layers = [(weight.mT, bias[:, None]) for weight, bias in _pairs(_views(used, means))]
        """Of each layer in use: the weight (K, inputs, outputs) and the bias (K, 1, outputs)."""
        self._eps = _pairs(_views(eps, sigmas))
        self._noise_sizes = [size for layer in noisy for size in reversed(layer.weight.shape)]
        _, noisy_gradient, sigma_gradient = self.gradient.split(sizes)
        self._noisy_gradients = (noisy_gradient, eps[0], sigma_gradient)
        self._gradients = _pairs(_views(self.gradient[:n_means], means))
        # How much each action's advantage counts in the value of each action.
        self._share = torch.eye(self.n_actions) - (1 / self.n_actions if self.dueling else 0)
        self._activations: list[Tensor] = []

    def noise(self, draws: int, generator: torch.Generator) -> Tensor:
        """For so many calls of `forward`, (draws, K, noise); see mlp.factorised_noise."""
        return factorised_noise((draws, self.n_passes, sum(self._noise_sizes)), generator)

    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        """observation (K, B, n), noise (K, noise); returns (K, B, A, atoms), see QNetwork.forward."""
        parts = noise.split(self._noise_sizes, dim=1)
        for (weight, bias), inputs, outputs in zip(self._eps, parts[::2], parts[1::2], strict=True):
            torch.mul(outputs[:, :, None], inputs[:, None], out=weight)
            bias.copy_(outputs)
        for plain, mean, sigma, used_plain, used_noisy, eps in self._mixes:
            used_plain.copy_(plain)
            torch.addcmul(mean, sigma, eps, out=used_noisy)
        x = observation
        self._activations = [x[0]]
        for weight, bias in self._layers[: -2 if self.dueling else -1]:
            x = torch.baddbmm(bias, x, weight).relu_()
            self._activations.append(x[0])
        weight, bias = self._layers[-1]
        if not self.dueling:
            return torch.baddbmm(bias, x, weight).view(self.n_passes, -1, self.n_actions, self.atoms)
        value_weight, value_bias = self._layers[-2]
        value_features, features = x.chunk(2, dim=2)
        value = torch.baddbmm(value_bias, value_features, value_weight)
        advantage = torch.baddbmm(bias, features, weight).view(self.n_passes, -1, self.n_actions, self.atoms)
        combined = value[:, :, None] + advantage
        return combined.sub_(advantage.sum(dim=2, keepdim=True), alpha=1 / self.n_actions)

    def backward(self, action: Tensor, gradient: Tensor) -> None:
        """Sets `gradient` to the loss's.

        action (B,); gradient (B, atoms) of the loss by what the first pass gave for them.
        """
        x = self._activations[-1]
        of_x = torch.empty_like(x)
        of_advantage = (self._share[action][:, :, None] * gradient[:, None]).flatten(1)
        if self.dueling:
            (value_features, features), (of_value_features, of_features) = x.chunk(2, dim=1), of_x.chunk(2, dim=1)
            self._layer_backward(-2, value_features, gradient, of_value_features)
            self._layer_backward(-1, features, of_advantage, of_features)
        else:
            self._layer_backward(-1, x, of_advantage, of_x)
        for layer in reversed(range(len(self._activations) - 1)):
            of_output = of_x.mul_(self._activations[layer + 1].sign())  # ReLU: outputs are 0 or above
            x = self._activations[layer]
            of_x = torch.empty_like(x)
            self._layer_backward(layer, x, of_output, of_x)
        mean, eps, sigma = self._noisy_gradients
        torch.mul(mean, eps, out=sigma)

    def _layer_backward(self, layer: int, x: Tensor, of_output: Tensor, of_x: Tensor) -> None:
        """From the gradient by a layer's output (B, q) those by its weights and by its input x (B, p)."""
        of_weight, of_bias = self._gradients[layer]
        torch.mm(of_output.T, x, out=of_weight)
        torch.sum(of_output, dim=0, out=of_bias)
        torch.mm(of_output, self._layers[layer][0][0].T, out=of_x)


def _views(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Cuts a vector (..., n) into parts (..., *shape) with the parameters' shapes."""
    parts = vector.split([p.numel() for p in parameters], dim=-1)
    return [part.view(*part.shape[:-1], *p.shape) for part, p in zip(parts, parameters, strict=True)]


def _pairs(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))
