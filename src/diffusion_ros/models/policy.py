"""Policy: a loaded policy checkpoint behind numpy. One frame in, features out; features in, a chunk's rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.action_kinds import absolute_from, forward, relative_to, rotation_from_6d, with_rotations_6d
from diffusion_ros.models.kind import Checkpoint, Kind, check_rows, check_steps
from diffusion_ros.ranges import outside
from diffusion_ros.robot import ACTION_SIZE, EEF_POS, EEF_QUAT
from diffusion_ros.spec import CheckpointSpec, SpecError

if TYPE_CHECKING:
    import torch

_WARMING_CALLS = 3
"""torch looks at the first two, and compiles by what it saw."""


class FrameError(ValueError):
    """A frame that does not fit the checkpoint; one line that names the part and what was expected."""


class RangeError(FrameError):
    """A frame with a value far from all training data. Any answer of the policy would be a guess."""


class Policy:
    """Encoding and sampling are apart so that a frame, which is part of several windows, is encoded once."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.spec: CheckpointSpec = checkpoint.spec

    def check(self, frame: Mapping[str, NDArray[Any]]) -> None:
        """Raises FrameError for a missing part, another shape, an image that is not uint8, or a value not finite, and
        RangeError for one outside of the checkpoint's range."""
        for tensor in self.spec.inputs:
            value = frame.get(tensor.name)
            if value is None:
                raise FrameError(f"{tensor.name}: missing from the observation")
            if value.shape != tensor.shape:
                raise FrameError(f"{tensor.name}: shape {value.shape}, the checkpoint expects {tensor.shape}")
            if tensor.dtype == "uint8":
                if value.dtype != np.uint8:
                    raise FrameError(f"{tensor.name}: {value.dtype}, uint8 expected")
            elif not np.all(np.isfinite(value)):
                raise FrameError(f"{tensor.name}: {value.tolist()}, finite numbers expected")
        self.check_ranges(frame)

    def check_ranges(self, frame: Mapping[str, NDArray[Any]]) -> None:
        """Raises RangeError for a value outside of the checkpoint's range; what has none is not looked at."""
        for tensor in self.spec.inputs:
            if tensor.low and (wrong := outside(tensor.name, frame[tensor.name], tensor.low, tensor.high, tensor.unit)):
                raise RangeError(wrong)

    def encode(self, frame: Mapping[str, NDArray[Any]]) -> torch.Tensor:
        """Features (F,) float32 of one frame; see `check` for the errors."""
        self.check(frame)
        return self.encode_checked(frame)

    def encode_checked(self, frame: Mapping[str, NDArray[Any]]) -> torch.Tensor:
        """The same of a frame that `check` has let pass."""
        import torch

        inputs = {}
        for tensor in self.spec.inputs:
            # A copy: arrays that view a ROS message may be read-only, which torch warns about, and are not ours.
            value = np.array(frame[tensor.name], np.uint8 if tensor.dtype == "uint8" else np.float32)
            inputs[tensor.name] = torch.from_numpy(value)[None].to(self.checkpoint.device)
        with torch.inference_mode():
            features: torch.Tensor = self.checkpoint.module.encode(inputs)[0]
        return features

    def sample(
        self,
        features: Sequence[torch.Tensor],
        seed: int,
        steps: int | None = None,
        executed: NDArray[np.float64] | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Rows (n_rows, n) float64 of the checkpoint's kind (action_kinds) from n_obs_steps features, the oldest first.

        The seed alone decides the noise. steps: denoising steps, None for the spec's. executed (horizon, n): rows of
        the same kind that are executed before this chunk can be, from that of the oldest observation on; weights
        (horizon): 1 where such a row is certain, less where it is only likely, 0 where there is none.
        """
        import torch

        if len(features) != self.spec.n_obs_steps:
            raise FrameError(f"{len(features)} observation steps, the checkpoint expects {self.spec.n_obs_steps}")
        steps = self.spec.sampler_steps if steps is None else steps
        module, seen = self.checkpoint.module, torch.stack(list(features))[None]
        if executed is None or weights is None or not np.any(weights):
            with torch.inference_mode():
                rows: torch.Tensor = module.sample(seen, seed, steps)
            return rows[0].double().cpu().numpy()
        known, certain = (
            torch.from_numpy(np.array(values, np.float32))[None].to(self.checkpoint.device)
            for values in (executed, weights)
        )
        with torch.inference_mode(self.spec.max_delay > 0):  # what was not trained for it follows a gradient
            rows = module.sample_after(seen, known, certain, seed, steps)
        return rows[0].detach().double().cpu().numpy()

    def warm_up(self, goes_on: bool = False) -> None:
        """Lets torch compile what it compiles in the first calls, on observations of zeros; nothing that is sampled
        later changes. goes_on: what follows executed rows too, which takes longer where it was not trained."""
        import torch

        spec = self.spec
        for _ in range(_WARMING_CALLS):
            with torch.inference_mode():
                features = self.checkpoint.module.encode(_zeros(self.checkpoint))[0]
            self.sample([features] * spec.n_obs_steps, 0)
            if goes_on and self.goes_on:
                rows = np.zeros((spec.horizon, spec.action_format.checkpoint_width))
                self.sample([features] * spec.n_obs_steps, 0, executed=rows, weights=np.ones(spec.horizon))

    @property
    def goes_on(self) -> bool:
        """Whether it can be given rows that are executed before its chunk can be. Older checkpoints cannot."""
        return hasattr(self.checkpoint.module, "sample_after")

    def executable(self, rows: NDArray[np.float64], observed: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Rows (N, 7) that an executor understands, of what was sampled: deltas as they are, else poses in the policy's
        frame. observed: the newest frame that they were made from. Raises FrameError for a rotation that is none."""
        actions = self.spec.action_format
        if actions.kind == "delta":
            return rows
        if not np.all(np.isfinite(rows)):
            raise FrameError("the policy's chunk has NaN or infinite values")
        if actions.kind == "joint_positions":
            positions, rotations = forward(actions, rows[:, :-1])
            return np.concatenate((positions, rotations.as_rotvec(), rows[:, -1:]), axis=1)
        try:
            rotations = rotation_from_6d(rows[:, 3:9])
        except ValueError as error:
            raise FrameError(f"the policy's chunk has {error}") from None
        poses = np.concatenate((rows[:, :3], rotations.as_rotvec(), rows[:, 9:]), axis=1)
        if actions.kind == "relative_pose":
            hand = Rotation.from_quat(np.asarray(observed[EEF_QUAT], np.float64))
            poses = absolute_from(poses, np.asarray(observed[EEF_POS], np.float64), hand)
        return poses

    def restated(
        self, rows: NDArray[np.float64], then: Mapping[str, NDArray[Any]], now: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.float64]:
        """Rows (N, n) that were sampled from a window whose newest frame was `then`, as one of `now` would say them."""
        if self.spec.action_format.kind != "relative_pose":
            return rows
        poses = self.executable(rows, then)
        hand = Rotation.from_quat(np.asarray(now[EEF_QUAT], np.float64))
        seen = relative_to(poses, np.asarray(now[EEF_POS], np.float64), hand)
        return with_rotations_6d(seen)

    @property
    def row_kind(self) -> str:
        """Of `executable` rows: what ActionChunk.kind calls them."""
        actions = self.spec.action_format
        if actions.kind != "delta":
            return "pose"
        return "tool_delta" if actions.axes == "tool" else "delta"


def chunk_seed(policy_seed: int, stamp_ns: int) -> int:
    """The seed of the chunk made from the observation stamped so: below 2**63, the same everywhere, for ever.

    By the stamp and not by a counter, so that a policy that was restarted in mid-episode samples as the first would.
    """
    words = np.random.SeedSequence([policy_seed, stamp_ns % 2**64]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def _check(spec: CheckpointSpec) -> None:
    check_rows(spec, ACTION_SIZE)
    check_steps(spec)
    actions = spec.action_format
    width = actions.checkpoint_width
    if [(t.name, t.shape, t.dtype) for t in spec.outputs] != [("action", (width,), "float32")]:
        made = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in spec.outputs) or "none"
        raise SpecError(f"spec: outputs {made}, action float32 [{width}] alone expected in a policy")
    if actions.joints and not actions.chain:
        raise SpecError("spec: actions: joint_positions without a chain: nobody could tell where the hand goes")
    if actions.kind == "relative_pose" and not {EEF_POS, EEF_QUAT} <= set(spec.input_names):
        raise SpecError(f"spec: actions: relative_pose without {EEF_POS} and {EEF_QUAT} among the inputs")


def _zeros(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Observations of zeros, with a batch axis, by name."""
    import torch

    frame = {}
    for tensor in checkpoint.spec.inputs:
        dtype = torch.uint8 if tensor.dtype == "uint8" else torch.float32
        value = torch.zeros((1, *tensor.shape), dtype=dtype, device=checkpoint.device)
        if tensor.name.endswith("_quat"):
            value[:, 3] = 1
        frame[tensor.name] = value
    return frame


def _dry_run(checkpoint: Checkpoint) -> str:
    import torch

    spec = checkpoint.spec
    with torch.inference_mode():
        features = checkpoint.module.encode(_zeros(checkpoint))
        rows = checkpoint.module.sample(features[:, None].repeat(1, spec.n_obs_steps, 1), 0, spec.sampler_steps)
    expected = (1, spec.n_rows, spec.action_format.checkpoint_width)
    if tuple(rows.shape) != expected:
        return f"gives chunks of shape {tuple(rows.shape)}, its specification says {expected}"
    if not bool(rows.isfinite().all()):
        return "gives actions that are NaN or infinite"
    return ""


KIND = Kind("policy", _check, ("encode", "sample"), _dry_run, optional=("sample_after",))
"""encode(inputs by name, a batch axis first) gives features (B, F); sample(features (B, n_obs_steps, F), seed, steps)
gives rows (B, n_rows, n) float32 of the kind that the specification's `actions` say."""
