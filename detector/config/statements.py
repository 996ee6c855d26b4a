"""The statements a Python config may hold: assignments, deletions and a few changes in place."""

from __future__ import annotations

import ast

from detector.config.expressions import Evaluator
from detector.config.origin import Origin


def run_statement(evaluator: Evaluator, statement: ast.stmt) -> None:
    """Carry out one assignment, deletion, or ``x.update(...)``-like statement."""
    try:
        if isinstance(statement, ast.Assign):
            value, tree = evaluator.evaluate(statement.value)
            for target in statement.targets:
                evaluator.bind(target, value, tree)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            evaluator.bind(statement.target, *evaluator.evaluate(statement.value))
        elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            old = evaluator.evaluate(ast.copy_location(ast.Name(statement.target.id, ast.Load()), statement))
            new = evaluator.evaluate(statement.value)
            evaluator.bind(statement.target, *evaluator.combine(statement, statement.op, old, new))
        elif isinstance(statement, ast.Delete) and all(isinstance(t, ast.Name) for t in statement.targets):
            for target in statement.targets:
                del evaluator.scope[target.id]  # type: ignore[attr-defined]
        elif isinstance(statement, ast.Expr):
            _run_expression(evaluator, statement.value)
        elif not isinstance(statement, ast.Pass):
            first = ast.unparse(statement).splitlines()[0]
            raise evaluator.error(statement, f"found the statement '{first}'")
    except (TypeError, ValueError, KeyError, IndexError, ArithmeticError) as problem:
        found = f"cannot evaluate this statement ({type(problem).__name__}: {problem})"
        raise evaluator.error(statement, found, "Correct it.") from problem


def _run_expression(evaluator: Evaluator, node: ast.expr) -> None:
    """Carry out ``x.update(...)``, ``x.append(v)`` or ``x.extend(v)``; a lone docstring does nothing."""
    if isinstance(node, ast.Constant):
        return
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        raise evaluator.error(node, f"found the expression '{ast.unparse(node)}'")
    owner, tree = evaluator.evaluate(node.func.value)
    method = (type(owner), node.func.attr)
    if method == (dict, "update"):
        new, new_tree = evaluator.evaluate(
            ast.copy_location(
                ast.Call(ast.copy_location(ast.Name("dict", ast.Load()), node), node.args, node.keywords),
                node,
            )
        )
        keys = list(new)
        owner.update(new)
    elif method in ((list, "append"), (list, "extend")) and len(node.args) == 1 and not node.keywords:
        new, new_tree = evaluator.evaluate(node.args[0])
        added = [new] if node.func.attr == "append" else list(new)
        keys = list(range(len(owner), len(owner) + len(added)))
        if node.func.attr == "append":
            new_tree = {keys[0]: new_tree}
        elif isinstance(new_tree, dict):
            new_tree = {len(owner) + i: t for i, t in new_tree.items()}
        owner.extend(added)
    else:
        raise evaluator.error(node, f"found a call of '{ast.unparse(node.func)}'")
    if isinstance(tree, dict):
        tree.update({key: new_tree if isinstance(new_tree, Origin) else new_tree[key] for key in keys})
    elif isinstance(node.func.value, ast.Name):
        evaluator.scope[node.func.value.id] = (owner, Origin(evaluator.file, node.lineno))
