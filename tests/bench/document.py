"""The block of docs/performance.md that holds the figures of the last run."""

from pathlib import Path

from .failure import BenchmarkFailed
from .results import (
    Comparison,
    Latency,
    Machine,
    Mixed,
    Recovery,
    Remote,
    Results,
    Scale,
    Shared,
    Versions,
)
from .summary import in_words
from .tables import (
    asked_table,
    beside_table,
    bounds_of,
    builds_table,
    calls_table,
    comparison_table,
    latency_table,
    mixed_table,
    recovery_table,
    scale_table,
    targets_table,
    versions_table,
)
from .targets import targets

BEGIN = "<!-- Written by `make bench` from docs/performance/results.json: -->"
END = "<!-- Until here. -->"

BUSY = (
    " **The machine was busy with other work**, so look at CPU time, and at ratios of the same"
    " round; rates would be higher without it."
)


def rewrite(document: Path, results: Results) -> None:
    """Put the results into the document, in place of those that are there.

    Raises:
        BenchmarkFailed: the document has no place for them.
    """
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchmarkFailed(f"{document} has no block for the figures")
    document.write_text(f"{before}{begin}\n\n{block(results)}\n\n{end}{after}")


def block(results: Results) -> str:
    """What is put there."""
    parts = [_targets(results)]
    if results.comparison is not None:
        parts.append(_comparison(results.comparison))
    if results.versions is not None:
        parts.append(_versions(results.versions))
    if results.mixed is not None:
        parts.append(_mixed(results.mixed))
    if results.scale is not None:
        parts.append(_scale(results.scale))
    if results.recovery is not None:
        parts.append(_recovery(results.recovery))
    if results.remote is not None:
        parts.append(_remote(results.remote))
    if results.shared is not None:
        parts.append(_shared(results.shared))
    return "\n\n".join(parts)


def _targets(results: Results) -> str:
    found = targets(results)
    bounds = "\n".join(f"- {text}" for text in bounds_of(found))
    missed = f"\n\nWhat bounds those that are missed, and what would change it:\n\n{bounds}"
    missed = missed if bounds else ""
    return f"""\
### Targets

For two cores. Ratios are medians of those of the same round, with the least and the most of them.

{targets_table(found).markdown()}{missed}"""


def _comparison(comparison: Comparison) -> str:
    turns = f"{comparison.rounds} turns of {comparison.seconds:g} s each."
    return f"""\
### In turns

{_machine(comparison.machine)} {turns}{_skipped(comparison.skipped)}

![Rates of everybody, case by case](performance/comparison.svg)

{comparison_table(comparison).markdown()}"""


def _versions(versions: Versions) -> str:
    turns = f"{versions.rounds} turns of {versions.seconds:g} s each."
    return f"""\
### Before and after

{_machine(versions.machine)} {turns}{_skipped(versions.skipped)}
Before is commit {versions.before}, after is {versions.after}.

{versions_table(versions).markdown()}"""


def _mixed(mixed: Mixed) -> str:
    steps = f"{mixed.seconds:g} s for each size."
    gave = "\n".join(f"- {farm.contestant}: {farm.gave}." for farm in mixed.farms)
    return f"""\
### Build farms

{_machine(mixed.machine)} {steps}{_skipped(mixed.skipped)}
{_generator(mixed.generator_limit, mixed.generator_floor)}

What gave first:

{gave}

![Operations per second, and latencies, as farms are added](performance/mixed.svg)

{mixed_table(mixed).markdown()}

{latency_table(mixed).markdown()}"""


def _scale(scale: Scale) -> str:
    return f"""\
### With more and more stored

{_machine(scale.machine)} One worker, `fsync`.

![CPU time, start and memory, over what is stored](performance/scale.svg)

{scale_table(scale).markdown()}"""


def _recovery(recovery: Recovery) -> str:
    return f"""\
### After a power cut

{_machine(recovery.machine)} The logs of two busy workers are full,
and all files that they name are torn.

{recovery_table(recovery).markdown()}"""


def _remote(remote: Remote) -> str:
    turns = f"{len(remote.calls[0].rates)} turns of {remote.seconds:g} s each."
    return f"""\
### Remote Execution API

{_machine(remote.machine)} {turns}{_skipped(remote.skipped)}

{calls_table(remote).markdown()}

Builds of {remote.actions:,} small actions by Bazel, from an empty output folder, all hits:

{builds_table(remote).markdown()}"""


def _shared(shared: Shared) -> str:
    turns = f"{len(shared.beside[0].shared)} turns; a farm stores for {shared.seconds:g} s in each."
    outage = shared.outage
    return f"""\
### With a bucket

{_machine(shared.machine)} {turns}

{beside_table(shared).markdown()}

{asked_table(shared).markdown()}

Of the entries that were pulled, {shared.missed:,} did not come in time. S3 was stopped for
{outage.seconds:g} s, in which {outage.objects:,} objects were stored. The walk looked at
{shared.walked:,} files. Lag, catch-up and costs are above, beside their targets."""


def _machine(machine: Machine) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    busy = BUSY if machine.loads[0] > machine.cores / 2 else ""
    return f"{machine.date}, {in_words(machine)}. Linux {machine.kernel}, {versions}.{busy}"


def _skipped(reasons: list[str]) -> str:
    return "".join(f" **Skipped**: {reason}." for reason in reasons)


def _generator(limit: float, floor: Latency) -> str:
    return (
        f"One process of the generator makes {limit:,.0f} requests/s of a bare nginx at most. At a"
        f" farm's rate it sees a p50 of {floor.p50_ms:.2f} ms there and a p99 of"
        f" {floor.p99_ms:.2f} ms, which is what is not the service's."
    )
