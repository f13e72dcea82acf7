"""The walk over a chunk of a sample's voxels, tile by tile: brings what a plan's code reads into rows where it does not
lie in them, and calls the code by its address. It knows addresses and sizes only, and is compiled once for each real.

Written as LLVM code, too: Numba would take seconds to type it."""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .forms import Arguments
from .lanes import BYTES, DOUBLE, FLOAT64, REGISTER, SIZES
from .rows import NO_CLASS, Row
from .tensors import Walk
from .threads import code_of, made_once
from .words import Record, Word

CHUNK = 16384  # voxels; a multiple of every tile
_HEADER = 512  # bytes


class Pass(NamedTuple):
    """What all chunks of a pass have in common; the Walks of the tensors follow it."""

    table: int  # address of the sums of the first chunk, or of the gradient by those of the first sample
    code: int  # address of the plan's
    labels: int  # address of that which makes classes of labels; 0 for dense targets
    table_row: int  # bytes of a class in it
    by_chunk: int  # whether each chunk has a table, or each sample
    voxels: int  # of a sample
    chunks: int  # of a sample
    tile: int  # voxels
    lanes: int  # rows are filled up to a multiple of them
    channels: int
    classes: int  # that depend on one another
    outputs: int  # rows that the code writes for them
    narrow: int  # whether labels are numbers of 8 bits
    first_label: int  # of the first channel
    labels_known: int  # labels are classes from 0 to below
    masks: int  # whether each channel has a mask of its own
    ignored: int  # address
    ignore: int
    pitch: int  # bytes from row to row
    places: int  # bytes from the first row to those of the logits
    target_rows: int  # and on to those of a dense target,
    map_rows: int  # of the map,
    out_rows: int  # of the results,
    scratch: int  # and to the memory for the coefficients
    memory: int  # bytes in all


@made_once
def _code(real: str) -> Any:
    @intrinsic
    def emitted(typingctx, arguments, i):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return _Chunk(context, builder, real).emit(*(Word(builder, x) for x in args)).value

        return types.int64(arguments, i), codegen

    return code_of(_run, f"chunk_{real}", emitted=emitted)


def emitted(arguments: int, i: int) -> int:
    """What the clones of _run call."""
    raise NotImplementedError


def _run(arguments, i):  # type: ignore[no-untyped-def]
    return emitted(arguments, i)


def chunk_code(real: str) -> int:
    """The address of the code for :class:`Pass` that walks over chunk i, for reals of a type.

    It returns how many labels that count are no class.
    """
    return int(_code(real).address)


class _Chunk:
    def __init__(self, context: Any, builder: ir.IRBuilder, real: str):
        self.context, self.builder = context, builder
        self.size, self.real = SIZES[real], DOUBLE if real == FLOAT64 else ir.FloatType()

    def emit(self, arguments: Word, i: Word) -> Word:
        b, p = self.builder, Record(arguments, Pass)
        walks = [Record(arguments + 8 * (len(Pass._fields) + k * len(Walk._fields)), Walk) for k in range(5)]
        out = walks[4]
        memory = self.context.nrt.allocate(b, (p.memory + 64 + _HEADER).value)
        base = (Word(b, b.ptrtoint(memory, BYTES)) + 63) // 64 * 64
        row, a = Record(base, Row), Record(base + _HEADER // 2, Arguments)
        weights = base + _HEADER
        places = weights + p.places
        sample, start = i // p.chunks, i % p.chunks * CHUNK
        row.put(sample=sample, weights=weights, classes=p.labels_known, ignored=p.ignored, ignore=p.ignore)
        a.put(weights=weights, scratch=places + p.scratch, first=1)
        bad = cgutils.alloca_once_value(b, ir.Constant(BYTES, 0))
        stop = (p.voxels - start).is_("<", CHUNK).pick(p.voxels, start + CHUNK)
        with stop.each(start, p.tile) as v:
            left = stop - v
            row.put(count=left.is_("<", p.tile).pick(left, p.tile), voxel=v)
            whole = (row.count % p.lanes).is_("==", 0)
            a.put(voxels=(row.count + p.lanes - 1) // p.lanes * p.lanes)
            useful = cgutils.alloca_once(b, BYTES)
            with p.channels.each(0, p.classes) as c:
                with (c.is_("==", 0) | p.masks).holds():
                    weighted = self._weigh(p, walks, row, a, whole, c, bad)
                    a.put(weighted=weighted)
                    b.store(ir.Constant(BYTES, 1), useful)
                    with (weighted & out.address.is_("==", 0)).holds():
                        b.store(self._any(weights, a.voxels).number, useful)
                with Word(b, b.load(useful)).holds():
                    self._class(p, walks, row, a, whole, places, c, i)
        self.context.nrt.free(b, memory)
        return Word(b, b.load(bad))

    def _class(
        self, p: Record, walks: list[Record], row: Record, a: Record, whole: Word, places: Word, c: Word, i: Word
    ) -> None:
        """Runs the code on the classes from c on that depend on one another."""
        logits, target, _, weight_map, out = walks
        self._rows(logits, c, p, row, whole, places, a, "logits")
        with p.labels.is_("==", 0).holds():
            self._rows(target, c, p, row, whole, places + p.target_rows, a, "target")
        self._rows(weight_map, c, p, row, whole, places + p.map_rows, a, "map")
        in_place = out.in_place & whole
        there = out.address + out.size * (row.sample * out.batch + c * out.channel + row.voxel)
        a.put(
            out=in_place.pick(there, places + p.out_rows),
            out_step=in_place.pick(out.size * out.channel, p.pitch),
            adds=c,
            label=c + p.first_label,
            table=p.table + (p.by_chunk.pick(i, row.sample) * p.channels + c) * p.table_row,
        )
        self._call(p.code, a)
        with (out.address & ~in_place).holds(), p.outputs.each() as k:
            row.put(walk=out.address_, channel=c + k, row=a.out + k * a.out_step)
            self._call(out.copy, row)
        a.put(first=p.classes.is_("<", p.channels))

    def _call(self, code: Word, record: Record) -> Word:
        number = Word(self.builder, 0)
        kind = ir.FunctionType(BYTES, [BYTES, BYTES])
        return Word(self.builder, self.builder.call(code.pointer(kind), [record.address_.value, number.value]))

    def _any(self, weights: Word, count: Word) -> Word:
        """Whether one of so many weights, which fill registers, is not 0."""
        b, bits = self.builder, ir.VectorType(ir.IntType(8 * self.size), REGISTER // self.size)
        found = cgutils.alloca_once(b, bits)
        b.store(ir.Constant(bits, None), found)
        with (count * self.size).each(0, REGISTER) as offset:
            given = b.load((weights + offset).pointer(bits), align=self.size)
            b.store(b.or_(b.load(found), given), found)
        together = ir.IntType(8 * REGISTER)
        return Word(b, b.icmp_unsigned("!=", b.bitcast(b.load(found), together), ir.Constant(together, 0)))

    def _bring(self, w: Record, channel: Word, row: Record, to: Word, spare: Word) -> None:
        """Voxels of a channel to a row of reals, or of what the tensor holds if nothing converts it; ``spare``: a place
        for what is gathered and then converted."""
        row.put(walk=w.address_, channel=channel, row=w.convert.pick(spare, to))
        there = w.address + w.size * (row.sample * w.batch + channel * w.channel + row.voxel)
        row.put(source=w.copy.pick(row.row, there))
        with w.copy.holds():
            self._call(w.copy, row)
        with w.convert.holds():
            row.put(row=to)
            self._call(w.convert, row)

    def _rows(
        self, w: Record, first: Word, p: Record, row: Record, whole: Word, place: Word, a: Record, name: str
    ) -> None:
        """Says where the rows of some classes are, and the bytes from one to the next: in place, or brought to a place,
        which has two rows more."""
        in_place = w.in_place & w.convert.is_("==", 0) & (whole | w.copy.is_("==", 0))
        there = w.address + w.size * (row.sample * w.batch + first * w.channel + row.voxel)
        a.put(**{name: in_place.pick(there, place), f"{name}_step": in_place.pick(w.size * w.channel, p.pitch)})
        with (w.address & ~in_place).holds(), p.classes.each() as c:
            self._bring(w, first + c, row, place + c * p.pitch, place + p.classes * p.pitch)

    def _weigh(
        self, p: Record, walks: list[Record], row: Record, a: Record, whole: Word, channel: Word, bad: Any
    ) -> Word:
        """Fills the weights, those of a channel if it has its own, and the labels that need it; whether a weight is
        other than 1, or a label no class."""
        b, (_, target, mask, _, _) = self.builder, walks
        n, place = row.count, row.weights + p.pitch
        masked = Word(b, mask.address.true)
        with masked.holds():
            self._bring(mask, channel, row, row.weights, place)
        with (~masked & ~whole).holds(), n.each() as k:
            b.store(ir.Constant(self.real, 1.0), (row.weights + k * self.size).pointer(self.real))
        weighted = cgutils.alloca_once(b, BYTES)
        b.store((masked | ~whole).number, weighted)
        with p.labels.holds():
            self._bring(target, Word(b, 0), row, place + p.pitch, place + p.pitch)
            row.put(weighted=Word(b, b.load(weighted)), keep=whole, row=place)
            wrong = self._call(p.labels, row)
            plain = wrong.is_("<", 0)
            kept = plain & whole & p.narrow & target.size.is_("==", 1)
            a.put(target=kept.pick(row.source, place), target_step=0)
            with (~plain).holds():
                b.store(ir.Constant(BYTES, 1), weighted)
                b.store((Word(b, b.load(bad)) + wrong).value, bad)
        with (~whole).holds():  # what fills the row up has no weight, and no class
            more = p.lanes - n % p.lanes
            with more.each() as k:
                b.store(ir.Constant(self.real, 0.0), (row.weights + (n + k) * self.size).pointer(self.real))
            size = p.narrow.pick(1, 4)
            byte = ir.IntType(8)
            with (more * size).each() as k:
                b.store(ir.Constant(byte, NO_CLASS), (place + n * size + k).pointer(byte))
        return Word(b, b.load(weighted))
