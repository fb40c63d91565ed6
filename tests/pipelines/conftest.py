import pytest

from tests.quick_beam import quicken


@pytest.fixture(scope="session", autouse=True)
def quick_beam() -> None:
    """Hundreds of small graphs are built and run here."""
    quicken()
