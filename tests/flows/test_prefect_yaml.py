from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

from flows import place

PROJECT = Path(__file__).resolve().parents[2]
FILE = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = FILE["deployments"]
KINDS = ("process", "docker", "kubernetes")


def flow_of(entrypoint: str) -> Flow[..., Any]:
    path, name = entrypoint.split(":")
    assert (PROJECT / path).is_file()
    found = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(found, Flow)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_flow_has_a_deployment_of_the_kind(kind: str) -> None:
    found = [flow_of(one["entrypoint"]).name for one in DEPLOYMENTS if one["name"] == kind]
    assert found == list(place.DEPLOYMENTS)


def test_no_deployment_takes_the_name_of_a_served_one() -> None:
    assert {one["name"] for one in DEPLOYMENTS} == set(KINDS)
    assert not {one["name"] for one in DEPLOYMENTS} & set(place.DEPLOYMENTS)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_find_the_project_by_an_absolute_path(kind: str) -> None:
    """Prefect resolves '.' in a temporary folder, and a path of the deploying machine is on no other one."""
    [step] = next(one for one in DEPLOYMENTS if one["name"] == kind)["pull"]
    [(name, inputs)] = step.items()
    assert name == "prefect.deployments.steps.set_working_directory"
    assert inputs["directory"] in ("{{ $DETECTOR_PROJECT }}", "/project")


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_pools_know_every_variable(kind: str) -> None:
    asked = next(one for one in DEPLOYMENTS if one["name"] == kind)["work_pool"]["job_variables"]
    template = json.loads((PROJECT / "docs" / "pools" / f"{kind}.json").read_text())
    known = template["variables"]["properties"]
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert set(asked) <= set(known)
    assert set(asked) <= used
    assert used <= set(known)


def test_state_is_outside_the_image() -> None:
    docker = next(one for one in DEPLOYMENTS if one["name"] == "docker")["work_pool"]["job_variables"]
    template = json.loads((PROJECT / "docs" / "pools" / "kubernetes.json").read_text())
    [container] = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    mounted = {volume.split(":")[1] for volume in docker["volumes"]}
    assert mounted == {f"/project/{name}" for name in (".datasets", "data", "runs", ".cache", ".prefect")}
    assert mounted < {mount["mountPath"] for mount in container["volumeMounts"]}


def test_no_secret_is_deployed() -> None:
    text = (PROJECT / "prefect.yaml").read_text()
    assert set(re.findall(r"\{\{ \$(\w+) \}\}", text)) == {"DETECTOR_PROJECT", "MLFLOW_TRACKING_URI"}
