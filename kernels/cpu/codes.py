"""The machine codes of plans: written as LLVM code, compiled once for each form, and kept on the disk by Numba."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .block import Code
from .forms import GRADIENT, WITH_COEFFICIENTS, Arguments, Form
from .gradient_code import emit_gradient
from .lanes import BYTES
from .sums_code import emit_sums
from .threads import code_of, made_once
from .voxels_code import emit_voxels
from .words import Record, Word


def plan_code(form: Form) -> int:
    """The address of the code of a form, of :class:`Arguments`."""
    return int(_compiled(form).address)


@made_once
def _compiled(form: Form) -> Any:
    of_terms = emit_voxels if form.output in WITH_COEFFICIENTS else emit_sums
    emit = emit_gradient if form.output == GRADIENT else of_terms

    @intrinsic
    def emitted(typingctx, arguments):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            record = Record(Word(builder, args[0]), Arguments)
            given = Arguments(*(getattr(record, name).value for name in Arguments._fields))
            weighted = builder.icmp_signed("!=", given.weighted, ir.Constant(BYTES, 0))
            with builder.if_else(weighted) as (then, otherwise):
                with then:
                    emit(Code(builder, form, True, given))
                with otherwise:
                    emit(Code(builder, form, False, given))
            return context.get_dummy_value()

        return types.void(arguments), codegen

    return code_of(_run, form.name, emitted=emitted)


def emitted(arguments: Any) -> None:
    """What the clones of _run call."""
    raise NotImplementedError


def _run(arguments, i):  # type: ignore[no-untyped-def]
    emitted(arguments)
    return 0
