"""Flags and directives for what Numba compiles from Python."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# No nnan / ninf: NaN has to come through. No reassoc: results would depend on how a loop is vectorised.
SAFE = {"contract", "nsz", "arcp"}
# For sums over a row: without reassoc they stay scalar.
SUMS = SAFE | {"reassoc"}
# Functions that only other kernels call: the wrappers for Python would double the time to compile.
INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@intrinsic
def no_inline(typingctx):
    """Called in a function's body, keeps it a function of its own: less to compile, and vector code that
    does not depend on where it is called from."""

    def codegen(context, builder, signature, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def distinct_rows(typingctx):
    """Called in a function's body, promises that its arrays do not overlap: LLVM refuses to vectorise a loop over
    many rows that it would first have to compare with one another."""

    def codegen(context, builder, signature, args):
        builder.function.attributes.add("noinline")
        for argument in builder.function.args[2:]:  # after the return value and the exception
            if isinstance(argument.type, ir.PointerType):
                argument.add_attribute("noalias")
        return context.get_dummy_value()

    return types.void(), codegen
