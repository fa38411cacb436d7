"""Who made a checkpoint: Ed25519 signatures (RFC 8032) in the file, over all of its entries.

A signature says that somebody who has the private key made the file, and that nothing in it was changed. It does not
say that the policy is good.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_ros.sealed.archive import MAX_SMALL, SIGNATURE, Archive
from diffusion_ros.sealed.refusal import Refusal, shown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_VARIABLE = "DIFFUSION_ROS_SIGNING_KEY"
"""The environment variable that names the private key's file, where none is given."""


def new_key(path: Path) -> str:
    """Writes a new private key, readable by its owner alone, and returns the public one. Raises OSError, also where
    there is a file already."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(text)
    return _text(key.public_key())


def private_key(path: Path | str) -> Ed25519PrivateKey:
    """The key in a PEM file. Raises Refusal for a file without one."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise Refusal(f"the key {path}: {error.strerror}") from None
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        raise Refusal(f"the key {path}: no private key in PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Refusal(f"the key {path}: another kind of key, Ed25519 expected")
    return key


def signed(archive: Archive, key: Path | str | None) -> dict[str, bytes]:
    """The archive's entries with a signature by the key, or without any. Raises Refusal."""
    entries = {name: content for name, content in archive.entries.items() if name != SIGNATURE}
    key = key or os.environ.get(KEY_VARIABLE) or None
    if key is None:
        return entries
    private = private_key(key)
    made = {
        "public_key": _text(private.public_key()),
        "signature": base64.b64encode(private.sign(archive.digest())).decode(),
    }
    return entries | {SIGNATURE: json.dumps(made).encode()}


def verified(archive: Archive, trusted: Sequence[str]) -> str:
    """The trusted key that the archive is signed with; '' where nobody need be trusted. Raises Refusal.

    trusted: public keys, each as base64 or the path of a file that holds one so or in PEM.
    """
    keys = {_text(key): key for key in map(public_key, trusted)}
    if not keys:
        return ""
    if SIGNATURE not in archive.entries:
        raise Refusal("it is not signed, and only checkpoints signed by trusted_keys are used")
    try:
        if len(archive.entries[SIGNATURE]) > MAX_SMALL:
            raise ValueError
        said = json.loads(archive.entries[SIGNATURE])
        name, signature = str(said["public_key"]), base64.b64decode(said["signature"], validate=True)
    except (ValueError, TypeError, LookupError, RecursionError):
        raise Refusal("its signature is damaged") from None
    if name not in keys:
        raise Refusal(f"it is signed with the key {shown(name)}, none of trusted_keys")
    from cryptography.exceptions import InvalidSignature

    try:
        keys[name].verify(signature, archive.digest())
    except InvalidSignature:
        raise Refusal("it was changed after it was signed") from None
    return name


def public_key(text: str) -> Ed25519PublicKey:
    """A key from base64, or from a file. Raises Refusal."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        content = base64.b64decode(text, validate=True)
        if len(content) == 32:
            return Ed25519PublicKey.from_public_bytes(content)
    except (binascii.Error, ValueError):
        pass
    try:
        written = Path(text).read_bytes()
    except (OSError, ValueError):
        raise Refusal(f"trusted_keys: {shown(text)!r}, 32 bytes in base64 or a file with a key expected") from None
    try:
        if b"-----BEGIN" not in written:
            return Ed25519PublicKey.from_public_bytes(base64.b64decode(written.strip(), validate=True))
        key = serialization.load_pem_public_key(written)
    except (binascii.Error, ValueError):
        raise Refusal(f"trusted_keys: {shown(text)!r} holds no public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise Refusal(f"trusted_keys: {shown(text)!r} holds another kind of key, Ed25519 expected")
    return key


def _text(key: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives import serialization

    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode()
