"""Blocks that a config inserts into other blocks: what a plugin is and where it goes.

A plugin's type names a ``Plugin`` in the catalog: its settings, which make the layer once the number of
channels is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from detector.errors import ConfigError
from detector.structures.specs import Spec

POSITIONS = ("after_conv1", "after_conv2", "after_conv3")


@runtime_checkable
class Plugin(Protocol):
    """Settings of an inserted layer."""

    @property
    def name(self) -> str:
        """Attribute name of the layer in its block, part of every checkpoint key."""

    def make(self, channels: int) -> nn.Module:
        """The layer for maps of ``channels`` channels, which it keeps."""


@dataclass(frozen=True)
class PluginSpec(Spec):
    """A plugin and its place.

    Attributes:
        cfg: the plugin.
        position: after_conv1, after_conv2 or after_conv3 (the latter before the sum).
        stages: whether each stage has it; None means all.
    """

    cfg: Plugin
    position: str
    stages: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown place and a part that is no plugin.

        Raises:
            ConfigError: with what is accepted.
        """
        if self.position not in POSITIONS:
            raise ConfigError(
                f"plugin: unknown position {self.position!r}; expected one of {', '.join(POSITIONS)}."
            )
        if not isinstance(self.cfg, Plugin):
            raise ConfigError(
                f"plugin: found cfg of type {type(self.cfg).__name__}; expected a plugin such as "
                "dict(type='ContextBlock', ratio=0.25)."
            )

    def in_stage(self, index: int) -> bool:
        """Whether stage ``index`` (from 0) has the plugin.

        Raises:
            ConfigError: ``stages`` says nothing of that stage.
        """
        if self.stages is None:
            return True
        if index >= len(self.stages):
            raise ConfigError(
                f"plugin {self.cfg.name}: 'stages' has {len(self.stages)} values; give one for every stage."
            )
        return bool(self.stages[index])


def attach(module: nn.Module, plugins: tuple[PluginSpec, ...], position: str, channels: int) -> list[str]:
    """Add the plugins of one position to ``module``; returns their attribute names in order.

    Raises:
        ConfigError: two plugins have the same name.
    """
    names = []
    for plugin in (p.cfg for p in plugins if p.position == position):
        if hasattr(module, plugin.name):
            raise ConfigError(f"plugin: {plugin.name!r} appears twice in a block; give one a 'postfix'.")
        module.add_module(plugin.name, plugin.make(channels))
        names.append(plugin.name)
    return names
