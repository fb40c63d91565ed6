"""What each named tower costs, as `python -m benchmarks.tower_costs` works it out; rewritten by it."""

# name: (D, pixels or None, parameters, operations an image)
COSTS: dict[str, tuple[int, int | None, int, int]] = {}
