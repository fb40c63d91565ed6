"""Works out anew what every named tower costs, for `lit-embed --list-towers`.

python -m benchmarks.tower_costs     rewrites lit_precompute/towers/costs.py; a minute or two
"""

import sys
from pathlib import Path

from lit_precompute.towers import TOWERS, costs
from lit_precompute.towers.cost import module


def main() -> int:
    Path(costs.__file__).write_text("\n".join(module(TOWERS)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
