"""The dashboard for Grafana: what it shows. dashboard.json, to be imported there, is made of it:

python3 platform/observability/dashboard.py > platform/observability/dashboard.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
BUILDS = 'route!~"up|ready|metrics"'
"""What builds ask for, and nginx for them; not what operators and Prometheus do."""


# --- Queries --------------------------------------------------------------------------------------


def now(metric: str, *labels: str) -> str:
    """The series of a metric, at the instances that are chosen in the dashboard."""
    chosen = ", ".join(('job="$job"', 'instance=~"$instance"', *labels))
    return f"{metric}{{{chosen}}}"


def rate(metric: str, *labels: str) -> str:
    """How much a total grows in a second."""
    return f"rate({now(metric, *labels)}[$__rate_interval])"


def total(by: str, series: str) -> str:
    """The sum of series that have the labels `by` in common; of all, if there are none."""
    return f"sum by ({by}) ({series})" if by else f"sum({series})"


def share(by: str, metric: str, of: str, *labels: str) -> str:
    """The share of a total that has the labels `of`, from 0 to 1; 0 if nothing ever had them."""
    whole = total(by, rate(metric, *labels))
    return f"({total(by, rate(metric, *labels, of))} or 0 * {whole}) / {whole}"


def mean(by: str, summary: str) -> str:
    """The mean of what a summary or histogram has observed."""
    return f"{total(by, rate(summary + '_sum'))} / {total(by, rate(summary + '_count'))}"


def quantiles(by: str, histogram: str, *labels: str) -> dict[str, str]:
    """The median and the 95th percentile of a histogram, by legend."""
    buckets = total(f"{by}, le" if by else "le", rate(f"{histogram}_bucket", *labels))
    names = "".join(f"{{{{{label}}}}} " for label in by.split(", ") if label)
    return {
        f"{names}{name}": f"histogram_quantile({quantile}, {buckets})"
        for name, quantile in (("p50", 0.5), ("p95", 0.95))
    }


# --- What is shown --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A plot: what of, why one looks at it, Grafana's name of the unit, and queries by legend."""

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    stacked: bool = False


ROWS = {
    "Traffic": (
        Panel(
            "Requests by route",
            "What builds ask for. A decision is nginx's question whether a token has access, which"
            " it asks once and then remembers.",
            "reqps",
            {"{{route}}": total("route", rate("cache_actors_requests_total", BUILDS))},
            stacked=True,
        ),
        Panel(
            "Answers by status",
            "404 is a miss. From 500 on it is the service's fault, or that of something it needs.",
            "reqps",
            {"{{status}}": total("status", rate("cache_actors_requests_total", BUILDS))},
            stacked=True,
        ),
        Panel(
            "Answers by nginx and by the service",
            "nginx answers reads and needless uploads alone. If the service has many reads, nginx"
            " does not see what is stored, or is not in front.",
            "reqps",
            {"{{by}}": total("by", rate("cache_actors_requests_total", BUILDS))},
            stacked=True,
        ),
        Panel(
            "Share of errors",
            "Answers with a status from 500, of all. CacheActorsErrors fires above 5 %,"
            " 507 left out.",
            "percentunit",
            {"errors": share("", "cache_actors_requests_total", 'status=~"5.."', BUILDS)},
        ),
    ),
    "gRPC": (
        Panel(
            "Calls by gRPC",
            "By status: of Bazel, and of Tuist's clients from 4.209 on. NOT_FOUND is a miss."
            " CacheActorsGrpcCallsFail fires above 5 % of others.",
            "reqps",
            {"{{status}}": total("status", rate("cache_actors_grpc_calls_total"))},
            stacked=True,
        ),
        Panel(
            "Calls by method",
            "What they ask for. FindMissingBlobs comes before uploads.",
            "reqps",
            {"{{method}}": total("method", rate("cache_actors_grpc_calls_total"))},
            stacked=True,
        ),
        Panel(
            "Blobs in batches",
            "Blobs that batches have read and stored, by the status of each.",
            "ops",
            {
                "{{method}} {{status}}": total(
                    "method, status", rate("cache_actors_grpc_batch_blobs_total")
                )
            },
            stacked=True,
        ),
    ),
    "Hit rate": (
        Panel(
            "Hit rate",
            "Reads that have found what they asked for. It falls with a new version of Xcode, with"
            " a disk that is too small, and if builds do not upload.",
            "percentunit",
            {"{{kind}}": share("kind", "cache_actors_reads_total", 'result="hit"')},
        ),
        Panel(
            "Hits and misses",
            "The same as numbers: a rate of few reads says little.",
            "reqps",
            {"{{kind}} {{result}}": total("kind, result", rate("cache_actors_reads_total"))},
            stacked=True,
        ),
    ),
    "Latency": (
        Panel(
            "Answers of the service",
            "From a request to the end of its answer, by route. Storing waits for the disk.",
            "s",
            quantiles("route", "cache_actors_request_duration_seconds", BUILDS, 'by="service"'),
        ),
        Panel(
            "Answers of nginx",
            "The same of what nginx answers alone, in whole milliseconds. Slow clients are in it.",
            "s",
            quantiles("route", "cache_actors_request_duration_seconds", BUILDS, 'by="nginx"'),
        ),
    ),
    "Bytes": (
        Panel(
            "Downloaded",
            "Bytes of artifacts and entries that were sent, by whom.",
            "Bps",
            {"{{kind}}, {{by}}": total("kind, by", rate("cache_actors_downloaded_bytes_total"))},
            stacked=True,
        ),
        Panel(
            "Uploaded",
            "Bytes that the service has received, stored or not.",
            "Bps",
            {"{{kind}}": total("kind", rate("cache_actors_uploaded_bytes_total"))},
            stacked=True,
        ),
        Panel(
            "Uploads in temporary files",
            "Large uploads that have not come to their end. Many: slow clients, or a slow disk.",
            "short",
            {"waiting": total("", now("cache_actors_temporary_files"))},
        ),
    ),
    "Uploads": (
        Panel(
            "Artifacts by result",
            "What has become of the artifacts that builds sent. Duplicates cost next to nothing.",
            "reqps",
            {"{{result}}": total("result", rate("cache_actors_writes_total", 'kind="artifact"'))},
            stacked=True,
        ),
        Panel(
            "Entries by result",
            "The same of key-value entries.",
            "reqps",
            {"{{result}}": total("result", rate("cache_actors_writes_total", 'kind="entry"'))},
            stacked=True,
        ),
        Panel(
            "Entries without their artifacts",
            "Entries that refer to an artifact which does not exist: 409, or stored all the same"
            " with KV_REQUIRE_ARTIFACTS=off.",
            "reqps",
            {"{{result}}": total("result", rate("cache_actors_missing_artifacts_total"))},
        ),
    ),
    "Access and Tuist": (
        Panel(
            "Decisions",
            "By outcome, and by what they rest on. Stale: a yes that goes on while the Tuist server"
            " does not answer. Unknown is a 503, overloaded a 429.",
            "reqps",
            {
                "{{outcome}}, {{source}}": total(
                    "outcome, source", rate("cache_actors_decisions_total")
                )
            },
            stacked=True,
        ),
        Panel(
            "Questions to the Tuist server",
            "By its answer, or failed.",
            "reqps",
            {
                "{{outcome}}": total(
                    "outcome", rate("cache_actors_tuist_request_duration_seconds_count")
                )
            },
            stacked=True,
        ),
        Panel(
            "Time that the Tuist server takes",
            "The first request of a build waits for it.",
            "s",
            quantiles("", "cache_actors_tuist_request_duration_seconds"),
        ),
    ),
    "Actors": (
        Panel(
            "Running",
            "1 for each part of the tree that runs; one at 0 is restarting, or cannot start.",
            "short",
            {"{{child}}": f"min by (child) ({now('cache_actors_child_running')})"},
        ),
        Panel(
            "Restarts",
            "Crashes, each of which is a bug.",
            "short",
            {
                "{{child}}": total(
                    "child", f"increase({now('cache_actors_restarts_total')}[$__rate_interval])"
                )
            },
        ),
        Panel(
            "Messages that wait",
            "The length of each mailbox. A full one is backpressure: 429, or uploads that wait.",
            "short",
            {"{{child}}": total("child", now("cache_actors_mailbox_messages"))},
        ),
        Panel(
            "How long messages wait",
            "On average, before they are taken. At 10 s without getting on an actor is stuck.",
            "s",
            {"{{child}}": mean("child", "cache_actors_mailbox_wait_seconds")},
        ),
    ),
    "Commits and syncs": (
        Panel(
            "Commits",
            "Writing and syncing files together, the way to the process that does it included.",
            "s",
            quantiles("kind", "cache_actors_commit_duration_seconds"),
        ),
        Panel(
            "Files in a commit",
            "On average. Under load there are more of them, which share the cost.",
            "short",
            {"{{kind}}": mean("kind", "cache_actors_commit_files")},
        ),
        Panel(
            "Syncs",
            "Single syncs of a file or folder: how fast the disk is.",
            "s",
            quantiles("", "cache_actors_sync_duration_seconds"),
        ),
    ),
    "Storage": (
        Panel(
            "Used",
            "How full the disk is, or what STORAGE_MAX_BYTES allows; and where eviction starts.",
            "percentunit",
            {
                "{{instance}}": (f"max by (instance) ({now('cache_actors_storage_used_ratio')})"),
                "{{instance}} watermark": (
                    f"max by (instance) ({now('cache_actors_storage_high_watermark_ratio')})"
                ),
            },
        ),
        Panel(
            "Free",
            "Room on the disk, and in four hours if it goes on as in the last one.",
            "bytes",
            {
                "{{instance}}": (f"min by (instance) ({now('cache_actors_storage_free_bytes')})"),
                "{{instance}} in 4 h": (
                    "min by (instance) (predict_linear("
                    f"{now('cache_actors_storage_free_bytes')}[1h], 4 * 3600))"
                ),
            },
        ),
        Panel(
            "Files for which there is room",
            "A file system can run out of inodes before it runs out of bytes.",
            "short",
            {"{{instance}}": f"min by (instance) ({now('cache_actors_storage_free_inodes')})"},
        ),
        Panel(
            "Stored",
            "What there was after the last pass of eviction, on disk.",
            "bytes",
            {"{{instance}}": f"max by (instance) ({now('cache_actors_stored_bytes')})"},
        ),
        Panel(
            "Evicted",
            "What went, on disk.",
            "Bps",
            {"{{instance}}": total("instance", rate("cache_actors_evicted_bytes_total"))},
        ),
        Panel(
            "Youngest evicted artifact",
            "How long it had not been used. Below a few days: the disk is too small.",
            "s",
            {"{{instance}}": f"min by (instance) ({now('cache_actors_youngest_evicted_seconds')})"},
        ),
    ),
    "Bucket": (
        Panel(
            "Not in the bucket",
            "Files that are stored here alone, so far; and those evicted before that, in a second.",
            "short",
            {
                "{{instance}}": total("instance", now("cache_actors_replication_backlog_files")),
                "{{instance}} dropped": total(
                    "instance", rate("cache_actors_replication_dropped_total")
                ),
            },
        ),
        Panel(
            "Their bytes",
            "What a disk that is lost now would take along.",
            "bytes",
            {"{{instance}}": total("instance", now("cache_actors_replication_backlog_bytes"))},
        ),
        Panel(
            "The oldest of them",
            "How long it has waited. Above some seconds: the bucket is slow, or down.",
            "s",
            {
                "{{instance}}": (
                    f"max by (instance) ({now('cache_actors_replication_oldest_seconds')})"
                ),
                "{{instance}} is down": (
                    f"max by (instance) ({now('cache_actors_shared_breaker_open')})"
                ),
            },
        ),
        Panel(
            "Lag",
            "From the storing of a file to its being in the bucket.",
            "s",
            quantiles("", "cache_actors_replication_lag_seconds"),
        ),
        Panel(
            "Looked for in the bucket",
            "What was missing on the disk: found, in no place, or not known in time.",
            "reqps",
            {
                f"{{{{kind}}}} {name}": total("kind", rate(f"cache_actors_shared_{name}_total"))
                for name in ("hits", "misses", "shed")
            },
        ),
        Panel(
            "Wrong in the bucket",
            "Entries without their artifacts, and objects that are not what was put.",
            "short",
            {
                f"{{{{instance}}}} {name}": total(
                    "instance", rate(f"cache_actors_shared_{name}_total")
                )
                for name in ("dangling", "unusable")
            },
        ),
        Panel(
            "Requests to the bucket",
            "By what has become of them. S3 has to be paid for by their number.",
            "reqps",
            {
                "{{op}} {{outcome}}": total(
                    "op, outcome", rate("cache_actors_shared_requests_total")
                )
            },
        ),
        Panel(
            "How long they take",
            "From a request to its answer.",
            "s",
            quantiles("op", "cache_actors_shared_seconds"),
        ),
    ),
    "Process": (
        Panel(
            "CPU",
            "Of one core. At 100 % the service cannot do more, whatever the host has left.",
            "percentunit",
            {"{{instance}}": total("instance", rate("process_cpu_seconds_total"))},
        ),
        Panel(
            "Memory",
            "Resident. The entries used last take up to 64 MiB of it, uploads up to 32 MiB.",
            "bytes",
            {"{{instance}}": total("instance", now("process_resident_memory_bytes"))},
        ),
        Panel(
            "Open files",
            "Connections, and files that are read or written; and how many there may be.",
            "short",
            {
                "{{instance}}": total("instance", now("process_open_fds")),
                "{{instance}} at most": total("instance", now("process_max_fds")),
            },
        ),
        Panel(
            "Up for",
            "The age of the process. Back to 0: a rollout, a restart, or a crash.",
            "s",
            {"{{instance}}": f"time() - min by (instance) ({now('process_start_time_seconds')})"},
        ),
    ),
}

WIDTHS = {1: 24, 2: 12, 3: 8, 4: 6, 6: 8, 8: 6}
"""Of a panel, of 24, by how many there are in a row."""

HEIGHT = 8


# --- Grafana's JSON -------------------------------------------------------------------------------


def dashboard() -> dict[str, Any]:
    """All of it, as Grafana imports it."""
    return {
        "uid": "cache-actors",
        "title": "Cache Actors",
        "description": "A build cache for Tuist: see docs/how-to/monitoring.md.",
        "tags": ["cache-actors"],
        "schemaVersion": 41,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,  # the crosshair is the same in all
        "templating": {"list": variables()},
        "annotations": {"list": marks()},
        "panels": panels(),
    }


def variables() -> list[dict[str, Any]]:
    """What can be chosen: the data source, the job and its instances."""
    source = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }
    job = "label_values(cache_actors_build_info, job)"
    instance = 'label_values(cache_actors_build_info{job="$job"}, instance)'
    return [
        source,
        _variable("job", "Job", job),
        _variable("instance", "Instance", instance) | {"multi": True, "includeAll": True},
    ]


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATA_SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # with the range of time
        "sort": 1,
    }


def marks() -> list[dict[str, Any]]:
    """What happened when: alerts that fired, and new processes."""
    alerts = 'ALERTS{alertname=~"CacheActors.*", alertstate="firing"}'
    starts = f"changes({now('process_start_time_seconds')}[2m]) > 0"
    return [
        _mark("Alerts", "red", alerts, "{{alertname}}", "{{instance}} {{child}}"),
        _mark("Starts", "blue", starts, "A new process", "{{instance}}"),
    ]


def _mark(name: str, colour: str, query: str, title: str, text: str) -> dict[str, Any]:
    return {
        "name": name,
        "datasource": DATA_SOURCE,
        "enable": True,
        "iconColor": colour,
        "expr": query,
        "step": "60s",
        "titleFormat": title,
        "textFormat": text,
    }


def panels() -> list[dict[str, Any]]:
    """The rows with their panels, placed from top to bottom."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
            }
        )
        width = WIDTHS[len(row)]
        for number, panel in enumerate(row):
            line, column = divmod(number * width, 24)
            where = {"x": column, "y": y + 1 + line * HEIGHT, "w": width, "h": HEIGHT}
            placed.append({"id": len(placed) + 1, **plot(panel), "gridPos": where})
        y += 1 + HEIGHT * -(-len(row) * width // 24)
    return placed


def plot(panel: Panel) -> dict[str, Any]:
    """A panel, but for its place."""
    custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
    if panel.stacked:
        custom |= {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": DATA_SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": custom},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": name, "datasource": DATA_SOURCE, "expr": query, "legendFormat": legend}
            for name, (legend, query) in zip("ABCD", panel.queries.items(), strict=False)
        ],
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2)
    sys.stdout.write("\n")
