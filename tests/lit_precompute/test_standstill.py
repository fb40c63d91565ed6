"""Code that keeps the interpreter's lock, in a process of its own."""

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

SCRIPT = """
import ctypes, sys, threading, time
from lit_precompute import standstill
standstill.LIMIT = 2.0
with standstill.StandstillGuard(), standstill.StandstillGuard():
    time.sleep(2.5)  # as long as others get to run, all is well
with standstill.StandstillGuard():
    pass
time.sleep(0.2)
sleep = ctypes.PyDLL(None).usleep  # which does not let go of the lock
sleep(2_300_000)  # nothing is guarded now
print("here", flush=True)
with standstill.StandstillGuard():
    time.sleep(0.1)
    sleep(60_000_000)
print("never here")
"""


def test_a_standstill_ends_the_process_and_nothing_else_does() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=REPO, check=False, timeout=50
    )
    assert (done.returncode, done.stdout) == (1, "here\n")
    assert "Timeout (0:00:02)!" in done.stderr
    assert 'File "<string>", line 15 in <module>' in done.stderr
