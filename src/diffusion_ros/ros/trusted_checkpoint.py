"""Parameters of every node that reads a checkpoint: whose it must be, and which file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusion_ros.ros.params import parameter


@dataclass(frozen=True, kw_only=True)
class TrustedCheckpoint:
    """What a node asks of its checkpoint before it reads anything else of it."""

    trusted_keys: tuple[str, ...] = parameter(
        (),
        "public keys (Ed25519), each in base64 or the path of a file: a checkpoint that none of them signed is refused;"
        " []: it need not be signed",
    )
    checkpoint_sha256: str = parameter(
        "", "SHA-256 that the checkpoint's file must have; '': any. The start-up command gives it to all nodes"
    )

    @property
    def trust(self) -> dict[str, Any]:
        """Arguments of checkpoint.load and read_spec."""
        return {"trusted_keys": self.trusted_keys, "sha256": self.checkpoint_sha256}


def identity(path: str, sha256: str, signer: str) -> str:
    """What a node logs of the checkpoint that it loaded."""
    return f"checkpoint {path}, SHA-256 {sha256}, {f'signed with {signer}' if signer else 'no signature asked for'}"
