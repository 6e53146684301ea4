"""What dashboards, alerts and the page of metrics name is there: in the ``/metrics`` of a real server that has seen everything.

``python tests/test_monitoring.py`` rewrites the table of docs/metrics.md.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import promql_parser
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.client import Client
from service.errors import LEAVES
from service.settings import Settings
from tests.conftest import encode_image, make_image, write_artifact
from tests.live import ROOT, live_server
from tests.waiting import wait_until

PAGE = ROOT / "docs" / "metrics.md"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "fcn-serve.json"
PROMETHEUS = ROOT / "deploy" / "prometheus"

OF_PROMETHEUS = {"up"}
"""What Prometheus itself says of a target."""


def scrape(folder: Path) -> str:
    """What a real server says after masks, a refusal, a stream and a damaged artifact."""
    write_artifact(folder / "colours.onnx")
    (folder / "damaged.onnx").write_bytes(b"no model")
    image = encode_image(make_image())
    with live_server(Settings(models_dir=folder)) as url:
        with Client(url) as client:
            client.segment(image)
            assert len(list(client.stream([image]))) == 1
        assert httpx.post(f"{url}/segment", content=b"no image").status_code == 415
        return httpx.get(f"{url}/metrics").text


@pytest.fixture(scope="module")
def metrics_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As it is sent."""
    return scrape(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def metrics(metrics_text: str) -> list[Metric]:
    """All of them."""
    return list(text_string_to_metric_families(metrics_text))


def shown_name(metric: Metric) -> str:
    """As it is queried."""
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def page(metrics: list[Metric]) -> str:
    """The page, with its table from the server's own words."""
    lines = ["| metric | type | labels | what |", "|---|---|---|---|"]
    for metric in sorted(metrics, key=shown_name):
        labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
        lines.append(
            f"| `{shown_name(metric)}` | {metric.type} | {', '.join(f'`{name}`' for name in labels)} | {metric.documentation} |"
        )
    table = "\n".join(lines)
    return re.sub(r"(<!-- metrics -->\n).*?(<!-- /metrics -->)", rf"\1{table}\n\2", PAGE.read_text("utf-8"), flags=re.DOTALL)


def series(metrics: list[Metric]) -> dict[str, set[str]]:
    """The names of the series, each with its labels."""
    found: dict[str, set[str]] = {}
    for metric in metrics:
        for sample in metric.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_the_page_of_metrics_is_what_a_server_says(metrics: list[Metric]) -> None:
    """Every metric with its type, its labels and its meaning."""
    assert PAGE.read_text("utf-8") == page(metrics), "rewrite it: python tests/test_monitoring.py"


def test_metrics_are_named_as_prometheus_does(metrics: list[Metric]) -> None:
    """A prefix, base units, and a sentence each; only counters end in ``_total``."""
    for metric in metrics:
        assert re.fullmatch(r"(fcn|process)(_[a-z]+)+", metric.name)
        assert not metric.name.endswith(("_ms", "_milliseconds", "_mb", "_kb", "_total", "_count", "_sum"))
        assert metric.documentation.endswith(".")


def dashboard() -> dict[str, Any]:
    """The parsed dashboard."""
    document: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return document


def expressions() -> Iterator[tuple[str, str]]:
    """Where, and what is asked of Prometheus there."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield f"dashboard: {panel['title']}", target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            yield f"alert: {rule['alert']}", rule["expr"]


def test_every_expression_asks_for_series_and_labels_that_are_there(metrics: list[Metric]) -> None:
    """A panel that stays empty for ever, or an alert that can never fire, is found here."""
    there = series(metrics)
    wrong = []
    for where, expression in expressions():
        selectors = list(selectors_of(promql_parser.parse(expression)))  # which raises where it is none
        assert selectors, where
        for name, labels in selectors:
            if name not in there.keys() | OF_PROMETHEUS or not labels - {"instance", "job"} <= there.get(name, set()):
                wrong.append(f"{where}: {name}{sorted(labels)}")
        grouped = {name.strip() for names in re.findall(r"by \(([^)]*)\)", expression) for name in names.split(",")}
        assert grouped - {"instance"} <= {label for name, _ in selectors for label in there.get(name, ())}, where
    assert wrong == []


def selectors_of(node: Any) -> Iterator[tuple[str, set[str]]]:
    """Every series that an expression names, with the labels that it picks by."""
    match node:
        case promql_parser.VectorSelector():
            yield node.name or "", {matcher.name for matcher in node.matchers.matchers}
        case promql_parser.MatrixSelector():
            yield from selectors_of(node.vector_selector)
        case promql_parser.BinaryExpr():
            yield from selectors_of(node.lhs)
            yield from selectors_of(node.rhs)
        case promql_parser.Call():
            for argument in node.args:
                yield from selectors_of(argument)
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr():
            yield from selectors_of(node.expr)
        case promql_parser.NumberLiteral():
            pass
        case _:
            raise AssertionError(f"unknown: {type(node).__name__}")


def test_every_metric_of_ours_is_on_the_dashboard(metrics: list[Metric]) -> None:
    """Each metric is shown by a panel or an alert."""
    text = " ".join(expression for _, expression in expressions())
    assert [metric.name for metric in metrics if metric.name.startswith("fcn_") and metric.name not in text] == []


def test_the_codes_that_alerts_pick_exist() -> None:
    """An error that was renamed would make its alert silent."""
    text = (PROMETHEUS / "alerts.yml").read_text("utf-8")
    named = {code for codes in re.findall(r'code=~"([^"]+)"', text) for code in codes.split("|")}
    assert named
    assert named <= {leaf.code for leaf in LEAVES}


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    """Each has its own number and its own place."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def compose() -> dict[str, Any]:
    """The parsed compose file."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return document


def test_compose_accepts_the_file() -> None:
    """By the schema of the Compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_monitoring_is_asked_for_and_confined(name: str) -> None:
    """It starts with its profile alone, at a version of its own, seen from this machine alone, and mounts what is here."""
    entry = compose()["services"][name]
    assert entry["profiles"] == ["monitoring"]
    assert re.search(r":v?\d+\.\d+\.\d+$", entry["image"])
    assert all("127.0.0.1:" in port for port in entry["ports"])
    assert entry["read_only"] is True
    assert entry["cap_drop"] == ["ALL"]
    assert set(entry["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    mounted = [mount for mount in entry["volumes"] if mount.startswith(".")]
    assert mounted
    for mount in mounted:
        assert mount.endswith(":ro")
        assert (ROOT / mount.split(":")[0]).is_dir()


def test_what_grafana_and_prometheus_are_given_fits_together() -> None:
    """Prometheus reads our rules and asks our service; Grafana asks Prometheus and shows our dashboard."""
    services = compose()["services"]
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    assert "./deploy/prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]
    assert config["rule_files"] == ["alerts.yml"]
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == ["fcn-serve:8000"]
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    chosen, _ = dashboard()["templating"]["list"]
    assert (chosen["query"], chosen["current"]["value"]) == (source["type"], source["uid"])
    provider = yaml.safe_load((provisioning / "dashboards" / "fcn-serve.yml").read_text("utf-8"))["providers"][0]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]


with_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here: apt-get install prometheus")


@with_promtool
def test_prometheus_own_tool_finds_nothing_wrong(metrics_text: str) -> None:
    """Neither with its configuration and the rules, nor with what the service says."""
    for kind, file in (("config", "prometheus.yml"), ("rules", "alerts.yml")):
        done = subprocess.run(
            ["promtool", "check", kind, PROMETHEUS / file], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
    lint = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics_text, capture_output=True, text=True, check=False, timeout=60
    )
    assert (lint.returncode, lint.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("prometheus"), reason="no Prometheus here: apt-get install prometheus")
def test_a_real_prometheus_scrapes_the_service_and_answers_the_dashboard(artifact_dir: Path, tmp_path: Path) -> None:
    """With the configuration that is shipped, but for the address and the pace: it is up, and every panel is answered."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with live_server(Settings(models_dir=artifact_dir)) as url:
        httpx.post(f"{url}/segment", content=encode_image(make_image())).raise_for_status()
        shipped = (PROMETHEUS / "prometheus.yml").read_text("utf-8")
        config = shipped.replace("fcn-serve:8000", urlsplit(url).netloc).replace("scrape_interval: 5s", "scrape_interval: 1s")
        (tmp_path / "prometheus.yml").write_text(config, "utf-8")
        shutil.copy(PROMETHEUS / "alerts.yml", tmp_path)
        words = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        with (
            (tmp_path / "log").open("wb") as log,
            subprocess.Popen(["prometheus", *words, f"--web.listen-address=127.0.0.1:{port}"], stderr=log) as prometheus,
        ):
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=60) as ask:
                    wait_until(
                        lambda: asked(ask, 'fcn_requests_total{job="fcn-serve"}'),
                        f"a scrape; {tmp_path}/log",
                        alive=lambda: prometheus.poll() is None,
                    )
                    ((_, up),) = (found["value"] for found in asked(ask, "up"))
                    assert up == "1"
                    for where, expression in expressions():
                        answer = ask.get("/query", params={"query": expression})
                        assert answer.json()["status"] == "success", where
                    rules = ask.get("/rules").json()["data"]["groups"]
                    assert [rule["lastError"] for group in rules for rule in group["rules"] if "lastError" in rule] == []
            finally:
                prometheus.terminate()


def asked(ask: httpx.Client, expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers now; nothing where it does not answer yet."""
    try:
        answer = ask.get("/query", params={"query": expression})
    except httpx.TransportError:
        return []
    return list(answer.json()["data"]["result"]) if answer.status_code == httpx.codes.OK else []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        PAGE.write_text(page(list(text_string_to_metric_families(scrape(Path(scratch))))), "utf-8")
