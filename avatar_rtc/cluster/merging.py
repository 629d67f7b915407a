"""What several nodes say, as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from avatar_rtc.metrics import DoorMetrics


def capacity(told: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """``GET /v1/capacity`` of all nodes, and under ``nodes`` of each."""
    each = list(told.values())
    return {
        **{name: sum(one[name] for one in each) for name in ("seats", "free", "waiting")},
        "rtf_p95": max(one["rtf_p95"] for one in each),
        **{name: list(dict.fromkeys(value for one in each for value in one[name])) for name in ("models", "avatars")},
        "draining": all(one["draining"] for one in each),
        "nodes": [{"node": node, **one} for node, one in told.items()],
    }


def sessions(told: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """``GET /v1/sessions`` of all nodes."""
    return {"sessions": [session for one in told.values() for session in one["sessions"]]}


def metrics(texts: Mapping[str, str], door: DoorMetrics) -> tuple[bytes, str]:
    """``GET /metrics`` of all nodes, each sample with the label ``node``, and of the door. Body and content type."""
    families: dict[str, Metric] = {}
    for node, text in texts.items():
        for read in text_string_to_metric_families(text):
            family = families.setdefault(read.name, Metric(read.name, read.documentation, read.type))
            family.samples += [
                Sample(sample.name, {"node": node, **sample.labels}, sample.value, sample.timestamp) for sample in read.samples
            ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families.values()))
    return generate_latest(door.registry) + generate_latest(registry), CONTENT_TYPE_LATEST


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families
