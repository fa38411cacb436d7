"""A TorchScript file's pickles, read without building anything: attributes of modules, and where tensors lie.

torch's own reader of them calls no Python, but it takes memory by numbers that stand in the file, and resolves classes
by name. Here each instruction is one of those that TorchScript writes, each name one of those that it knows, and each
tensor lies within its storage.
"""

from __future__ import annotations

import pickletools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_ros.sealed.refusal import Refusal, shown

MAX_TENSORS = 10_000
MAX_DEPTH = 64
"""Of containers in containers; those of modules in modules are as many."""
MAX_AXES = 8
ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1
}  # fmt: skip
"""Of the storages that a checkpoint may have: no quantised, sparse or complex ones."""
_LISTS = frozenset(f"torch.jit._pickle build_{kind}list" for kind in ("int", "double", "bool", "tensor"))
_TAG = "torch.jit._pickle restore_type_tag"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_HOOKS = "collections OrderedDict"
_TYPE = re.compile(r"[A-Za-z0-9_, .\[\]]{1,200}")
_CLASS = re.compile(r"__torch__(\.[A-Za-z_][A-Za-z0-9_]*)* [A-Za-z_][A-Za-z0-9_]*")
_INTEGERS = ("BININT", "BININT1", "BININT2", "LONG1")
_REST = "no pickle of TorchScript"


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    size: int


@dataclass
class _Made:
    """A container, an object or a tensor; `open` as long as something may be put into it."""

    kind: str
    items: list[Any]
    depth: int = 1
    open: bool = False


def check(entries: Mapping[str, bytes], pickle: str, folder: str) -> set[str]:
    """The dotted names of the classes that the pickle names. Raises Refusal.

    Args:
        entries: of the archive.
        pickle: the entry's name.
        folder: where its tensors are.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # for texts with escapes that are none
            return _Reader(entries, pickle, folder).read()
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, Warning) as error:
        if isinstance(error, Refusal):
            raise Refusal(f"{pickle}: {error}") from None
        raise Refusal(f"{pickle}: {_REST}") from None


class _Reader:
    def __init__(self, entries: Mapping[str, bytes], pickle: str, folder: str) -> None:
        self.entries, self.pickle, self.folder = entries, pickle, folder
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.classes: set[str] = set()
        self.tensors = 0

    def read(self) -> set[str]:
        content = self.entries[self.pickle]
        end = -1
        for op, argument, at in pickletools.genops(content):
            if end >= 0:
                break
            if op.name == "STOP":
                end = at or 0
                continue
            self.do(op.name, argument)
        if end != len(content) - 1 or len(self.stack) != 1 or self.marks:
            raise Refusal(_REST)
        return self.classes

    def do(self, op: str, argument: Any) -> None:
        stack = self.stack
        if op == "PROTO":
            if argument != 2:
                raise Refusal(f"protocol {shown(argument)}, 2 expected")
        elif op in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[op])
        elif op in _INTEGERS:
            if not -(2**63) <= argument < 2**63:
                raise Refusal(f"an integer of {argument.bit_length()} bits, at most 63 expected")
            stack.append(argument)
        elif op in ("BINFLOAT", "BINUNICODE"):
            stack.append(argument)
        elif op in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append(_Made("list" if op == "EMPTY_LIST" else "dict", [], open=True))
        elif op == "EMPTY_TUPLE":
            stack.append(_Made("tuple", []))
        elif op == "MARK":
            if len(self.marks) >= 4 * MAX_DEPTH:
                raise Refusal(f"nested deeper than {MAX_DEPTH}")
            self.marks.append(len(stack))
        elif op == "TUPLE":
            stack.append(self.made("tuple", self.marked()))
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(op[-1])
            items = [self.pop() for _ in range(size)][::-1]
            stack.append(self.made("tuple", items))
        elif op in ("APPENDS", "SETITEMS"):
            items = self.marked()
            into = stack[-1]
            kind = "list" if op == "APPENDS" else "dict"
            if not isinstance(into, _Made) or not into.open or into.kind != kind:
                raise Refusal(_REST)
            if kind == "dict" and len(items) % 2:
                raise Refusal(_REST)
            stack[-1] = self.made(kind, items)
        elif op in ("BINPUT", "LONG_BINPUT"):
            # torch makes its table as long as the number says.
            if argument != len(self.memo):
                raise Refusal(f"memory place {argument}, {len(self.memo)} expected")
            if isinstance(stack[-1], _Made) and stack[-1].open:
                stack[-1].open = False
            self.memo[argument] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif op == "GLOBAL":
            stack.append(self.name(argument))
        elif op == "BINPERSID":
            stack.append(self.storage(self.pop()))
        elif op == "NEWOBJ":
            arguments, name = self.pop(), self.pop()
            if not isinstance(name, _Name) or not name.text.startswith("__torch__") or self.items(arguments, "tuple"):
                raise Refusal(_REST)
            stack.append(_Made("new object", [name.text]))
        elif op == "BUILD":
            state, of = self.pop(), self.pop()
            if not isinstance(of, _Made) or of.kind != "new object":
                raise Refusal(_REST)
            keys = self.items(state, "dict")[::2]
            if not all(isinstance(key, str) for key in keys):
                raise Refusal(_REST)
            stack.append(self.made("object", [state]))
        elif op == "REDUCE":
            arguments, name = self.pop(), self.pop()
            if not isinstance(name, _Name):
                raise Refusal(_REST)
            stack.append(self.called(name.text, arguments))
        else:
            raise Refusal(f"instruction {op}, none of TorchScript's")

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise Refusal(_REST)
        return self.stack.pop()

    def marked(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def made(self, kind: str, items: list[Any]) -> _Made:
        for item in items:
            if isinstance(item, _Made):
                if item.kind == "new object":
                    raise Refusal(_REST)
                item.open = False
        depth = 1 + max((item.depth for item in items if isinstance(item, _Made)), default=0)
        if depth > 4 * MAX_DEPTH:
            raise Refusal(f"nested deeper than {MAX_DEPTH}")
        return _Made(kind, items, depth)

    @staticmethod
    def items(thing: Any, kind: str) -> list[Any]:
        if not isinstance(thing, _Made) or thing.kind != kind:
            raise Refusal(_REST)
        return thing.items

    def name(self, text: str) -> _Name:
        if _CLASS.fullmatch(text):
            self.classes.add(text.replace(" ", "."))
        elif text not in (*_LISTS, _TAG, _TENSOR, _HOOKS) and not self.is_storage(text):
            raise Refusal(f"the name {shown(text)!r}, none of TorchScript's")
        return _Name(text)

    @staticmethod
    def is_storage(text: str) -> bool:
        return text.startswith("torch ") and text[6:].removesuffix("Storage") in ITEM_BYTES and text.endswith("Storage")

    def storage(self, thing: Any) -> _Storage:
        word, name, key, device, size = self.items(thing, "tuple")
        if (word, type(key), type(device), type(size)) != ("storage", str, str, int) or not isinstance(name, _Name):
            raise Refusal(_REST)
        if not self.is_storage(name.text) or not re.fullmatch(r"(cpu|cuda(:[0-9]{1,3})?)", device):
            raise Refusal(f"a storage on {shown(device)!r}, cpu expected")
        entry = f"{self.folder}/{key}"
        if entry not in self.entries:
            raise Refusal(f"a tensor without its numbers, {shown(entry)}")
        kind = name.text[6:].removesuffix("Storage")
        if size < 0 or len(self.entries[entry]) != size * ITEM_BYTES[kind]:
            raise Refusal(f"{shown(entry)} of {len(self.entries[entry])} bytes, {size} numbers ({kind}) expected")
        return _Storage(kind, size)

    def called(self, name: str, arguments: Any) -> Any:
        given = self.items(arguments, "tuple")
        if name == _HOOKS:
            if given:
                raise Refusal(_REST)
            return _Made("hooks", [])
        if name in _LISTS:
            (values,) = given
            self.items(values, "list")
            return self.made("typed list", given)
        if name == _TAG:
            value, tag = given
            if not isinstance(tag, str) or not _TYPE.fullmatch(tag) or tag.count("[") > MAX_DEPTH:
                raise Refusal(f"the type {shown(tag)!r}, none that an attribute may have")
            self.classes.update(re.findall(r"__torch__[A-Za-z0-9_.]*", tag))
            if not isinstance(value, _Made) or value.kind not in ("list", "dict"):
                raise Refusal(_REST)
            return self.made("typed", [value])
        if name == _TENSOR:
            return self.tensor(given)
        raise Refusal(_REST)

    def tensor(self, given: list[Any]) -> _Made:
        storage, offset, sizes, strides, gradient, hooks = given
        self.items(hooks, "hooks")
        shape, steps = self.items(sizes, "tuple"), self.items(strides, "tuple")
        if not isinstance(storage, _Storage) or not isinstance(gradient, bool):
            raise Refusal(_REST)
        if len(shape) != len(steps) or any(type(n) is not int or n < 0 for n in (offset, *shape, *steps)):
            raise Refusal(_REST)
        if len(shape) > MAX_AXES:
            raise Refusal(f"a tensor of {len(shape)} axes, at most {MAX_AXES} expected")
        numbers = 1
        for n in shape:
            numbers *= n
        last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if numbers else offset - 1
        if numbers > storage.size or last >= max(storage.size, 1):
            raise Refusal(f"a tensor of shape {shown(shape)}, beyond its {storage.size} numbers")
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            raise Refusal(f"more than {MAX_TENSORS} tensors")
        return _Made("tensor", [])
