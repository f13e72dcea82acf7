"""Equations as MathML, which browsers draw by themselves: no script, no font to load, the same offline."""

import re

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError


def converted(node, tex: str, as_block: bool) -> str:
    tex = tex.replace(r"\_", "_")  # which LaTeX's text needs, and docutils takes for two characters
    tex = re.sub(r"\\([bB]ig)(?=[(\[|])", r"\\\1l", tex)  # docutils knows left and right ones
    tex = re.sub(r"\\([bB]ig)(?=[)\]])", r"\\\1r", tex)
    try:
        found = tex2mathml(tex, as_block=as_block)
    except Exception as error:  # docutils' parser has errors of its own
        raise ExtensionError(f"{node.source}:{node.line}: {tex!r} is not understood: {error}") from error
    # between a function's name and what has no parentheses
    return re.sub(r"<mo>(&ApplyFunction;</mo>\s*<mi>)", r'<mo rspace="0.17em">\1', found)


def inline(translator, node) -> None:
    translator.body.append(converted(node, node.astext(), as_block=False))
    raise SkipNode


def block(translator, node) -> None:
    """Parts that are apart by a wide space go below each other where they do not fit beside each other."""
    parts = "".join(converted(node, part, as_block=True) for part in node.astext().split(r"\qquad"))
    translator.body.append(f'<div class="math">{parts}</div>\n')
    raise SkipNode


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
