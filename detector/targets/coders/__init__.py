"""Between boxes and what a head regresses."""
