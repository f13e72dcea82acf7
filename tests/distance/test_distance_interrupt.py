"""Signals during a long transform, in a process of its own."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

SETUP = """
import signal
import time
import numpy as np
from fastloss.distance import edt, label_edt

def one_zero(shape):
    mask = np.ones(shape, np.uint8)
    mask[..., 0, 0] = 0
    return mask

signal.signal(signal.SIGINT, signal.default_int_handler)  # which what runs in the background does not have
edt(one_zero((4, 4)))
"""

# far sites and spacings that have no common length: the slowest that there is
TRANSFORMS = {
    "many planes": ((48, 1200, 1200), "edt(mask, (1, 1.37, 0.211), threads=1)"),
    "two large planes": ((2, 6000, 6000), "edt(mask, (1, 1.37, 0.211), threads=1)"),
    "nearest sites": ((5000, 5000), "edt(mask, (1.37, 0.211), return_indices=True, threads=1)"),
    "many volumes": ((20000, 64, 64), "label_edt(mask, 0.7, spatial_axes=2, threads=1)"),
}


def start(script):
    command = [sys.executable, "-c", SETUP + textwrap.dedent(script)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_handlers_of_signals_run_meanwhile(name):
    """Without a look at them, one handler runs when the transform has ended, however many signals came."""
    shape, call = TRANSFORMS[name]
    child = start(
        f"""
        mask, calls = one_zero({shape}), []
        signal.signal(signal.SIGALRM, lambda *_: calls.append(time.time()))
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        {call}
        signal.setitimer(signal.ITIMER_REAL, 0)  # an interpreter that ends has no handlers
        print(len(calls))
        """
    )
    answer = child.communicate(timeout=120)[0]
    assert child.returncode == 0 and int(answer) >= 3


def test_ctrl_c_comes_through_within_a_second():
    child = start(
        """
        try:
            print("starts", flush=True)
            for _ in range(20):
                edt(one_zero((64, 1200, 1200)), (1, 1.37, 0.211), threads=2)
        except KeyboardInterrupt:
            print(time.time())
        assert edt(one_zero((3, 3)))[2, 0] == 2
        """
    )
    assert child.stdout.readline() == "starts\n"
    time.sleep(0.3)
    sent = time.time()
    child.send_signal(signal.SIGINT)
    answer = child.communicate(timeout=120)[0]
    assert child.returncode == 0 and float(answer) - sent < 1
