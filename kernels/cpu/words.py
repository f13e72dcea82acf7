"""Whole numbers of 64 bits in LLVM code, written as arithmetic of Python: addresses, counts and conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .lanes import BYTES

Given = Any  # a Word or an int


class Word:
    """A number at least 0, or a condition; true where it is not 0."""

    def __init__(self, builder: ir.IRBuilder, value: Any):
        self.builder = builder
        self.value = ir.Constant(BYTES, value) if isinstance(value, int) else value

    def _with(self, operation: Callable[..., Any], other: Given) -> Word:
        other = other if isinstance(other, Word) else Word(self.builder, other)
        return Word(self.builder, operation(self.value, other.value))

    def __add__(self, other: Given) -> Word:
        return self._with(self.builder.add, other)

    def __sub__(self, other: Given) -> Word:
        return self._with(self.builder.sub, other)

    def __mul__(self, other: Given) -> Word:
        return self._with(self.builder.mul, other)

    def __floordiv__(self, other: Given) -> Word:
        return self._with(self.builder.udiv, other)

    def __mod__(self, other: Given) -> Word:
        return self._with(self.builder.urem, other)

    def __and__(self, other: Given) -> Word:
        return Word(self.builder, self.builder.and_(self.true, self._true_of(other)))

    def __or__(self, other: Given) -> Word:
        return Word(self.builder, self.builder.or_(self.true, self._true_of(other)))

    def __invert__(self) -> Word:
        return Word(self.builder, self.builder.not_(self.true))

    def _true_of(self, other: Given) -> Any:
        return (other if isinstance(other, Word) else Word(self.builder, other)).true

    def is_(self, relation: str, other: Given) -> Word:
        return self._with(lambda a, b: self.builder.icmp_signed(relation, a, b), other)

    def pick(self, a: Given, b: Given) -> Word:
        """a where this is true, else b."""
        return (Word(self.builder, 0) + a)._with(lambda x, y: self.builder.select(self.true, x, y), b)

    @property
    def true(self) -> Any:
        """As one bit."""
        one_bit = self.value.type == ir.IntType(1)
        return self.value if one_bit else self.builder.icmp_unsigned("!=", self.value, ir.Constant(BYTES, 0))

    @property
    def number(self) -> Any:
        return self.builder.zext(self.value, BYTES) if self.value.type == ir.IntType(1) else self.value

    def pointer(self, kind: ir.Type) -> Any:
        """This address, of a type."""
        return self.builder.inttoptr(self.value, kind.as_pointer())

    @contextmanager
    def holds(self) -> Iterator[None]:
        """What is to be done if it is true."""
        with self.builder.if_then(self.true):
            yield

    @contextmanager
    def each(self, start: Given = 0, step: Given = 1) -> Iterator[Word]:
        """The loop from a start up to this."""
        first, by = (Word(self.builder, 0) + x for x in (start, step))
        with cgutils.for_range_slice(self.builder, first.value, self.value, by.value, BYTES) as (index, _):
            yield Word(self.builder, index)


class Record:
    """Numbers in memory, by name."""

    def __init__(self, address: Word, fields: Any):
        self.address_, self._fields = address, fields._fields

    def _place(self, name: str) -> Any:
        return (self.address_ + 8 * self._fields.index(name)).pointer(BYTES)

    def __getattr__(self, name: str) -> Word:
        return Word(self.address_.builder, self.address_.builder.load(self._place(name)))

    def put(self, **numbers: Given) -> None:
        for name, number in numbers.items():
            number = number if isinstance(number, Word) else Word(self.address_.builder, number)
            self.address_.builder.store(number.number, self._place(name))
