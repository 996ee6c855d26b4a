"""Models in the formats of other runtimes: ONNX and TorchScript, written by torch's own exporters.

Here belong the network that is recorded, the writers and the check of what was written. May import the
inference package; nothing of the library but the command line imports this one.
"""
