"""The linear probe from the command line: on the image cache alone, with nothing but the trainer installed."""

import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]

WITHOUT_STAGE_1 = (
    "import sys\n"
    "for name in ('apache_beam', 'PIL', 'tensorflow', 'lit_precompute', 'pipelines'):\n"
    "    sys.modules[name] = None\n"
    "from trainer.evaluate import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


def test_no_run_and_no_stage_1(colour_store: Path, tmp_path: Path) -> None:
    output = tmp_path / "probe.json"
    words = ["few-shot", "--store", str(colour_store), "--test-store", str(colour_store), "--shots", "1"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_STAGE_1, *words, "--seeds", "2", "--output", str(output)],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text(encoding="utf-8"))
    assert found["accuracy"] == {"1": 1.0}  # each square is nearest to itself
    assert (found["n"], found["n_test"], found["n_classes"]) == (12, 12, 12)
    assert found["options"]["test_store"] == "store"
    assert {"space_id", "content_id", "versions", "standard_error"} <= found.keys()
