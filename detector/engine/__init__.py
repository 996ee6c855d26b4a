"""Training and evaluation loops: what a run does with a model, a data set and a config."""
