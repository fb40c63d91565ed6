"""Every benchmark in turn; the exit status says whether all reached what they must.

python -m benchmarks.run
"""

import subprocess
import sys

BENCHMARKS = (
    *("embed_speed", "cached_step", "loss_memory", "gather", "data_wait", "plan_size"),
    *("load_weights", "compile_time", "flat_memory", "start_up", "views_cost"),
)


def main() -> int:
    failed = []
    for name in BENCHMARKS:
        print(f"--- {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    print(f"--- below what they must reach: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
