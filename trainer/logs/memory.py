"""The most memory a process has held so far."""

import resource
import sys

import jax


def peak_memory() -> int:
    """Bytes at the peak: of the fullest of this process's accelerators, or without one of the process itself."""
    stats = [device.memory_stats() for device in jax.local_devices() if device.platform != "cpu"]
    peaks = [found["peak_bytes_in_use"] for found in stats if found and "peak_bytes_in_use" in found]
    return max(peaks) if peaks else _peak_of_process()


def _peak_of_process() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
