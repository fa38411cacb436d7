"""Checkpoints that would act, hang, take all memory, or crash what reads them: made of an honest one by editing it."""

from __future__ import annotations

import functools
import io
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from fake_policy import save

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.sealed import trial
from tests.hostile.case import CANARY, Hostile

Entries = dict[str, bytes]
CODE = "code/__torch__/fake_policy.py"
SAMPLE = "    _5 = torch.mul((torch.size(features))[1], (torch.size(features))[2])\n"
"""The first line of `sample` in the honest checkpoint."""
SECONDS, MEMORY = 2.0, 1 << 30
"""Limits of a trial here, so that the table does not take an hour."""


@functools.cache
def honest() -> Entries:
    """The entries of a checkpoint that is used as it is."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(save(Path(folder) / "policy.pt")) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, entries: Entries, root: str = "archive") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"{root}/{name}", content)
    return path


def load(path: Path) -> None:
    """As a node does, with less patience."""
    torch.set_num_threads(1)
    tried = trial.remembered
    trial_ = functools.partial(trial.trial, seconds=SECONDS, memory=MEMORY)
    checkpoint.remembered = lambda key, work: trial_(work)
    try:
        checkpoint.load(path)
    finally:
        checkpoint.remembered = tried


def edited(change: Callable[[Entries], Entries]) -> Callable[[Path], None]:
    return lambda folder: load(write(folder / "policy.pt", change(dict(honest()))))


def line(text: str, before: str = "") -> Callable[[Entries], Entries]:
    """With another line at the start of `sample`, and other functions before the class."""

    def change(entries: Entries) -> Entries:
        code = entries[CODE].decode()
        assert SAMPLE in code
        lines = "".join(f"    {part}\n" for part in text.split("\n"))
        return entries | {CODE: (before + code.replace(SAMPLE, lines + SAMPLE)).encode()}

    return change


USED = "\nfeatures = torch.add(features, torch.mul(torch.sum(e), 0.))"
"""What was not used would be left out."""
OPERATORS = {
    "torch.from_file writes": f'e = torch.from_file("{CANARY}", True, 1024, dtype=6)' + USED,
    "torch.from_file reads": 'e = torch.from_file("/etc/passwd", False, 16, dtype=0)',
    "torch.save": f'torch.save([features], "{CANARY}")',
    "a method: from_file": f'e = (features).from_file("{CANARY}", True, 1024)',
    "by another name": f'f = torch.from_file\ne = f("{CANARY}", True, 1024)',
    "getattr(torch, ...)": f'e = getattr(torch, "from_file")("{CANARY}", True, 16)',
    "ops.aten.from_file": f'e = ops.aten.from_file("{CANARY}", True, 1024)',
    "print": "print(features)",
    "ops.prim.Print": "ops.prim.Print(features)",
    "torch.warn": 'torch.warn("hello", 2)',
    "warnings without end": 'for i in range(100000):\n  torch.warn("hello", 2)',
    "profiler, enter": 'h = ops.profiler._record_function_enter("x", None)',
    "profiler, new": 'h = ops.profiler._record_function_enter_new("x", None)',
    "time": "t = torch.time()",
    "the process's seed": "e = torch.manual_seed(0)",
    "noise without a generator": "features = torch.add(features, torch.sum(torch.randn([3])))",
    "memory not written yet": "e = torch.empty([1000])",
    "memory beyond a tensor": "e = torch.as_strided(features, [1000], [1])",
    "resize_": "e = torch.resize_(features, [1000])",
    "set_": "e = torch.set_(features, features)",
    "an address": "e = (features).data_ptr()",
    "another thread": "e = fork(self.encode, annotate(Dict[str, Tensor], {}))",
    "another process": 'e = ops.prim.rpc_async("x", "y", (1,))',
    "gradients for all": "torch.set_grad_enabled(True)",
    "threads for all": "torch.set_num_threads(64)",
    "exec": "exec(\"open('canary', 'w')\")",
    "__import__": '__import__("os").system("touch canary")',
    "import": "import os",
    "a class of torch's own": "e = __torch__.torch.classes.profiling.SourceStats()",
    "another file's class": "e = __torch__.other.Thing()",
    "remembers": "self.n_rows = 5",
    "a library that is loaded": 'ops.load_library("canary.so")',
    "sparse tensors": "e = torch.sparse_coo_tensor([1000000, 1000000])",
    "del": "del features",
    "a constant that is not there": "e = CONSTANTS.c7",
}
LENGTH = "\ne = torch.tensor(torch.len(s))"
SLOW = {
    "while True": "while True:\n  seed = seed",
    "a loop of 2**62 rounds": "for i in range(4611686018427387904):\n  pass",
    "a loop of steps * 10**12 rounds": (
        "for i in range(torch.mul(torch.mul(steps, 1000000), 1000000)):\n  features = torch.sin(features)"
    ),
    "loops in loops": (
        "for i in range(99999):\n  for j in range(99999):\n    for k in range(99999):\n"
        "      features = torch.sin(features)"
    ),
    "a tensor of 8 TiB": "e = torch.zeros([1024, 1024, 1024, 2048])" + USED,
    "a tensor of 8 TiB, expanded": "e = torch.contiguous(torch.expand(torch.ones([1]), [2199023255552]))" + USED,
    "lists that double": "l = [1.]\nfor i in range(60):\n  l = torch.add(l, l)\ne = torch.tensor(l)" + USED,
    "texts that double": 's = "x"\nfor i in range(60):\n  s = torch.add(s, s)' + LENGTH + USED,
    "texts by format": 's = "x"\nfor i in range(60):\n  s = torch.format("{}{}", s, s)' + LENGTH + USED,
    "functions that double": "features = __torch__.fake_policy.f40(features)",
    "calls itself": "features = __torch__.fake_policy.f(features)",
    "an exception of many lines": 'ops.prim.RaiseException("a\\nb\\n")',
    "an exception of a million letters": (
        's = "x"\nfor i in range(20):\n  s = torch.add(s, s)\nops.prim.RaiseException(s)'
    ),
    "a division of integers by 0": ("e = torch.floordiv(seed, torch.mul(seed, 0))\nfeatures = torch.add(features, e)"),
}
FUNCTIONS = (
    "def f(x: Tensor) -> Tensor:\n  return __torch__.fake_policy.f(x)\n"
    "def f0(x: Tensor) -> Tensor:\n  return torch.sin(x)\n"
) + "".join(
    f"def f{i}(x: Tensor) -> Tensor:\n"
    f"  return torch.add(__torch__.fake_policy.f{i - 1}(x), __torch__.fake_policy.f{i - 1}(x))\n"
    for i in range(1, 41)
)
"""One that calls itself, and 40 of which each calls the one before twice."""
METHODS = {
    "__setstate__": "  def __setstate__(self: __torch__.fake_policy.FakePolicy, state: int) -> None:\n    pass\n",
    "__getstate__": "  def __getstate__(self: __torch__.fake_policy.FakePolicy) -> int:\n    return 1\n",
    "an operator's name": (
        "  def from_file(self: __torch__.fake_policy.FakePolicy, x: Tensor) -> Tensor:\n"
        f'    return x.from_file("{CANARY}", True, 16)\n'
    ),
}


def _code(text: bytes) -> Callable[[Entries], Entries]:
    return lambda entries: entries | {CODE: text}


def _method(text: str) -> Callable[[Entries], Entries]:
    def change(entries: Entries) -> Entries:
        code = entries[CODE].decode()
        at = code.index("  def encode(")
        return entries | {CODE: (code[:at] + text + code[at:]).encode()}

    return change


def _replaced(old: str, new: str) -> Callable[[Entries], Entries]:
    def change(entries: Entries) -> Entries:
        code = entries[CODE].decode()
        assert old in code
        return entries | {CODE: code.replace(old, new, 1).encode()}

    return change


WRITTEN: dict[str, Callable[[Entries], Entries]] = {
    "calls in calls": line("e = " + 150 * "torch.neg(" + "1" + 150 * ")"),
    "a million parentheses": line("e = " + 1_000_000 * "(" + "1" + 1_000_000 * ")"),
    "minus of minus": line("e = " + 50_000 * "-" + "1"),
    "blocks in blocks": line("\n".join("  " * i + "if True:" for i in range(90)) + "\n" + "  " * 90 + "e = 1"),
    "dots without end": line("e = self" + 5000 * ".a"),
    "an integer of 4,000 digits": line("e = 1" + 4000 * "0"),
    "an infinite number": line("e = 1e999"),
    "letters beyond ASCII": line('e = "\u202eabc"'),
    "a name beyond ASCII": line("\uff54orch.from_file = 1"),
    "bytes that are no text": _code(b"\xff\xfe\x00"),
    "a null character": _code(b"class A(Module):\n  pass\n\x00"),
    "a lambda": line("e = lambda x: x"),
    "a comprehension": line("e = [i for i in range(10)]"),
    "a walrus": line("(e := torch.from_file)"),
    "a text with code": line('e = f"{features}"'),
    "code in the file's body": lambda entries: entries | {CODE: b"torch.save([], 'canary')\n" + entries[CODE]},
    "a decorator": _replaced("  def encode(", "  @torch.save\n  def encode("),
    "a default that acts": _replaced("steps: int) -> Tensor", f'steps: int = torch.save([], "{CANARY}")) -> Tensor'),
    "an annotation that acts": _replaced("n_rows : int", f'n_rows : torch.save([], "{CANARY}")'),
    "hooks": _replaced("  gain : Tensor", '  __forward_pre_hooks__ = ["encode", ]\n  gain : Tensor'),
    "an interface": _replaced("class FakePolicy(Module)", "class FakePolicy(Interface)"),
    "a class without a base": _replaced("class FakePolicy(Module)", "class FakePolicy"),
    "another parser's comment": line('e = "\\\n# " ; e = torch.from_file("canary", True, 10) # "'),
}


def _pickle(content: bytes) -> Callable[[Entries], Entries]:
    return lambda entries: entries | {"data.pkl": content}


def _in_pickle(old: bytes, new: bytes) -> Callable[[Entries], Entries]:
    def change(entries: Entries) -> Entries:
        assert old in entries["data.pkl"]
        return entries | {"data.pkl": entries["data.pkl"].replace(old, new, 1)}

    return change


SIZE = b"(K\x07t(K\x01t"
"""Of the one tensor: its shape (7,) and its stride (1,)."""
PICKLES: dict[str, Callable[[Entries], Entries]] = {
    "os.system": _pickle(b"\x80\x02cposix\nsystem\n(X\x0c\x00\x00\x00touch canarytR."),
    "builtins.exec": _pickle(b"\x80\x02c__builtin__\nexec\n(X\x01\x00\x00\x001tR."),
    "of protocol 4": _pickle(b"\x80\x04\x95\x01\x00\x00\x00\x00\x00\x00\x00N."),
    "a class that is not there": _in_pickle(b"c__torch__.fake_policy\nFakePolicy\n", b"c__torch__.other\nFakePolicy\n"),
    "torch's own classes": _in_pickle(b"c__torch__.fake_policy\n", b"c__torch__.torch.classes.quantized\n"),
    "memory place 4,294,967,295": _in_pickle(b"q\x00", b"r\xff\xff\xff\xff"),
    "a tensor larger than its numbers": _in_pickle(SIZE, b"(K\xfft(K\x01t"),
    "a tensor expanded without end": _in_pickle(SIZE, b"(J\xff\xff\xff\x7ft(K\x00t"),
    "a negative stride": _in_pickle(SIZE, b"(K\x07t(J\xff\xff\xff\xfft"),
    "100,000 lists in lists": _pickle(b"\x80\x02" + 100_000 * b"(" + b"N" + 100_000 * b"t" + b"."),
    "100,000 tuples in tuples": _pickle(b"\x80\x02N" + 100_000 * b"\x85" + b"."),
    "a text with an escape that is none": _pickle(b"\x80\x02S'\\d'\n."),
    "an empty stack": _pickle(b"\x80\x02R."),
    "nothing": _pickle(b""),
    "no end": lambda e: e | {"data.pkl": e["data.pkl"][:-1]},
    "more after its end": lambda e: e | {"data.pkl": e["data.pkl"] + b"N."},
    "a text of 4 GiB": _pickle(b"\x80\x02X\xff\xff\xff\xffabc."),
    "a type with code": _pickle(b"\x80\x02ctorch.jit._pickle\nrestore_type_tag\n(](etX\x08\x00\x00\x00List[(((\x86R."),
    "a quantised tensor": _in_pickle(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_qtensor\n"),
    "numbers that are not there": lambda e: {name: c for name, c in e.items() if name != "data/0"},
    "numbers cut short": lambda e: e | {"data/0": e["data/0"][:-1]},
    "constants that are no pickle": lambda e: e | {"constants.pkl": b"\x00"},
}


def _archive(write_: Callable[[Path], object]) -> Callable[[Path], None]:
    def use(folder: Path) -> None:
        path = folder / "policy.pt"
        write_(path)
        load(path)

    return use


def _twice(path: Path) -> None:
    import warnings

    write(path, honest())
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(f"archive/{CODE}", b"print(1)")


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(write(path, honest()), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/1", bytes(200 << 20))


def _patched(path: Path, central: int, size: int, value: int, local: int | None = None) -> None:
    """With another number in the central directory's records, and in the local ones."""
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x01\x02", central), (b"PK\x03\x04", local)):
        at = content.find(mark)
        while offset is not None and at >= 0:
            content[at + offset : at + offset + size] = struct.pack("<" + {2: "H", 4: "I"}[size], value)
            at = content.find(mark, at + 4)
    path.write_bytes(content)


def _flagged(central: int, size: int, value: int, local: int | None = None) -> Callable[[Path], None]:
    return lambda path: _patched(write(path, honest()), central, size, value, local)


def _cut(part: float) -> Callable[[Path], None]:
    def use(path: Path) -> None:
        content = write(path, honest()).read_bytes()
        path.write_bytes(content[: int(len(content) * part)])

    return use


def _with(more: Entries) -> Callable[[Path], None]:
    return lambda path: write(path, honest() | more) and None


def _pickled(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


def _sized(path: Path) -> None:
    """A file of 5 GiB that takes no place."""
    with path.open("wb") as file:
        file.truncate(5 << 30)


ARCHIVES: dict[str, Callable[[Path], object]] = {
    "no file": lambda path: None,
    "a folder": Path.mkdir,
    "a pipe that nobody writes to": os.mkfifo,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
    "empty": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text("hello\n"),
    "5 GiB": _sized,
    "cut in the middle": _cut(0.5),
    "cut by a byte": _cut(0.9999),
    "a pickle of weights": _pickled,
    "an entry twice": _twice,
    "two folders": lambda path: zipfile.ZipFile(write(path, honest()), "a").writestr("other/data.pkl", b""),
    "a bomb": _bomb,
    "a path out of the archive": _with({"../../canary": b"x"}),
    "a path with control characters": _with({"a\n\x1b[31mb": b"x"}),
    "30,000 entries": _with({f"data/{i}": b"" for i in range(1, 30_000)}),
    "code of 20 MB": _with({"code/__torch__/b.py": b"#" * 20_000_000}),
    "encrypted": _flagged(8, 2, 1, 6),
    "packed in an unknown way": _flagged(10, 2, 77, 8),
    "packed, but it is not": _flagged(10, 2, 8, 8),
    "sizes of 4 GiB": _flagged(24, 4, 0xFFFFFFFE),
    "another checksum": _flagged(16, 4, 12345),
    "entries beyond the file": _flagged(42, 4, 0x7FFFFFFF),
    "no code": lambda path: write(path, {n: c for n, c in honest().items() if not n.startswith("code/")}),
    "no pickle": lambda path: write(path, {n: c for n, c in honest().items() if n != "data.pkl"}),
    "no version": lambda path: write(path, {n: c for n, c in honest().items() if n != "version"}),
    "a version of the future": _with({"version": b"99999\n"}),
    "a version that is none": _with({"version": b"x" * 4000}),
    "other bytes first": _with({"byteorder": b"sideways"}),
}


def _signed(change: Callable[[Path, str], str]) -> Callable[[Path], None]:
    """A checkpoint of somebody, where `change` says whom is trusted."""

    def use(folder: Path) -> None:
        from diffusion_ros.sealed import signatures

        path = write(folder / "policy.pt", honest())
        trusted = signatures.new_key(folder / "key.pem")
        checkpoint.sign(path, folder / "key.pem")
        checkpoint.load(path, trusted_keys=[change(path, trusted)])

    return use


def _resigned(path: Path, trusted: str) -> str:
    from diffusion_ros.sealed import signatures

    signatures.new_key(path.parent / "other.pem")
    checkpoint.sign(path, path.parent / "other.pem")
    return trusted


def _changed(change: Callable[[Entries], Entries]) -> Callable[[Path, str], str]:
    def use(path: Path, trusted: str) -> str:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        write(path, change(entries))
        return trusted

    return use


SIGNATURES: dict[str, Callable[[Path, str], str]] = {
    "another's key": _resigned,
    "none": _changed(lambda e: {name: content for name, content in e.items() if "signature" not in name}),
    "other weights": _changed(lambda e: e | {"data/0": bytes(28)}),
    "another specification": _changed(lambda e: e | {"extra/spec.json": e["extra/spec.json"].replace(b"0.5", b"5.0")}),
    "another entry": _changed(lambda e: e | {"extra/more.txt": b"x"}),
    "no JSON": _changed(lambda e: e | {"extra/signature.json": b"{"}),
    "JSON of another form": _changed(lambda e: e | {"extra/signature.json": b'{"public_key": [], "signature": 1}'}),
    "a key that is none": lambda path, trusted: "hello",
    "a key's file that is none": lambda path, trusted: str(path),
    "a key with a null character": lambda path, trusted: "a\0b",
}


def cases() -> list[Hostile]:
    refuses = (CheckpointError,)
    rooms: list[tuple[str, dict[str, Callable[[Entries], Entries]]]] = [
        ("operator", {name: line(text) for name, text in OPERATORS.items()}),
        ("behaviour", {name: line(text, FUNCTIONS) for name, text in SLOW.items()}),
        ("method", {name: _method(text) for name, text in METHODS.items()}),
        ("code", WRITTEN),
        ("pickle", PICKLES),
    ]
    return [
        *(Hostile(kind, name, edited(change), refuses) for kind, made in rooms for name, change in made.items()),
        *(Hostile("archive", name, _archive(write_), refuses) for name, write_ in ARCHIVES.items()),
        *(Hostile("signature", name, _signed(change), refuses) for name, change in SIGNATURES.items()),
    ]
