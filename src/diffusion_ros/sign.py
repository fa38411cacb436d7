"""Signs checkpoints, so that a robot takes only those whose maker it knows.

    diffusion_ros sign --new-key private.pem          makes a key and prints the public one, for `trusted_keys`
    diffusion_ros sign --key private.pem policy.pt    signs a checkpoint as it is

Whoever has the private key can make checkpoints that the robot trusts: it belongs on the computer that trains, not on
the robot. Exit status 2 after one line on stderr for what cannot be done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.installation import explain
from diffusion_ros.sealed import signatures


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="diffusion_ros sign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--new-key", type=Path, metavar="FILE", help="writes a new private key, readable by you alone")
    what.add_argument("--key", type=Path, metavar="FILE", help="the private key to sign with")
    parser.add_argument("checkpoints", nargs="*", type=Path, metavar="CHECKPOINT")
    given = parser.parse_args(arguments)
    if bool(given.key) != bool(given.checkpoints):
        parser.error("checkpoints: some expected with --key, none with --new-key")
    try:
        if given.new_key:
            print(signatures.new_key(given.new_key))
        for path in given.checkpoints:
            checkpoint.sign(path, given.key)
            print(f"{path}: signed, SHA-256 {checkpoint.file_sha256(path)}")
    except FileExistsError:
        print(f"--new-key {given.new_key}: exists already, another name expected", file=sys.stderr)
        return 2
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(explain(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
