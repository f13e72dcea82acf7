"""Memory beyond input and output, in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")


def run(script):
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=900)


@pytest.mark.parametrize("spacing", [1.0, 0.7123])
def test_at_most_one_float32_volume_beyond_the_output(spacing):
    run(
        f"""
        from pathlib import Path
        import numpy as np
        import torch
        from fastloss.distance import edt, signed_edt

        def kib(key):
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith(key)).split()[1])

        mask = np.ones((192, 192, 192), bool)
        mask[5, 6, 7] = False
        volume = mask.size * 4 / 1024
        edt(mask[:8])
        for field in (edt, signed_edt):
            before = kib("VmRSS")
            out = field(mask, {spacing}, threads=2)
            extra = kib("VmHWM") - before - volume
            assert extra < volume, (field.__name__, extra / volume)
            del out
        """
    )


@pytest.mark.slow
def test_a_large_volume_within_8_gib():
    run(
        """
        import resource
        import numpy as np
        from fastloss.distance import edt, signed_edt
        mask = np.ones((1024, 1024, 512), np.uint8)
        mask[100:130, 500:600, 200:300] = 0
        for field in (edt, signed_edt):
            out = field(mask, (1.0, 1.0, 3.0))
            assert np.isfinite(out).all() and out[115, 550, 250] == (0 if field is edt else out[115, 550, 250])
            assert out[1023, 550, 250] == np.float32(1023 - 129) * (1 if field is edt else -1)
            del out
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20
        """
    )


@pytest.mark.slow
def test_more_than_2_to_the_31_voxels():
    run(
        """
        import numpy as np
        from fastloss.distance import edt
        mask = np.broadcast_to(np.uint8(1), (1300, 1300, 1300)).copy()
        mask[-1, -1, -1] = 0
        out = edt(mask)
        assert mask.size > 2**31 and out[-1, -1, -1] == 0 and out[-1, -1, 0] == 1299 and out[0, -1, -1] == 1299
        assert out[0, 0, 0] == np.float32(np.sqrt(3 * 1299**2))
        """
    )
