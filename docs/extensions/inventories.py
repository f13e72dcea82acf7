"""Links into other projects' documentation, for intersphinx, without a network: the names that are linked to."""

import zlib
from pathlib import Path

HEAD = "# Sphinx inventory version 2\n", "# The remainder of this file is compressed using zlib.\n"
PROJECTS = {
    "python": (
        "https://docs.python.org/3",
        dict.fromkeys(
            ("ModuleNotFoundError", "RuntimeError", "TypeError", "ValueError"), ("exception", "library/exceptions.html")
        ),
    ),
    "torch": (
        "https://docs.pytorch.org/docs/stable",
        {"torch.Tensor": ("class", "tensors.html"), "torch.device": ("class", "tensor_attributes.html")},
    ),
}


def write(app, config) -> None:
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    for project, (address, names) in PROJECTS.items():
        lines = "".join(f"{name} py:{kind} 1 {page}#$ -\n" for name, (kind, page) in names.items())
        head = f"{HEAD[0]}# Project: {project}\n# Version:\n{HEAD[1]}"
        file = folder / f"{project}.inv"
        file.write_bytes(head.encode() + zlib.compress(lines.encode()))
        config.intersphinx_mapping[project] = (address, str(file))


def setup(app) -> dict:
    app.connect("config-inited", write, priority=100)  # before intersphinx checks its mapping
    return {"parallel_read_safe": True}
