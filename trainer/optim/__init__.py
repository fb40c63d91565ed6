"""How the parameters move: optimizers, their chains and schedules."""
