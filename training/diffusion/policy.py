"""The diffusion policy (Chi et al. 2023, arXiv 2303.04137): observations in, a chunk of actions out, all in one module.

Inside are the normalisers, the encoder, the denoiser and the sampler, so the scripted module is all that a robot needs.
Rotations enter as 6-D (Zhou et al. 2019, arXiv 1812.07035): quaternions q and -q are one rotation and must look alike.
Actions leave in metres and radians; inside they are in [-1, 1] by the limits of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from diffusion_ros.checkpoint import exported
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.normalizer import LimitsNormalizer
from training.networks.encoders import (
    KeypointEncoder,
    ResNet18Encoder,
    SmallConvEncoder,
    centre_offset,
    crop,
    logits_side_by_side,
)
from training.networks.transformer import DiffusionTransformer
from training.networks.unet1d import ConditionalUnet1d

HAND = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
"""The inputs of the simulator's hand, and how many numbers each has."""
POSE_DIM = 12
"""Of an object's pose: position, 6-D rotation, position relative to the hand."""
POSE_POINTS = 4
"""Of an object's frame: its origin and the tips of its axes."""
STRAYED = 1e-4
"""m, rad: less is no deviation of what was executed from its label."""
MAX_PULL = 5.0
"""beta of arXiv 2506.07339: a stronger pull makes few steps unstable."""
HAND_REACH = 0.1
"""Metres: the unit in which the object's position in the hand's frame is estimated."""


def rotate(rotation: Tensor, vector: Tensor) -> Tensor:
    """(B, 3, 3) times (B, 3), elementwise: a matrix product would be in bfloat16 under autocast."""
    return (rotation * vector[:, None, :]).sum(dim=-1)


def rotation_6d(quaternion: Tensor) -> Tensor:
    """First two columns of the rotation matrix, (..., 6), of quaternions (..., 4) xyzw."""
    x, y, z, w = F.normalize(quaternion, dim=-1).unbind(-1)
    first = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
    second = [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)]
    return torch.stack(first + second, dim=-1)


def number_vector(obs: dict[str, Tensor], names: list[str]) -> Tensor:
    """What the robot feels, (B, n), of its inputs by name; quaternions as 6-D rotations. The simulator's hand is 11:
    position (m), rotation, finger positions (m)."""
    parts: list[Tensor] = []
    for name in names:
        value = obs[name]
        parts.append(rotation_6d(value) if name.endswith("_quat") else value)
    return torch.cat(parts, dim=-1)


def vector_width(sizes: Mapping[str, int]) -> int:
    """Of `number_vector`, for inputs by name and how many numbers each has."""
    return sum(6 if name.endswith("_quat") else size for name, size in sizes.items())


def object_vector(obs: dict[str, Tensor]) -> Tensor:
    """The object's pose, (B, POSE_DIM): position (m), 6-D rotation, position relative to the hand (m)."""
    relative = obs["object_pos"] - obs["robot0_eef_pos"]
    return torch.cat([obs["object_pos"], rotation_6d(obs["object_quat"]), relative], dim=-1)


class ObservationEncoder(nn.Module):
    """One frame of observations to one feature vector.

    From state, the features are the normalised hand and object vectors. From pixels, they are the hand vector, the
    key-points of each camera and, with `pose_head`, the object's pose that a small network reads off them: it is
    trained on the poses in the demonstrations and needs none in use. Both: pixels and the true pose.

    With `pose_points`, the first POSE_POINTS key-points of each camera are taught to be the images of the object's
    frame (:mod:`training.diffusion.pose_points`), and the pose is read off the key-points alone, in the world's frame
    and in the hand's, and weighed. The wrist camera shows the object in the hand's frame; where the hand turns, the
    world's is a product that a small network learns badly. From the hand's pose a network would guess where an
    expert's hand goes, which is where the object is, and believe a hand that has gone astray. The policy then sees the
    hand and the pose.

    Args:
        numbers: low-dimensional inputs, name -> how many numbers; where there is a pose of an object, the first two are
            the hand's position and quaternion.
        cameras: names; each has an encoder of its own.
        use_object: whether the true pose of the object is an input.
        hand_limits, object_limits: normalisers of numbers and of the object's vector.
        vision: "small" or "resnet18".
        pose_head: whether the pose is estimated from the images.
        pose_points: whether it is estimated from images of the object's frame; for "small".
        image_size, crop_size: height and width of the pictures and of what is cut out of them [px].
    """

    def __init__(
        self,
        cameras: tuple[str, ...],
        use_object: bool,
        hand_limits: LimitsNormalizer,
        object_limits: LimitsNormalizer,
        vision: str = "small",
        pose_head: bool = True,
        pose_points: bool = False,
        image_size: tuple[int, int] = (84, 84),
        crop_size: tuple[int, int] = (76, 76),
        numbers: Mapping[str, int] = HAND,
    ) -> None:
        super().__init__()
        self.cameras = list(cameras)
        self.numbers = list(numbers)
        felt = vector_width(numbers)
        if (use_object or (pose_head and cameras)) and self.numbers[:2] != list(HAND)[:2]:
            raise ValueError(f"inputs {', '.join(numbers)}: with a pose of the object the hand's comes first")
        self.use_object = use_object
        self.pose_dim = POSE_DIM
        self.image_size = image_size
        self.crop_size = crop_size
        self.hand_limits = hand_limits
        self.object_limits = object_limits
        self.has_pose_head = pose_head and len(cameras) > 0
        self.pose_points = pose_points
        if pose_points and not (self.has_pose_head and vision == "small"):
            raise ValueError("pose_points needs cameras, a pose head and vision 'small'")
        encoders: list[KeypointEncoder]
        if vision == "resnet18":
            encoders = [ResNet18Encoder(image_size, crop_size) for _ in cameras]
        elif pose_points:
            encoders = [SmallConvEncoder(image_size, crop_size, 3 * POSE_POINTS, coarse=True) for _ in cameras]
        else:
            encoders = [SmallConvEncoder(image_size, crop_size) for _ in cameras]
        self.vision = nn.ModuleList(encoders)
        keypoints = sum(encoder.out_dim for encoder in encoders)
        self.joined = [torch.zeros(0)]  # not empty: TorchScript takes the type from it
        """The encoders' layers side by side: written by who loads it, before it is frozen."""
        self.reduced = False
        """Whether the convolutions were trained in bfloat16, as they then may be computed in use."""
        self.out_dim = felt + (POSE_DIM if use_object else 0) + (0 if pose_points else keypoints)
        self.pose_head: nn.Module = nn.Identity()
        self.hand_reach = HAND_REACH
        if self.has_pose_head:
            estimates = 9 + 9 + 2 if pose_points else POSE_DIM
            seen = 9 * POSE_POINTS * len(cameras) if pose_points else felt + keypoints
            self.pose_head = nn.Sequential(
                nn.Linear(seen, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, estimates)
            )
            self.out_dim += POSE_DIM

    def forward(self, obs: dict[str, Tensor], offset: Tensor) -> Tensor:
        """obs name -> (B, ...), images (B, H, W, 3) uint8; offset (B, 2) of the crop in pixels; returns (B, out_dim).

        The estimated pose, where there is one, is the last POSE_DIM features.
        """
        return self.see(obs, offset)[0]

    def see(self, obs: dict[str, Tensor], offset: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The features and, with `pose_points`, each camera's logits, (B, 3 POSE_POINTS, h, w)."""
        felt = number_vector(obs, self.numbers)
        hand = self.hand_limits.normalize(felt)
        known = [hand]
        if self.use_object:
            known.append(self.object_limits.normalize(object_vector(obs)))
        seen: list[Tensor] = []
        maps: list[Tensor] = []
        if len(self.joined) > 1:
            seen, maps = self.side_by_side(obs, offset)
        else:
            seen, maps = self.one_by_one(obs, offset)
        if self.pose_points:
            estimate = self.weigh(self.pose_head(torch.cat(seen, dim=-1)).float(), felt)
            return torch.cat(known + [estimate], dim=-1), maps
        if self.has_pose_head:  # the estimate is to come from the images, whatever is known
            seen.append(self.pose_head(torch.cat([hand] + seen, dim=-1)).float())
        return torch.cat(known + seen, dim=-1), maps

    def one_by_one(self, obs: dict[str, Tensor], offset: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What each encoder sees, and with `pose_points` its logits."""
        seen: list[Tensor] = []
        maps: list[Tensor] = []
        for i, encoder in enumerate(self.vision):
            image = obs[self.cameras[i] + "_image"].permute(0, 3, 1, 2)  # channels last stays the layout in memory
            image = crop(image, offset, self.crop_size).float() * (2.0 / 255.0) - 1.0
            if self.pose_points:
                logits = encoder.logits(image)  # type: ignore[operator]
                maps.append(logits)
                seen.append(encoder.read(logits, offset))  # type: ignore[operator]
            else:
                seen.append(encoder(image, offset))
        return seen, maps

    def side_by_side(self, obs: dict[str, Tensor], offset: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The same by the `joined` layers, what is seen in one piece."""
        n = len(self.vision)
        images: list[Tensor] = []
        for i, _ in enumerate(self.vision):
            images.append(crop(obs[self.cameras[i] + "_image"].permute(0, 3, 1, 2), offset, self.crop_size))
        pictures = torch.cat(images, dim=1).contiguous(memory_format=torch.channels_last)
        logits = logits_side_by_side(pictures.float() * (2.0 / 255.0) - 1.0, self.joined, n)
        kinds = 3 if self.pose_points else 2
        read = torch.zeros(0)
        for i, encoder in enumerate(self.vision):
            if i == 0:  # they read alike
                read = encoder.read(logits, offset) if self.pose_points else encoder.locate(logits, offset)  # type: ignore[operator]
        seen = read.reshape(read.shape[0], kinds, n, read.shape[1] // (kinds * n)).transpose(1, 2).flatten(1)
        return [seen], list(logits.chunk(n, dim=1)) if self.pose_points else []

    def layers_side_by_side(self, reduced: bool) -> list[Tensor]:
        """What `joined` is in use: the small encoders' layers, in bfloat16 if they may be and were trained so. They lie
        in memory as the pictures do, channels last: else each use would make a copy of them that does."""
        joined: list[Tensor] = []
        for encoder in self.vision:
            layers: list[Tensor] = encoder.layers()  # type: ignore[operator]
            joined = [torch.cat([a, b]) for a, b in zip(joined, layers)] if len(joined) > 0 else layers  # noqa: B905
        kind = torch.bfloat16 if reduced and self.reduced else torch.float32
        used: list[Tensor] = []
        for layer in joined:
            layer = layer.detach().to(kind)
            used.append(layer.contiguous(memory_format=torch.channels_last) if layer.dim() == 4 else layer)
        return used

    def weigh(self, estimates: Tensor, hand: Tensor) -> Tensor:
        """One normalised pose (B, POSE_DIM) of two estimates, (B, 9) each, and their weights (B, 2).

        The first is in the world's frame, normalised; the second in the hand's, in units of `HAND_REACH` and 1. One
        weight is for the position, one for the rotation. hand (B, 9 or more) is :func:`number_vector`, the hand first.
        """
        at, first, second = hand[:, :3], hand[:, 3:6], hand[:, 6:9]
        turn = torch.stack([first, second, torch.linalg.cross(first, second)], dim=2)  # columns; hand to world
        world = self.object_limits.unnormalize(torch.cat([estimates[:, :9], estimates[:, :3]], dim=-1))
        position = at + self.hand_reach * rotate(turn, estimates[:, 9:12])
        rotation = torch.cat([rotate(turn, estimates[:, 12:15]), rotate(turn, estimates[:, 15:18])], dim=-1)
        weight = torch.sigmoid(estimates[:, 18:20])
        position = position + weight[:, :1] * (world[:, :3] - position)
        rotation = rotation + weight[:, 1:] * (world[:, 3:9] - rotation)
        return self.object_limits.normalize(torch.cat([position, rotation, position - at], dim=-1))


class DiffusionPolicy(nn.Module):
    """Denoises (B, rows, A) action chunks, conditioned on the features of n_obs_steps frames.

    Two ways to condition. "observation": features are the denoiser's condition. "inpainting": actions and features
    diffuse together as rows (A + F); the features of the first n_obs_steps rows are known and are written back before
    each step and at the end, and the loss leaves them out (Chi et al. 2023; Janner et al. 2022).

    Rows: 0 is the action of the oldest observed frame, unless `action_steps_only`: then it is that of the newest, and
    no action of the past is generated.

    A chunk that comes late goes on from rows that will be executed before it does. With `max_delay` the network was
    trained for that: the first rows may be known, up to max_delay of those that follow the newest observation; they are
    written back like features, and a channel of the denoiser's input says which they are (Black et al. 2025,
    arXiv 2512.05964). Without it, sampling is pulled towards them (`pulled`).
    """

    def __init__(
        self,
        encoder: ObservationEncoder,
        denoiser: nn.Module,
        schedule: NoiseSchedule,
        action_limits: LimitsNormalizer,
        n_obs_steps: int,
        rows: int,
        conditioning: str = "observation",
        action_steps_only: bool = False,
        sampler: str = "ddim",
        max_delay: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.denoiser = denoiser
        self.schedule = schedule
        self.action_limits = action_limits
        self.n_obs_steps = n_obs_steps
        self.rows = rows
        self.inpainting = conditioning == "inpainting"
        self.action_dim = int(action_limits.scale.shape[0])
        self.width = self.action_dim + (encoder.out_dim if self.inpainting else 0)
        self.first_row = 0 if action_steps_only else n_obs_steps - 1
        self.sampler = sampler
        self.max_delay = max_delay
        self.max_known = self.first_row + max_delay if max_delay else 0
        """Rows of a chunk that may be known, from the first on."""
        self.max_pull = MAX_PULL

    def forward(self, obs: dict[str, Tensor], seed: int, steps: int) -> Tensor:
        """obs name -> (B, n_obs_steps, ...); returns (B, rows from the newest observation on, A)."""
        features: list[Tensor] = []
        for i in range(self.n_obs_steps):
            frame: dict[str, Tensor] = {}
            for name, value in obs.items():
                frame[name] = value[:, i]
            features.append(self.encode(frame))
        return self.sample(torch.stack(features, dim=1), seed, steps)

    @exported
    def layers_side_by_side(self, reduced: bool) -> list[Tensor]:
        """What is written to the encoder's `joined` once after loading. reduced: whether bfloat16 is quick here."""
        return self.encoder.layers_side_by_side(reduced)

    @exported
    def encode(self, obs: dict[str, Tensor]) -> Tensor:
        """Features (B, F) of single frames: obs name -> (B, ...), images (B, H, W, 3) uint8."""
        hand = obs[self.encoder.numbers[0]]
        offset = centre_offset(hand.shape[0], self.encoder.image_size, self.encoder.crop_size, hand.device)
        features: Tensor = self.encoder(obs, offset)
        return features

    @exported
    def sample(self, features: Tensor, seed: int, steps: int) -> Tensor:
        """Chunks (B, rows from the newest observation on, A) of whatever kind the actions are, in metres and radians.

        features (B, n_obs_steps, F), the oldest first. `seed` decides the noise, `steps` how many denoising steps.
        """
        executed = torch.zeros([features.shape[0], self.rows, self.action_dim], device=features.device)
        return self.sample_after(features, executed, executed[..., 0], seed, steps)

    @exported
    def sample_after(self, features: Tensor, executed: Tensor, weights: Tensor, seed: int, steps: int) -> Tensor:
        """The same, of chunks that go on from rows which are executed anyway.

        Args:
            features: (B, n_obs_steps, F).
            executed: (B, rows, A) in metres and radians, the first row that of the chunk's first (`first_row`).
            weights: (B, rows) from 0 to 1, how much of a row is known. With max_delay rows of weight 1 are, the first
                max_known at most, and the others are not.
        """
        n = features.shape[0]
        generator = torch.Generator(device=features.device)
        generator.manual_seed(seed)
        x = torch.randn([n, self.rows, self.width], generator=generator, device=features.device)
        cond = features[:, :0] if self.inpainting else features
        executed = self.action_limits.normalize(executed)
        known, mask = self.known(features, executed, weights)
        pull = self.max_delay == 0 and bool(weights.any())
        visited = self.schedule.timesteps(steps)
        for i in range(steps):
            x = torch.where(mask, known, x)
            t, previous = visited[i], visited[i + 1] if i + 1 < steps else -1
            at = torch.full([n], t, dtype=torch.int64, device=x.device)
            output = self.pulled(x, at, cond, executed, weights) if pull else self.predict(x, at, cond, mask)
            if self.sampler == "ddim":
                x = self.schedule.ddim_step(output, x, t, previous)
            else:
                noise = torch.randn([n, self.rows, self.width], generator=generator, device=x.device)
                x = self.schedule.ddpm_step(output, x, t, previous, noise)
        x = torch.where(mask, known, x)
        return self.action_limits.unnormalize(x[:, self.first_row :, : self.action_dim])

    def known(self, features: Tensor, executed: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """What of a trajectory is known, normalised, and where, (B, rows, width) both: the observed features where they
        are part of it, and rows that are executed anyway, (B, rows, A) with weights (B, rows)."""
        n = executed.shape[0]
        known, mask = executed, torch.zeros([n, self.rows, self.action_dim], dtype=torch.bool, device=executed.device)
        if self.max_known > 0:
            rows = torch.arange(self.rows, device=executed.device) < self.max_known
            mask = ((weights >= 1.0) & rows)[:, :, None].expand(-1, -1, self.action_dim)
        if self.inpainting:
            observed = torch.zeros([n, self.rows, self.width - self.action_dim], device=executed.device)
            observed[:, : self.n_obs_steps] = features
            seen = torch.zeros_like(observed, dtype=torch.bool)
            seen[:, : self.n_obs_steps] = True
            known, mask = torch.cat([known, observed], dim=-1), torch.cat([mask, seen], dim=-1)
        return known, mask

    def predict(self, x: Tensor, t: Tensor, cond: Tensor, mask: Tensor) -> Tensor:
        """The denoiser's output (B, rows, width) at x (B, rows, width), in which the known is written, and t (B,)."""
        if self.max_known > 0:
            x = torch.cat([x, mask[:, :, :1].to(x.dtype)], dim=-1)
        output: Tensor = self.denoiser(x, t, cond)
        return output

    def pulled(self, x: Tensor, t: Tensor, cond: Tensor, executed: Tensor, weights: Tensor) -> Tensor:
        """The denoiser's output, so that the clean chunk which it implies comes nearer to rows that are executed.

        Guidance by the gradient of the weighted distance (Song et al. 2023, PiGDM; Black et al. 2025, arXiv 2506.07339,
        equations 2 to 4), which say for flows: v + min(beta, (1 - tau) / (tau r^2)) J^T W (Y - x_1), r^2 =
        (1 - tau)^2 / (tau^2 + (1 - tau)^2). With x = sqrt(abar) x_0 + sqrt(1 - abar) epsilon that is
        x_0 + min(1 / sqrt(abar), beta sqrt(1 - abar)) J^T W (Y - x_0), J the derivative of x_0 by x.
        """
        alpha_bar = self.schedule.alphas_cumprod[t[0]]
        x = x.detach().requires_grad_(True)
        x0 = self.schedule.predict_x0(self.denoiser(x, t, cond), x, t)
        away = (weights[:, :, None] * (executed - x0[..., : self.action_dim].clamp(-1.0, 1.0))).detach()
        gradient = torch.autograd.grad([(away * x0[..., : self.action_dim]).sum()], [x])[0]
        x0 = x0.detach().clamp(-1.0, 1.0)
        if gradient is not None:
            strength = torch.minimum(1.0 / alpha_bar.sqrt(), self.max_pull * (1.0 - alpha_bar).sqrt())
            x0 = x0 + strength * gradient
        if self.schedule.prediction_type == "sample":
            return x0
        return (x.detach() - alpha_bar.sqrt() * x0) / (1.0 - alpha_bar).sqrt()


class PolicyLoss(nn.Module):
    """The training objective, as a module so that several processes share its gradients."""

    def __init__(self, policy: DiffusionPolicy, certain_rows: bool = False) -> None:
        """certain_rows: rows after one that was executed otherwise than its label, and is not known, are left out: what
        is right there follows from a deviation that nobody could foresee."""
        super().__init__()
        self.policy = policy
        self.certain_rows = certain_rows

    def forward(
        self,
        features: Tensor,
        actions: Tensor,
        valid: Tensor,
        noise: Tensor,
        t: Tensor,
        executed: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the denoiser's prediction (Chi et al. 2023, equation 5).

        features (B, To, F), or (B, rows, F) to be inpainted; actions (B, rows, A) in metres, radians; valid (B, rows)
        bool, False where the episode was over; noise (D, B, rows, width) and t (D, B) int64: D draws of noise for each
        sample, so that what an image costs to encode serves several denoising steps. Of the first known (B) rows the
        network is given what was executed (B, rows, A), and the loss leaves them out (arXiv 2512.05964). Returns a
        scalar.
        """
        policy = self.policy
        x0 = policy.action_limits.normalize(actions)
        cond = features
        # As in the paper's code the features are data here: through them the loss could be made zero by features that
        # say nothing.
        observed = features.detach()[:, : policy.n_obs_steps]
        given, weights = x0, torch.zeros_like(x0[..., 0])
        if executed is not None and known is not None:
            given = policy.action_limits.normalize(executed)
            weights = first_rows(known, policy.rows)
            if self.certain_rows:
                strayed = (executed - actions).abs().amax(dim=2) > STRAYED
                strayed &= torch.arange(policy.rows, device=x0.device) >= known[:, None]
                before = torch.cumsum(strayed, dim=1) - strayed.long()
                valid = valid & (before == 0)
        given, mask = policy.known(observed, given, weights)
        if policy.inpainting:
            x0 = torch.cat([x0, features.detach()], dim=-1)
            cond = features[:, :0]
        weight = valid[:, :, None] & ~mask
        x0, given, cond = (repeat(v, "b rows f -> (draws b) rows f", draws=len(t)) for v in (x0, given, cond))
        mask, weight = (repeat(v, "b rows f -> (draws b) rows f", draws=len(t)) for v in (mask, weight.float()))
        noise, t = rearrange(noise, "draws b rows f -> (draws b) rows f"), rearrange(t, "draws b -> (draws b)")
        x = torch.where(mask, given, policy.schedule.q_sample(x0, noise, t))
        error = (policy.predict(x, t, cond, mask) - policy.schedule.target(x0, noise)) ** 2
        loss: Tensor = (error * weight).sum() / weight.sum()
        return loss


def first_rows(known: Tensor, rows: int) -> Tensor:
    """Weights (B, rows) as `DiffusionPolicy.known` takes them: 1 for the first known (B), 0 for the others."""
    return (torch.arange(rows, device=known.device) < known[:, None]).float()


def make_denoiser(kind: str, row_dim: int, rows: int, n_obs_steps: int, cond_dim: int, **options: Any) -> nn.Module:
    """A "transformer" or a "unet" for (B, rows, row_dim), conditions (B, n_obs_steps, cond_dim); 0 steps: none."""
    if kind == "transformer":
        return DiffusionTransformer(row_dim, cond_dim, rows, n_obs_steps, **options)
    return ConditionalUnet1d(row_dim, cond_dim * n_obs_steps, **options)
