"""What runs nothing that a file holds: no pickle, no eval, no shell, in the package, its kernels and the benchmarks."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for folder in ("fastloss", "kernels", "bench") for path in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "code", "pty"}
BUILTINS = {"eval", "exec", "compile", "__import__", "execfile"}
ATTRIBUTES = {"system", "popen", "getoutput", "getstatusoutput", "spawnl", "spawnv", "unsafe_load", "full_load"}


def faults(source: str) -> list[str]:
    """What a source may not do, with its lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in MODULES]
        found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[-1] in BUILTINS | ATTRIBUTES]
        found += [f"{node.lineno}: imports {name}" for name in names if name == "torch.load"]
        if isinstance(node, ast.Name) and node.id in BUILTINS:
            found.append(f"{node.lineno}: {node.id}")
        if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES and isinstance(node.value, ast.Name):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if given.get("shell", "False") != "False":
                found.append(f"{node.lineno}: {called} with a shell")
            if given.get("allow_pickle", "False") != "False":
                found.append(f"{node.lineno}: {called} with pickles")
            if called == "torch.load" and given.get("weights_only") != "True":
                found.append(f"{node.lineno}: {called} without weights_only")
    return found


def test_sources_run_nothing_that_a_file_holds():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == {"fastloss", "kernels", "bench"}
    assert {str(path): found for path in SOURCES if (found := faults(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch._pickle, marshal.x",
        "from os import system",
        "eval('1')",
        "run = exec",
        "import os\nos.system('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import torch\ntorch.load('x', weights_only=False)",
        "from builtins import eval",
    ],
)
def test_the_walk_sees_what_it_looks_for(source):
    assert faults(source)
