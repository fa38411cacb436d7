"""An archive's TorchScript sources: parsed, compared with the list in `operators`, and written anew.

torch has a parser of its own for them. Where two parsers disagree, one could see a comment where the other sees a call.
So torch gets what is written here from what was understood here.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping

from diffusion_ros.sealed.operators import ATEN, BUILTINS, METHODS, PRIM
from diffusion_ros.sealed.refusal import Refusal, shown

MAX_DEPTH = 60
"""Of expressions in expressions and blocks in blocks: torch's parser calls itself for each."""
MAX_ROUNDS = 100_000
"""Of a loop whose number of rounds stands in the code."""
MAX_NODES = 1_000_000
_NODES = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.AnnAssign, ast.Assign, ast.Return, ast.For,
    ast.If, ast.While, ast.Pass, ast.Expr, ast.Call, ast.keyword, ast.Attribute, ast.Subscript, ast.Name, ast.Constant,
    ast.List, ast.Tuple, ast.Dict, ast.UnaryOp, ast.USub, ast.Load, ast.Store
)  # fmt: skip
_MADE = (ast.ClassDef, ast.FunctionDef)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TEXT = re.compile(r"[\x20-\x7e\n\t]*")
_ROOTS = frozenset({"torch", "ops", "CONSTANTS", "__torch__"})
_ASKED = frozenset({"__init__", "__len__", "__contains__", "__getitem__"})
"""Methods with underscores that only run where they are called: not __setstate__, which runs when a file is loaded."""
_CLASS_FIELDS = frozenset({"__parameters__", "__buffers__"})


def check(code: Mapping[str, bytes], classes: Iterable[str]) -> dict[str, bytes]:
    """The sources as torch may have them, by dotted name. Raises Refusal for the first thing that is not allowed.

    Args:
        code: sources by dotted name.
        classes: what the pickles name; each must be in the sources.
    """
    trees = {name: _parsed(name, source) for name, source in code.items()}
    nodes = 0
    for name, tree in trees.items():
        nodes += _check_nodes(name, tree)
        if nodes > MAX_NODES:
            raise Refusal(f"code of more than {MAX_NODES} parts")
    known = {f"{name}.{item.name}" for name, tree in trees.items() for item in tree.body if isinstance(item, _MADE)}
    own_methods = {item.name for tree in trees.values() for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)}
    for name in sorted(set(classes) - known):
        raise Refusal(f"the class {shown(name)} is not in its code")
    for name, tree in trees.items():
        _Names(name, known, own_methods).module(tree)
    return {name: (ast.unparse(tree) + "\n").encode() for name, tree in trees.items()}


def _parsed(name: str, source: bytes) -> ast.Module:
    try:
        text = source.decode("utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # for escapes that are none
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, Warning):
        raise Refusal(f"{shown(name)}: no TorchScript code") from None


def _check_nodes(name: str, tree: ast.Module) -> int:
    """How many there are, all of a kind that TorchScript writes. Without calling itself: depth is the file's choice."""
    count = 0
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise Refusal(f"{shown(name)}: code nested deeper than {MAX_DEPTH}")
        if isinstance(node, ast.While) and not _counts(node):
            raise Refusal(f"{shown(name)}: a `while`: nobody knows when it ends; a `for` is allowed")
        if not isinstance(node, _NODES):
            raise Refusal(f"{shown(name)}: {type(node).__name__}, which no TorchScript file has")
        _check_node(name, node)
        waiting.extend((child, depth + 1) for child in ast.iter_child_nodes(node))
    return count


def _check_node(name: str, node: ast.AST) -> None:
    for word in _words(node):
        if not _NAME.fullmatch(word):
            raise Refusal(f"{shown(name)}: the name {shown(word)!r}")
    if isinstance(node, ast.Constant):
        _check_constant(name, node)
    elif isinstance(node, (ast.Assign, ast.AnnAssign)) and getattr(node, "type_comment", None):
        raise Refusal(f"{shown(name)}: a comment that is a type")
    elif isinstance(node, (ast.For, ast.While)) and (node.orelse or getattr(node, "type_comment", None)):
        raise Refusal(f"{shown(name)}: a loop with else")
    elif isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call):
        raise Refusal(f"{shown(name)}: {type(node.value).__name__}, a call expected where a value is not used")
    elif (isinstance(node, ast.keyword) and node.arg is None) or (isinstance(node, ast.Dict) and None in node.keys):
        raise Refusal(f"{shown(name)}: **, which no TorchScript file has")
    elif isinstance(node, ast.arguments) and (node.posonlyargs or node.vararg or node.kwarg):
        raise Refusal(f"{shown(name)}: arguments that no TorchScript file has")
    elif isinstance(node, ast.FunctionDef) and node.decorator_list:
        raise Refusal(f"{shown(name)}: a decorator")
    elif isinstance(node, ast.ClassDef):
        bases = [base.id if isinstance(base, ast.Name) else "?" for base in node.bases]
        if node.decorator_list or node.keywords or bases not in ([], ["Module"]):
            raise Refusal(f"{shown(name)}: the class {shown(node.name)} of {shown(bases)}, a Module expected")


def _counts(loop: ast.While) -> bool:
    """Whether it is what TorchScript writes of a `for` with break or continue: the condition has `count + 1 < rounds`,
    `count` becomes `count + 1`, and nothing else changes `rounds`."""
    stored = [n.id for part in loop.body for n in ast.walk(part) if isinstance(n, ast.Name) and _is_stored(n)]
    values: dict[str, ast.expr] = {}
    for part in loop.body[:-1]:
        if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
            values[part.targets[0].id] = part.value
    last = loop.body[-1]
    if not isinstance(loop.test, ast.Name) or not isinstance(last, ast.Assign):
        return False
    targets, given = (part.elts if isinstance(part, ast.Tuple) else [part] for part in (last.targets[0], last.value))
    if len(targets) != len(given):
        return False
    becomes = {ast.unparse(target): ast.unparse(value) for target, value in zip(targets, given, strict=True)}
    condition = values.get(becomes.get(loop.test.id, ""))
    for count, more in becomes.items():
        if more not in values or ast.unparse(values[more]) != f"torch.add({count}, 1)":
            continue
        if not isinstance(condition, ast.Call) or ast.unparse(condition.func) != "torch.__and__":
            continue
        first = condition.args[0] if condition.args else None
        if not isinstance(first, ast.Call) or ast.unparse(first.func) != "torch.lt" or len(first.args) != 2:
            continue
        rounds = first.args[1]
        fixed = isinstance(rounds, ast.Constant) or (isinstance(rounds, ast.Name) and rounds.id not in stored)
        once = all(stored.count(name) == 1 for name in (count, more, loop.test.id, becomes[loop.test.id]))
        if ast.unparse(first.args[0]) == more and fixed and once:
            return True
    return False


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _words(node: ast.AST) -> Iterator[str]:
    for field in ("name", "id", "attr", "arg"):
        word = getattr(node, field, None)
        if isinstance(word, str):
            yield word


def _check_constant(name: str, node: ast.Constant) -> None:
    value = node.value
    if isinstance(value, str):
        if not _TEXT.fullmatch(value) or node.kind:
            raise Refusal(f"{shown(name)}: a text with characters beyond ASCII")
    elif isinstance(value, bool) or value is None:
        pass
    elif isinstance(value, int):
        if value > 2**63:  # of which the negative is the least of all
            raise Refusal(f"{shown(name)}: an integer of {value.bit_length()} bits")
    elif not isinstance(value, float) or value in (float("inf"), float("-inf")):
        raise Refusal(f"{shown(name)}: the constant {shown(value)}")


class _Names:
    """What a source names: its own variables, classes and functions of the archive, and what the list has."""

    def __init__(self, source: str, known: set[str], methods: set[str]) -> None:
        self.source, self.known, self.methods = shown(source), known, methods

    def module(self, tree: ast.Module) -> None:
        for item in tree.body:
            if isinstance(item, ast.ClassDef):
                self.class_(item)
            elif isinstance(item, ast.FunctionDef):
                self.function(item)
            else:
                raise Refusal(f"{self.source}: {type(item).__name__} outside of a class or function")

    def class_(self, made: ast.ClassDef) -> None:
        for item in made.body:
            if isinstance(item, ast.FunctionDef):
                self.function(item)
            elif isinstance(item, ast.AnnAssign):
                self.expression(item.annotation, frozenset())
                if item.value is not None:
                    self.expression(item.value, frozenset())
            elif isinstance(item, ast.Assign):
                self.field(item)
            elif not isinstance(item, ast.Pass):
                raise Refusal(f"{self.source}: {type(item).__name__} in a class")

    def field(self, item: ast.Assign) -> None:
        """`__parameters__ = [...]`, or `__annotations__["0"] = ...`."""
        (target,) = item.targets
        of = target.value if isinstance(target, ast.Subscript) else target
        word = of.id if isinstance(of, ast.Name) else "?"
        items = item.value.elts if isinstance(item.value, ast.List) else [item.value]
        names = all(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in items)
        if of is target and names and word in (*_CLASS_FIELDS, "__annotations__"):
            return
        if of is not target and word == "__annotations__":
            self.expression(item.value, frozenset())
            return
        raise Refusal(f"{self.source}: the field {shown(ast.unparse(target))}")

    def function(self, made: ast.FunctionDef) -> None:
        if made.name.startswith("__") and made.name not in _ASKED:
            raise Refusal(f"{self.source}: the method {shown(made.name)}, which is called without being asked")
        arguments = [*made.args.args, *made.args.kwonlyargs]
        bound = {argument.arg for argument in arguments}
        for node in ast.walk(made):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                bound.add(node.id)
        if taken := bound & (_ROOTS | {"print", "fork", "awaitable"}):
            raise Refusal(f"{self.source}: a variable {shown(min(taken))}")
        local = frozenset(bound)
        for argument in arguments:
            if argument.annotation is not None:
                self.expression(argument.annotation, frozenset())
        for default in [*made.args.defaults, *made.args.kw_defaults]:
            if default is not None:
                self.expression(default, frozenset())
        if made.returns is not None:
            self.expression(made.returns, frozenset())
        for statement in made.body:
            self.statement(statement, local)

    def statement(self, item: ast.stmt, local: frozenset[str]) -> None:
        if isinstance(item, (ast.FunctionDef, ast.ClassDef)):
            raise Refusal(f"{self.source}: {shown(item.name)} in a function")
        if isinstance(item, ast.For):
            self.rounds(item)
        for child in ast.iter_child_nodes(item):
            if isinstance(child, ast.stmt):
                self.statement(child, local)
            elif isinstance(child, ast.expr):
                self.expression(child, local)

    def rounds(self, item: ast.For) -> None:
        if not isinstance(item.iter, ast.Call) or not isinstance(item.iter.func, ast.Name):
            return  # over the items of a list
        for bound in item.iter.args:
            if isinstance(bound, ast.Constant) and isinstance(bound.value, int) and bound.value > MAX_ROUNDS:
                raise Refusal(f"{self.source}: a loop of {bound.value} rounds, at most {MAX_ROUNDS} expected")

    def expression(self, item: ast.expr, local: frozenset[str]) -> None:
        """Looks at every name in it, whether it is called or only given another name."""
        path = _dotted(item)
        if path is not None:
            self.named(path, local)
            return
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Attribute):
            self.method(item.func, local)
        for child in ast.iter_child_nodes(item):
            if isinstance(child, ast.keyword):
                self.expression(child.value, local)
            elif isinstance(child, ast.expr):
                self.expression(child, local)

    def method(self, called: ast.Attribute, local: frozenset[str]) -> None:
        path = _dotted(called)
        if path is not None and path[0] in _ROOTS:
            return  # which `named` looks at
        if called.attr not in self.methods and called.attr not in METHODS:
            raise Refusal(f"{self.source}: the operator {shown(called.attr)}, none that a checkpoint may use")

    def named(self, path: list[str], local: frozenset[str]) -> None:
        root, text = path[0], ".".join(path)
        if root in local:
            return
        if root == "torch":
            if (len(path) == 2 and path[1] in ATEN) or text == "torch.autograd.grad":
                return
            raise Refusal(f"{self.source}: the operator {shown(text)}, none that a checkpoint may use")
        if root == "ops":
            if len(path) == 3 and path[1] == "prim" and path[2] in PRIM:
                return
            raise Refusal(f"{self.source}: the operator {shown(text)}, none that a checkpoint may use")
        if root == "CONSTANTS":
            if len(path) == 2 and re.fullmatch(r"c[0-9]{1,6}", path[1]):
                return
        elif root == "__torch__":
            if text in self.known:
                return
        elif len(path) == 1 and root in BUILTINS:
            return
        raise Refusal(f"{self.source}: the name {shown(text)}, none that a checkpoint may use")


def _dotted(item: ast.expr) -> list[str] | None:
    """The parts of `a.b.c`, None for what is not only names."""
    parts: list[str] = []
    while isinstance(item, ast.Attribute):
        parts.append(item.attr)
        item = item.value
    if not isinstance(item, ast.Name):
        return None
    return [*parts, item.id][::-1]
