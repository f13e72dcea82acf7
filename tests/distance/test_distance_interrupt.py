"""Ctrl-C during a long transform, in a process of its own."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

TRANSFORMS = {
    # far sites and spacings that have no common length: the slowest that there is
    "planes": "edt(one_zero((24, 2000, 2000)), (1, 1.37, 0.211), threads=2)",
    "one plane": "edt(one_zero((9000, 9000)), (1.37, 0.211), return_indices=True, threads=1)",
    "many volumes": "label_edt(np.broadcast_to(one_zero((64, 64)), (20000, 64, 64)), 0.7, spatial_axes=2, threads=1)",
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_ctrl_c_comes_through_within_a_second(name):
    script = f"""
        import time
        import numpy as np
        from fastloss.distance import edt, label_edt

        def one_zero(shape):
            mask = np.ones(shape, np.uint8)
            mask[(0,) * len(shape)] = 0
            return mask

        edt(one_zero((4, 4)))
        try:
            print("starts", flush=True)
            {TRANSFORMS[name]}
            print("ended by itself")
        except KeyboardInterrupt:
            print(time.time())
        assert edt(one_zero((3, 3)))[2, 0] == 2
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "starts\n"
    time.sleep(0.3)
    sent = time.time()
    child.send_signal(signal.SIGINT)
    answer = child.communicate(timeout=120)[0].strip()
    assert child.returncode == 0
    assert float(answer) - sent < 1
