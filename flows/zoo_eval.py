"""Flow `zoo-eval`: published models measured on the data set of their configs, beside what was reported.

Needs the data sets below ``data``; makes ``runs/zoo/<name>/metrics.json`` and ``runs/zoo/comparison.md``. Run
it with `python -m flows.zoo_eval --names mask_rcnn_r50_fpn_1x_coco`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from detector.errors import DetectorError
from detector.zoo.index import find_model
from flows import arguments
from flows.parameters import Again, Device, Names, ScoreThreshold, Tolerance
from tasks import devices, prefect_artifacts, prefect_sweep, tables, zoo_eval
from tasks.steps import write_text
from tasks.sweeps import Member, first_line

STEP = zoo_eval.STEP.name


def run_name() -> str:
    """The name of the running flow's run: the names that were asked for."""
    return "-".join(flow_run.parameters["names"])[:80]


@flow(name="zoo-eval", flow_run_name=run_name, persist_result=False)
def evaluate_zoo(
    names: Names = ["mask_rcnn_r50_fpn_1x_coco"],  # noqa: B006 - Prefect shows it; nobody changes it
    tolerance: Tolerance = 0.1,
    score_threshold: ScoreThreshold = None,
    device: Device = None,
    refresh: Again = False,
) -> list[dict[str, Any]]:
    """Test published models and compare their AP with the reported one; fails where they differ."""
    members = [
        Member(zoo_eval.ZooRequest(model.name, score_threshold=score_threshold, device=device), model.name)
        for model in zoo_eval.chosen(names)
    ]
    places = devices.capacity(device)
    prefect_sweep.run(members, places, [STEP] if refresh else None, steps=[STEP])
    rows = [row for member in members for row in _rows(member, tolerance)]
    text = f"# {len(members)} published models\n\n{tables.markdown(rows)}"
    write_text(zoo_eval.COMPARISON, text)
    get_run_logger().info("\n%s", text)
    prefect_artifacts.compare("zoo-eval", text, rows, "Reported and measured")
    bad = dict.fromkeys(row["name"] for row in rows if not row["passes"])
    if bad:
        raise DetectorError(
            f"{len(bad)} of {len(members)} models are not within {tolerance} AP of what was "
            f"reported: {', '.join(bad)}; {zoo_eval.COMPARISON} has the numbers."
        )
    return rows


def _rows(member: Member, tolerance: float) -> list[dict[str, Any]]:
    model = find_model(member.request.config)
    if member.error:
        return [zoo_eval.failed(model, first_line(member.error))]
    return zoo_eval.compare(model, member.metrics, tolerance)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the flow in this process."""
    return arguments.main(evaluate_zoo, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
