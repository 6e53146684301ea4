"""The manifest for Kubernetes is one that its API accepts, and says the same as the image and the service."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings
from tests.live import ROOT

VERSIONS = ("1.32", "1.34")


def manifests() -> dict[str, dict[str, Any]]:
    """By their kind."""
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text("utf-8"))
    return {document["kind"]: document for document in documents}


def pod() -> dict[str, Any]:
    """What every pod is made of."""
    spec: dict[str, Any] = manifests()["Deployment"]["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    """The one in it."""
    (only,) = pod()["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"])
def test_kubernetes_accepts_the_manifest(kind: str, version: str) -> None:
    """By the API's own schemas; a field that they do not know is an error."""
    kubernetes_validate.validate(manifests()[kind], version, strict=True)


def test_the_judge_finds_a_mistake() -> None:
    """The test above would pass silently if it judged nothing."""
    wrong = manifests()["Deployment"]
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_all_of_them_mean_the_same_pods() -> None:
    """A selector that misses would route to no pod, or protect none."""
    found = manifests()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == container()["ports"][0]["name"]


def test_traffic_waits_for_the_model_and_a_restart_for_the_process() -> None:
    """A pod that drains, or sheds, is not killed for it."""
    entry = container()
    assert entry["readinessProbe"]["httpGet"]["path"] == entry["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert entry["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_a_pod_has_time_to_finish_what_it_has() -> None:
    """After the wait before the signal, as long as the service drains and a little more."""
    waits = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] > waits + Settings.model_fields["drain_s"].default


def test_a_pod_is_confined_and_runs_as_the_images_user() -> None:
    """Pod security at its strictest; a read-only root with one place to write."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    (user,) = re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)
    context = pod()["securityContext"]
    assert (context["runAsNonRoot"], str(context["runAsUser"])) == (True, user)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in container()["volumeMounts"]] == ["/tmp"]
    assert pod()["automountServiceAccountToken"] is False


def test_the_clusters_variables_are_not_taken_for_settings() -> None:
    """It would set one for every service, and those of one called ``fcn`` begin with the prefix of ours."""
    assert pod()["enableServiceLinks"] is False
    known = {f"FCN_{name.upper()}" for name in Settings.model_fields}
    assert {variable["name"] for variable in container()["env"]} <= known


def test_the_port_is_the_images() -> None:
    """And the one that Prometheus is told of."""
    (exposed,) = re.findall(r"^EXPOSE (\d+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert str(container()["ports"][0]["containerPort"]) == exposed
    annotations = manifests()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == exposed


def test_the_autoscaler_follows_a_metric_that_the_service_has() -> None:
    """And never goes below two, so that one may leave."""
    spec = manifests()["HorizontalPodAutoscaler"]["spec"]
    (metric,) = spec["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert re.search(rf"^\| `{name}` \| gauge \|", (ROOT / "docs" / "metrics.md").read_text("utf-8"), re.MULTILINE)
    assert spec["minReplicas"] > manifests()["PodDisruptionBudget"]["spec"]["maxUnavailable"]
    assert "replicas" not in manifests()["Deployment"]["spec"]
