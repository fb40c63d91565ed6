"""`lit-embed`, leaving a file for every time that a process loads the tower: `<process>-<number>` in $LOADS."""

import os
import sys
import uuid
from pathlib import Path

from lit_precompute.embedder import Embedder
from lit_precompute.towers import load_tower
from pipelines import embed, graph


class EmbedUnit(graph.EmbedUnit):
    """Travels to the workers by value, being of the main module; so it may not ask its base, which may be itself."""

    loads = os.environ.get("LOADS", "")  # of the command; workers have an environment of their own

    def _load(self) -> Embedder:
        Path(self.loads, f"{os.getpid()}-{uuid.uuid4().hex}").touch()
        return Embedder(load_tower(self._job.config.tower, {}), self._job.config.work.batch_size)


if __name__ == "__main__":
    graph.EmbedUnit = EmbedUnit
    sys.exit(embed.main())
