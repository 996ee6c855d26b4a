"""JSON and YAML configs: their values and the line of each."""

from __future__ import annotations

import ast
import json
from typing import Any

import yaml

from detector.config.expressions import BASE_MARKER, Evaluator
from detector.config.origin import Origin, Traced, Tree, subtree
from detector.errors import ConfigError


def parse_data(text: str, *, name: str, suffix: str) -> tuple[dict[str, Any], dict[Any, Tree]]:
    """Return the top-level values of a JSON or YAML text and their origins.

    Raises:
        ConfigError: the text is malformed or holds no named sections.
    """
    try:
        data = json.loads(text) if suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as problem:
        kind = "JSON" if suffix == ".json" else "YAML"
        raise ConfigError(f"{name}: not valid {kind} ({problem}). Correct the syntax.") from problem
    if not isinstance(data, dict):
        raise ConfigError(
            f"{name}: holds a {type(data).__name__}; expected named sections such as model and data. Add "
            "them."
        )
    tree = _data_lines(text, name)
    if isinstance(tree, dict) and tree.keys() == data.keys():
        return data, tree
    return data, dict.fromkeys(data, Origin(name, 1))


def _data_lines(text: str, name: str) -> Tree:
    """Return the lines of a JSON or YAML text's values; JSON is read as YAML here."""

    def walk(node: yaml.Node) -> Tree:
        here = Origin(name, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            if any(
                not isinstance(k, yaml.ScalarNode) or k.tag != "tag:yaml.org,2002:str" for k, _ in node.value
            ):
                return here
            return {key.value: walk(value) for key, value in node.value} or here
        if isinstance(node, yaml.SequenceNode):
            return dict(enumerate(walk(item) for item in node.value)) or here
        return here

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:  # JSON with tabs is no YAML: then every value counts as written on line 1
        return Origin(name, 1)
    return walk(root) if root is not None else Origin(name, 1)


def fill_base_variables(value: Any, tree: Tree, evaluator: Evaluator) -> Traced:
    """Replace every ``{{_base_.a.b}}`` below a value by what the evaluator's bases give."""
    if isinstance(value, str) and BASE_MARKER in value:
        line = tree.line if isinstance(tree, Origin) else 0
        return evaluator.evaluate(ast.Constant(value, lineno=line, col_offset=0))
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        filled = {k: fill_base_variables(v, subtree(tree, k), evaluator) for k, v in items}
        new = {k: v for k, (v, _) in filled.items()}
        trees: Tree = {k: t for k, (_, t) in filled.items()}
        return (new if isinstance(value, dict) else list(new.values())), trees or tree
    return value, tree
