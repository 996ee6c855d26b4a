"""The errors a user can cause, each saying where, what was found, what was expected and what to do."""

from __future__ import annotations


class DetectorError(Exception):
    """Base of the errors that the command line prints as one paragraph (exit code 1), without a traceback."""


class ConfigError(DetectorError):
    """A config file, an override or a built argument is wrong."""


class CheckpointError(DetectorError):
    """A checkpoint file is unreadable, unsafe, or does not fit the model."""


class DatasetError(DetectorError):
    """Images or annotations are missing, malformed, or do not fit the classes."""


class MachineError(DetectorError):
    """The machine lacks something the command needs (disk space, a package, a device)."""
