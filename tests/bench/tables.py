"""The tables of a run's results, for terminals and for the documentation."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable

from .figures import Spread, ratios, spread
from .results import Comparison, Mixed, Recovery, Remote, Results, Scale, Shared, Versions
from .summary import costs, cpu_us, of_limit, rates, shares
from .targets import Target, targets


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the columns up to `words` hold words, the others numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1

    def rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number < self.words else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For the documentation."""
        rules = ["---" if n < self.words else "---:" for n in range(len(self.columns))]
        lines = [self.columns, rules, *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables_of(results: Results) -> list[Table]:
    """All tables of what has been measured."""
    tables = [targets_table(targets(results))]
    if results.comparison is not None:
        tables.append(comparison_table(results.comparison))
    if results.versions is not None:
        tables.append(versions_table(results.versions))
    if results.mixed is not None:
        tables += [mixed_table(results.mixed), latency_table(results.mixed)]
    if results.scale is not None:
        tables.append(scale_table(results.scale))
    if results.recovery is not None:
        tables.append(recovery_table(results.recovery))
    if results.remote is not None:
        tables += [calls_table(results.remote), builds_table(results.remote)]
    if results.shared is not None:
        tables += [beside_table(results.shared), asked_table(results.shared)]
    return tables


def targets_table(found: Sequence[Target]) -> Table:
    """Each target, and whether it is met."""
    rows = [[each.what, each.wanted, each.measured, each.verdict] for each in found]
    return Table("Targets", ["", "target", "measured", ""], rows, words=4)


def bounds_of(found: Sequence[Target]) -> list[str]:
    """What bounds each target that is missed, and what would change that; one text for several."""
    texts: dict[str, list[str]] = {}
    for each in found:
        if each.is_missed():
            texts.setdefault(each.bound, []).append(f"*{each.what}*")
    return [f"{'; '.join(names)}: {text}." for text, names in texts.items()]


def comparison_table(comparison: Comparison) -> Table:
    """Everybody at everything."""
    rows, last = [], ""
    for case in comparison.cases:
        limit = of_limit(case, comparison)
        busy = sum(turn.wrk_busy for turn in case.turns) / len(case.turns)
        p50 = sorted(turn.p50_ms for turn in case.turns)[len(case.turns) // 2]
        p99 = sorted(turn.p99_ms for turn in case.turns)[len(case.turns) // 2]
        rows.append(
            [
                case.case if case.case != last else "",
                case.contestant,
                _number(rates(case).median),
                " to ".join(map(_number, (rates(case).least, rates(case).most))),
                "" if limit is None else f"{limit.median:.2f}",
                f"{p50:.1f}",
                f"{p99:.1f}",
                _number(cpu_us(case, "nginx").median),
                _number(cpu_us(case, "service").median),
                f"{busy:.0%}",
                " / ".join(f"{share:.0%}" for share in shares(case)),
            ]
        )
        last = case.case
    columns = ["", "", "answers/s", "spread", "of the first", "p50 ms", "p99 ms"]
    columns += ["nginx CPU µs", "service CPU µs", "wrk busy", "shares"]
    return Table("In turns, 10 KiB artifacts, 32 connections", columns, rows, words=2)


def versions_table(versions: Versions) -> Table:
    """An earlier version and this one."""
    rows, last = [], ""
    for pair in versions.pairs:
        both = (pair.before, pair.after)
        rate = [[turn.rate for turn in turns] for turns in both]
        cost = [costs(turns, "service") for turns in both]
        rows.append(
            [
                pair.case if pair.case != last else "",
                pair.service,
                *(f"{spread(values).median:,.0f}" for values in rate),
                *_ratio(ratios(rate[1], rate[0])),
                *(_number(spread(values).median) for values in cost),
                *_ratio(ratios(cost[1], cost[0])),
            ]
        )
        last = pair.case
    columns = ["", "", "before, answers/s", "after", "ratio", "spread"]
    columns += ["before, service CPU µs", "after", "ratio", "spread"]
    return Table("Before and after, without nginx, 32 connections", columns, rows, words=2)


def mixed_table(mixed: Mixed) -> Table:
    """Each size of the farm."""
    rows = [
        [
            farm.contestant,
            f"{step.factor:g}x",
            f"{step.offered:,.0f}",
            f"{step.achieved:,.0f}",
            *_latencies(step.operations.get("all")),
            f"{sum(step.errors.values()):,}",
            *(f"{step.busy.get(part, 0.0):.0%}" for part in ("nginx", "service", "generator")),
            *(f"{step.memory_bytes.get(part, 0) / 2**20:.0f}" for part in ("nginx", "service")),
        ]
        for farm in mixed.farms
        for step in farm.steps
    ]
    columns = ["", "farms", "asked/s", "achieved/s", "p50 ms", "p95 ms", "p99 ms", "errors"]
    columns += ["nginx CPU", "service CPU", "generator CPU", "nginx MiB", "service MiB"]
    return Table("Build farms, open loop", columns, rows)


def latency_table(mixed: Mixed) -> Table:
    """Each kind of operation, at each size of the farm."""
    rows = [
        [
            farm.contestant,
            f"{step.factor:g}x",
            kind,
            f"{latency.count:,}",
            *_latencies(latency),
            _number(latency.most_ms),
        ]
        for farm in mixed.farms
        for step in farm.steps
        for kind, latency in step.operations.items()
        if kind != "all"
    ]
    columns = ["", "farms", "operation", "count", "p50 ms", "p95 ms", "p99 ms", "longest ms"]
    return Table("Build farms, by operation", columns, rows, words=3)


def calls_table(remote: Remote) -> Table:
    """Everybody at each method; what each rate is of the first one's is a median of rounds."""
    rows, last, first = [], "", list[float]()
    for each in remote.calls:
        if each.case != last:
            first = each.rates
        share = ratios(each.rates, first)
        rows.append(
            [
                each.case if each.case != last else "",
                each.contestant,
                f"{spread(each.rates).median:,.0f}",
                _between(spread(each.rates), ",.0f"),
                "" if share is None or each.rates is first else f"{share.median:.2f}",
                f"{spread(each.cpu_us).median:,.0f}",
            ]
        )
        last = each.case
    columns = ["", "", "rate", "spread", "of the first", "CPU µs a call"]
    return Table("Remote Execution API, 8 connections", columns, rows, words=2)


def builds_table(remote: Remote) -> Table:
    """Builds with each cache."""
    rows = []
    for each in remote.builds:
        share = ratios(each.seconds, remote.builds[0].seconds)
        of_first = "" if share is None or each is remote.builds[0] else f"{share.median:.2f}"
        rows.append([each.way, f"{spread(each.seconds).median:.1f}", of_first])
    title = f"Builds of {remote.actions:,} small actions by Bazel, all hits"
    return Table(title, ["", "seconds", "of the first"], rows)


def beside_table(shared: Shared) -> Table:
    """A node with a bucket and one without."""
    rows = [
        [
            each.case,
            *(_number(spread(values).median) for values in (each.shared, each.alone)),
            *_ratio(ratios(each.shared, each.alone)),
        ]
        for each in shared.beside
    ]
    columns = ["", "with a bucket", "without", "ratio", "spread"]
    return Table("With a bucket and without", columns, rows)


def asked_table(shared: Shared) -> Table:
    """Reads that have to ask the bucket, or cannot."""
    rows = [
        [name, f"{took.count:,}", *_latencies(took), _number(took.most_ms)]
        for name, took in shared.reads.items()
    ]
    columns = ["", "count", "p50 ms", "p95 ms", "p99 ms", "longest ms"]
    return Table("Reads that are not on the disk", columns, rows)


def scale_table(scale: Scale) -> Table:
    """Each number of artifacts."""
    names = list(dict.fromkeys(case.case for size in scale.sizes for case in size.cases))
    rows = []
    for size in scale.sizes:
        cases = {case.case: case for case in size.cases}
        rows.append(
            [
                f"{size.stored:,}",
                *(
                    f"{_number(cpu_us(cases[name]).median)} ({rates(cases[name]).median:,.0f}/s)"
                    for name in names
                ),
                f"{size.start_seconds.median:.2f} ({_between(size.start_seconds, '.2f')})",
                " → ".join(f"{resident / 2**20:.0f}" for resident in size.resident_bytes),
            ]
        )
    columns = ["stored", *(f"{name}, CPU µs" for name in names), "start s", "memory MiB"]
    return Table("With more and more stored", columns, rows)


def recovery_table(recovery: Recovery) -> Table:
    """A start after a power cut, and the next one."""
    after, usual = (
        f"{found.median:.2f} ({_between(found, '.2f')})"
        for found in (recovery.start_seconds, recovery.usual_seconds)
    )
    row = [f"{recovery.artifacts:,}", f"{recovery.entries:,}", f"{recovery.log_bytes >> 20:,}"]
    columns = ["artifacts", "entries", "logs, MiB", "start s", "the next start s"]
    return Table("After a power cut", columns, [[*row, after, usual]], words=0)


def _latencies(latency: object) -> list[str]:
    if latency is None:
        return ["", "", ""]
    return [_number(getattr(latency, name)) for name in ("p50_ms", "p95_ms", "p99_ms")]


def _ratio(values: Spread | None) -> list[str]:
    return ["", ""] if values is None else [f"{values.median:.2f}", _between(values, ".2f")]


def _between(values: Spread, form: str) -> str:
    return f"{values.least:{form}} to {values.most:{form}}"


def _number(value: float) -> str:
    """A number with as many places as it deserves; nothing for nothing."""
    if not value:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
