import sys
from glob import glob

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.command.build_py import build_py

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

STARTUP = "fastloss/accelerate/startup/fastloss_accelerate.pth"


class build_py_and_pth(build_py):
    """The packages and, beside them, the line that Python runs at its start, for ``FASTLOSS_ACCELERATE=monai``."""

    def run(self):
        super().run()
        # an editable wheel is filled by what installs into it, not by what is built
        folder = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        self.copy_file(STARTUP, folder)


setup(ext_modules=[extension], cmdclass={"build_ext": build_ext, "build_py": build_py_and_pth})
