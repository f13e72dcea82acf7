"""Mutations of a Python file by cosmic-ray's operators: those that change what the code means, in a random order."""

from __future__ import annotations

import ast
import difflib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from parso.python.tree import Keyword

# A sign, a border, a constant: what people get wrong. That a tensor cannot be shifted proves nothing.
_CHOSEN = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|Pow_Mul|BitOr_BitAnd|BitAnd_BitOr)"
    r"|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Eq_LtE|Eq_GtE|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Lt_GtE|GtE_Lt|Gt_LtE|LtE_Gt"
    r"|Is_IsNot|IsNot_Is)"
    r"|ReplaceUnaryOperator_Delete_(USub|Not|Invert)|AddNot|ReplaceTrueWithFalse|ReplaceFalseWithTrue"
    r"|ReplaceAndWithOr|ReplaceOrWithAnd|ReplaceBreakWithContinue|ReplaceContinueWithBreak"
    r"|NumberReplacer|ZeroIterationForLoop)"
)


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


class DropCall(Operator):
    """Leaves out a statement that is a call, such as a check."""

    def mutation_positions(self, node):
        if node.type == "simple_stmt" and node.children[0].type == "atom_expr":
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        node.children[0] = Keyword("pass", node.start_pos, node.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls):
        return ()


class DropKeyword(Operator):
    """Leaves out an argument that is given by name."""

    def mutation_positions(self, node):
        for child in self._keywords(node):
            yield child.start_pos, child.end_pos

    def mutate(self, node, index):
        place = node.children.index(self._keywords(node)[index])
        del node.children[max(place - 1, 0) : place + 1 + (place == 0)]  # with the comma
        return node

    @staticmethod
    def _keywords(node):
        if node.type != "arglist":
            return []
        return [child for child in node.children if child.type == "argument" and child.children[1] == "="]

    @classmethod
    def examples(cls):
        return ()


def mutants(file: str, text: str, seed: int) -> Iterator[Mutant]:
    """All mutants of a file, each once, in a random order: the first of them are a sample."""
    tree = list(ast_nodes(get_ast(text)))
    operators = [get_operator(name)() for name in operator_names() if _CHOSEN.fullmatch(name)]
    places = []
    for operator in (*operators, DropCall(), DropKeyword()):
        count = sum(len(list(operator.mutation_positions(node))) for node in tree)
        places += [(operator, occurrence) for occurrence in range(count)]
    random.Random(f"{seed} {file}").shuffle(places)
    seen = {_meaning(text), None}
    for operator, occurrence in places:
        mutated = MutationVisitor.mutate_code(text, operator, occurrence)
        if (meaning := _meaning(mutated)) not in seen:
            seen.add(meaning)
            yield mutant(file, text, mutated)


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


class _Stripped(ast.NodeTransformer):
    """Without annotations, strings that are statements, what sets arguments by place and by name apart, and zip's
    ``strict``: only other faults make it matter."""

    def visit_arguments(self, node):
        node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        node.defaults = [*node.defaults, *filter(None, node.kw_defaults)]
        node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        return self.generic_visit(node)

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_Call(self, node):
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node):
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Expr(self, node):
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)


def _meaning(text: str) -> str | None:
    try:
        return ast.dump(_Stripped().visit(ast.parse(text)))
    except SyntaxError:
        return None


def _enclosing(lines: list[str], place: int) -> str:
    """The innermost function or class around a line, by its indentation."""
    indent = len(lines[place]) - len(lines[place].lstrip())
    for line in reversed(lines[:place]):
        opening = re.match(r"(\s*)(?:def|class|struct) (\w+)", line)
        if opening and len(opening[1]) < indent:
            return opening[2]
    return ""
