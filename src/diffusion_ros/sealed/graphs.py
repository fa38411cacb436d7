"""The operators of everything that was compiled, compared with the list in `operators`. Nothing of it has run yet.

The sources were looked at by name before; here is what torch made of them, so that no name can mean another thing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diffusion_ros.sealed.operators import ATEN, PRIM, SEEDED
from diffusion_ros.sealed.refusal import Refusal, shown


def check(functions: Iterable[Any]) -> None:
    """Raises Refusal for the first operator that is not allowed. functions: TorchScript's, each with a graph."""
    for function in functions:
        # What makes an object of a class of the archive's; it is never called, as CreateObject is not allowed.
        makes = function.name == "__init__"
        blocks = [function.graph]
        while blocks:
            for node in blocks.pop().nodes():
                if not (makes and node.kind() == "prim::SetAttr"):
                    _check(node)
                blocks.extend(node.blocks())


def _check(node: Any) -> None:
    kind: str = node.kind()
    room, _, name = kind.partition("::")
    known = (room == "aten" and name in ATEN) or (room == "prim" and name in PRIM)
    if known and (name not in SEEDED or _has_generator(node)):
        return
    raise Refusal(f"the operator {shown(kind)}, none that a checkpoint may use")


def _has_generator(node: Any) -> bool:
    return any(str(value.type()) == "Generator" for value in node.inputs())
