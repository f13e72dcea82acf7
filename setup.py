import sys
from glob import glob

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

if sys.platform == "win32":
    compile_args, link_args = ["/O2", "/fp:precise"], []
else:
    # without the first two gcc turns min-plus loops into code several times slower; no contraction, because
    # the transforms promise the same bits with and without FMA instructions
    compile_args = ["-O3", "-fno-trapping-math", "-fno-signed-zeros", "-fno-math-errno", "-ffp-contract=off"]
    # vectors are passed by inlining only, so that their calling convention does not matter
    compile_args += ["-Wall", "-Wextra", "-Wno-psabi", "-pthread"]
    link_args = ["-pthread"]

extension = Pybind11Extension(
    "fastloss._C",
    ["csrc/bindings.cpp"],
    depends=sorted(glob("csrc/*.hpp")),
    cxx_std=17,
    extra_compile_args=compile_args,
    extra_link_args=link_args,
)

setup(ext_modules=[extension], cmdclass={"build_ext": build_ext})
