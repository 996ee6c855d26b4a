"""The pipeline's flows: wiring only. May import tasks and detector; nothing imports this package."""
