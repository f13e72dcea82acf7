"""Mutations of a Python file, in a random order. A sign, a border, a constant: what people get wrong."""

from __future__ import annotations

import ast
import difflib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

_BINARY = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
}
_COMPARED = {
    ast.Eq: ("==", "!=", "<=", ">="),
    ast.NotEq: ("!=", "=="),
    ast.Lt: ("<", "<=", ">="),
    ast.LtE: ("<=", "<", ">"),
    ast.Gt: (">", ">=", "<="),
    ast.GtE: (">=", ">", "<"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
_JOINED = {ast.And: ("and", "or"), ast.Or: ("or", "and")}
_BETWEEN = re.compile(rb"(?:[\s)\\]|#[^\n]*\n)*")  # a left operand and its operator


@dataclass(frozen=True)
class Mutant:
    """A file's mutated text: ``new`` lines for ``old`` ones, from ``line`` on, in the function or class ``where``."""

    file: str
    where: str
    old: str
    new: str
    text: str
    line: int

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Names it whatever stands above."""
        return self.file, self.where, self.old, self.new


def mutants(file: str, text: str, seed: int) -> Iterator[Mutant]:
    """All mutants of a file, each once, in a random order: the first of them are a sample."""
    edits = list(_Edits(text))
    random.Random(f"{seed} {file}").shuffle(edits)
    for start, end, new in edits:
        yield mutant(file, text, (text.encode()[:start] + new + text.encode()[end:]).decode())


def mutant(file: str, text: str, mutated: str) -> Mutant:
    before, after = text.splitlines(), mutated.splitlines()
    changes = [c for c in difflib.SequenceMatcher(None, before, after, False).get_opcodes() if c[0] != "equal"]
    first, last = changes[0], changes[-1]
    old, new = before[first[1] : last[2]], after[first[3] : last[4]]
    return Mutant(
        file,
        _enclosing(before, first[1]),
        *("\n".join(map(str.strip, lines)) for lines in (old, new)),
        mutated,
        first[1] + 1,
    )


class _Edits:
    """All (start, end, bytes to stand there) of a text's bytes, but for annotations, f-strings, and zip's ``strict``,
    which only what is wrong elsewhere can make matter."""

    def __init__(self, text: str):
        self.bytes = text.encode()
        self.lines = [0]
        for line in self.bytes.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.tree = ast.parse(text)

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        waiting: list[ast.AST] = [self.tree]
        while waiting:
            node = waiting.pop()
            yield from self._of(node)
            annotations = [getattr(node, "annotation", None), getattr(node, "returns", None)]
            children = [child for child in ast.iter_child_nodes(node) if child not in annotations]
            left_out = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.keyword) and node.arg == "strict")
            waiting += [] if left_out else children

    def _of(self, node: ast.AST) -> Iterator[tuple[int, int, bytes]]:
        match node:
            case ast.BinOp():
                yield from self._operators(node.left, _BINARY.get(type(node.op), ()))
            case ast.Compare():
                for left, op in zip([node.left, *node.comparators], node.ops, strict=False):
                    yield from self._operators(left, _COMPARED.get(type(op), ()))
            case ast.BoolOp():
                for left in node.values[:-1]:
                    yield from self._operators(left, _JOINED[type(node.op)])
            case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert() as op):
                yield self._start(node), self._start(node) + (3 if isinstance(op, ast.Not) else 1), b""
            case ast.Constant(value=bool() as value):
                yield *self._span(node), str(not value).encode()
            case ast.Constant(value=int() | float() as value):
                for other in (value + 1, value - 1):
                    yield *self._span(node), repr(other).encode()
            case ast.Break():
                yield *self._span(node), b"continue"
            case ast.Continue():
                yield *self._span(node), b"break"
            case ast.For():
                yield *self._span(node.iter), b"[]"
            case ast.Expr(value=ast.Call()):  # such as a check
                yield *self._span(node), b"pass"
            case ast.Call():
                yield from self._keywords(node)
        match node:
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                if not isinstance(test, ast.Compare | ast.UnaryOp):  # whose operators are mutated
                    start, end = self._span(test)
                    yield start, end, b"not (" + self.bytes[start:end] + b")"

    def _operators(self, left: ast.expr, names: tuple[str, ...]) -> Iterator[tuple[int, int, bytes]]:
        """The first of the names, which follows ``left``, becomes each of the others."""
        if names:
            between = _BETWEEN.match(self.bytes, self._span(left)[1])
            start = between.end()
            found = re.compile(names[0].replace("*", r"\*").replace("|", r"\|").replace("+", r"\+").encode())
            end = found.match(self.bytes, start).end()
            for name in names[1:]:
                yield start, end, name.encode()

    def _keywords(self, call: ast.Call) -> Iterator[tuple[int, int, bytes]]:
        """Each argument that is given by name goes, with its comma."""
        arguments = sorted([*call.args, *call.keywords], key=self._start)
        for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
            if isinstance(argument, ast.keyword) and argument.arg not in (None, "strict"):
                start, end = self._span(argument)
                if following:
                    end = self._start(following)
                else:
                    start = len(self.bytes[:start].rstrip().removesuffix(b","))
                yield start, end, b""

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return self._start(node), self.lines[node.end_lineno - 1] + node.end_col_offset

    def _start(self, node: ast.AST) -> int:
        return self.lines[node.lineno - 1] + node.col_offset


def _enclosing(lines: list[str], place: int) -> str:
    """The innermost function or class around a line, by its indentation."""
    indent = len(lines[place]) - len(lines[place].lstrip())
    for line in reversed(lines[:place]):
        opening = re.match(r"(\s*)(?:def|class|struct) (\w+)", line)
        if opening and len(opening[1]) < indent:
            return opening[2]
    return ""
