"""The arrows between the packages: who may import whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
OURS = {"schemas", "lit_precompute", "pipelines", "trainer"}
FORBIDDEN = {
    "schemas": {"apache_beam", "jax", "flax", "tensorflow", "PIL"} | OURS - {"schemas"},
    "lit_precompute": {"apache_beam", "trainer", "pipelines"},
    "pipelines": {"demo", "benchmarks", "tests"},
    "trainer": {"apache_beam", "tensorflow", "PIL", "lit_precompute", "pipelines"},
}


def imported(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield (node.module or "").split(".")[0], node.lineno


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_arrows(package: str) -> None:
    files = sorted((REPO / package).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(REPO)}:{line} imports {name}"
        for path in files
        for name, line in imported(path)
        if name in FORBIDDEN[package]
    ]
    assert not wrong


def test_every_package_is_installed_by_setup() -> None:
    declared = (REPO / "setup.py").read_text()
    for init in sorted(path for package in OURS for path in (REPO / package).rglob("__init__.py")):
        assert f'"{".".join(init.parent.relative_to(REPO).parts)}"' in declared


def test_trainer_runs_where_stage_1_is_not_installed() -> None:
    """The economy of LiT in the imports: no Beam, no Pillow, no TensorFlow, no image tower."""
    code = (
        "import sys\n"
        "for name in ('apache_beam', 'PIL', 'tensorflow', 'lit_precompute', 'pipelines'):\n"
        "    sys.modules[name] = None\n"
        "import trainer.train, trainer.evaluate, trainer.export\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
