"""The manifests for KEDA and for KServe: fields that their resources have, and names that the service and each other know."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import yaml

from service.api.metrics import Metrics
from service.settings import PREFIX, Settings
from tests.live import ROOT

MODEL_FIELDS = ("modelFormat", "protocolVersion", "runtime", "runtimeVersion", "storageUri")
"""Of a model in a predictor; all others are those of a container."""


def documents(name: str) -> list[dict[str, Any]]:
    """The resources of a file of ``deploy``."""
    return list(yaml.safe_load_all((ROOT / "deploy" / name).read_text("utf-8")))


def judge(name: str, resource: dict[str, Any]) -> None:
    """Hold a resource against what is written down of its kind."""
    schemas = json.loads((ROOT / "tests" / "schemas" / f"{name}.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schemas[resource["kind"]]).validate(resource["spec"])
    for container in containers(resource):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}}
        kubernetes_validate.validate(pod, "1.34", strict=True)


def containers(resource: dict[str, Any]) -> list[dict[str, Any]]:
    """The containers that a resource of KServe's describes."""
    spec = resource["spec"]
    if resource["kind"] == "ClusterServingRuntime":
        return list(spec["containers"])
    if resource["kind"] != "InferenceService":
        return []
    model = {name: value for name, value in spec["predictor"]["model"].items() if name not in MODEL_FIELDS}
    return [{"name": "kserve-container", **model}]


@pytest.mark.parametrize("name", ["keda", "kserve"])
def test_every_field_is_one_that_the_resource_has(name: str) -> None:
    """Of the type that it takes; those of containers by Kubernetes' own schemas."""
    for resource in documents(f"{name}.yaml"):
        judge(name, resource)


@pytest.mark.parametrize(
    ("name", "at", "path"),
    [
        ("keda", 0, ("minReplicas",)),
        ("keda", 0, ("triggers", 0, "metadata", "threshold")),
        ("kserve", 0, ("protocolVersion",)),
        ("kserve", 0, ("containers", 0, "environment")),
        ("kserve", 1, ("predictor", "model", "storageUri")),
        ("kserve", 2, ("predictor", "model", "port")),
    ],
)
def test_the_judge_finds_a_mistake(name: str, at: int, path: tuple[Any, ...]) -> None:
    """A wrong name, and a number where a string is due."""
    resource = copy.deepcopy(documents(f"{name}.yaml")[at])
    inner = resource["spec"]
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = 5
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        judge(name, resource)


def test_keda_scales_the_deployment_by_metrics_that_are_there() -> None:
    """From no pod and back; its first query is of a gauge of ours, and every query is one that Prometheus takes."""
    (scaled,) = documents("keda.yaml")
    (deployment,) = [one for one in documents("kubernetes.yaml") if one["kind"] == "Deployment"]
    target = scaled["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]
    assert scaled["spec"]["minReplicaCount"] == 0
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    for query in queries:
        promql_parser.parse(query)
    assert "fcn_queue_depth" in queries[0]
    assert b"# TYPE fcn_queue_depth gauge" in Metrics().text()


def test_kserve_runs_the_service_with_settings_that_it_has() -> None:
    """The container's name and folder are KServe's; the ports are those that it asks; the name is the InferenceService's."""
    runtime, rest, over_grpc = documents("kserve.yaml")
    (container,) = containers(runtime)
    assert container["name"] == "kserve-container"
    given = {one["name"]: one["value"] for one in container["env"]}
    more = {one["name"]: one["value"] for one in over_grpc["spec"]["predictor"]["model"]["env"]}
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert set(given) | set(more) <= settings
    assert (given["FCN_MODELS_DIR"], given["FCN_MODEL_ALIAS"]) == ("/mnt/models", "{{.Name}}")
    model, model_grpc = rest["spec"]["predictor"]["model"], over_grpc["spec"]["predictor"]["model"]
    assert str(model["readinessProbe"]["httpGet"]["port"]) == given["FCN_PORT"]
    assert model_grpc["ports"][0]["containerPort"] == model_grpc["readinessProbe"]["grpc"]["port"] == int(more["FCN_GRPC_PORT"])
    assert {model["protocolVersion"], model_grpc["protocolVersion"]} == set(runtime["spec"]["protocolVersions"])
    for service in (rest, over_grpc):
        assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
        Settings(model_alias=service["metadata"]["name"])
