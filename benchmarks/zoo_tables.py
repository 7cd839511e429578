"""The zoo's measurements as Markdown."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

Record = dict[str, Any]

TOOLS = {"ours": "discedit-onnx", "onnxsim": "onnxsim", "torch-pruning": "Torch-Pruning"}
TIE = 0.001
"""Difference of two reachable shares that is none."""
REASONS = 3
"""How many reasons a cell names."""


def tables(records: list[Record], facts: dict[str, str]) -> str:
    """Facts, a summary, two tables of ours and one of the peers."""
    parts = [
        "; ".join(f"{name} {value}" for name, value in facts.items()) + ".",
        summary(records),
        ours(records),
        conclusions(records),
        peers(records),
    ]
    return "\n\n".join(parts)


def summary(records: list[Record]) -> str:
    """The figures over the whole zoo."""
    exported = [r for r in records if "ours" in r]
    lines = [f"{len(exported)} of {len(records)} models exported."]
    for tool, name in TOOLS.items():
        runs = [r[tool] for r in exported if tool in r]
        valid = sum(bool(run.get("valid")) for run in runs)
        equal = sum(bool(run.get("equal")) for run in runs)
        idle = sum(len(set(run.get("parameters", (0, 1)))) == 1 for run in runs)
        text = f"{name}: {valid} valid and {equal} equal of {len(runs)}"
        lines.append(f"{text}; on {idle} of them nothing was removed.")
    covered = sum(r["ours"].get("covered", 0) for r in exported)
    weights = sum(r["ours"].get("weights", 0) for r in exported)
    lines.append(f"Weights of layers in a removable row or column: {share(covered, weights)}.")
    loose = sum(r["ours"].get("covered inexact", 0) for r in exported)
    lines.append(f"The same with the inexact option: {share(loose, weights)}.")
    mean = [r["ours"]["covered"] / r["ours"]["weights"] for r in exported if "covered" in r["ours"]]
    if mean:
        lines.append(f"The same as a mean over the models: {sum(mean) / len(mean):.1%}.")
    for tool in list(TOOLS)[1:]:
        lines.append(rivalry(exported, tool, "reach"))
        lines.append(rivalry(exported, tool, "reach inside"))
    return "\n".join(f"- {line}" for line in lines)


def rivalry(records: list[Record], tool: str, own: str) -> str:
    """How often ours reaches more parameters than a peer; what it breaks it does not reach."""
    more, tied, fewer, unsound = 0, 0, 0, 0
    for record in records:
        peer = record.get(tool)
        if peer is None or own not in record["ours"]:
            continue
        sound = peer.get("valid") and peer.get("equal") and "reach" in peer
        unsound += not sound
        lead = record["ours"][own] - (peer["reach"] if sound else 0)
        more += lead > TIE
        tied += abs(lead) <= TIE
        fewer += lead < -TIE
    return (
        f"Parameters reachable{'' if own == 'reach' else ', ours inside heads'}, against "
        f"{TOOLS[tool]}: more on {more} models, as many (within "
        f"{TIE:.1%}) on {tied}, fewer on {fewer}; {unsound} models on which it fails, or gives "
        "what is not equal, count as nothing reached."
    )


def ours(records: list[Record]) -> str:
    """One row a model."""
    rows = [
        "| model | exported by | valid | equal | parameters | MACs | reachable | inside heads"
        " | inexact | weights of layers | inexact | analysis, s | surgery, s"
        " | held back by (indices) |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        start = f"| {title(record)} | {how(record)} "
        run = record.get("ours", record)
        if "analysis" not in run:
            rows.append(f"{start}| {failure(run)} | | | | | | | | | | | |")
            continue
        rows.append(
            f"{start}| {verdicts(run)} | {change(run, 'parameters')} | {change(run, 'macs')} "
            f"| {run['reach']:.1%} | {run['reach inside']:.1%} | {run['reach inexact']:.1%} "
            f"| {share(run['covered'], run['weights'])} "
            f"| {share(run['covered inexact'], run['weights'])} "
            f"| {run['analysis']:.2f} | {run.get('surgery', 0):.2f} | {reasons(run['pinned'])} |"
        )
    return "\n".join(rows)


def conclusions(records: list[Record]) -> str:
    """What `inspect` ends with, and the models that it ends so for."""
    models: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if "conclusion" in record.get("ours", {}):
            models[record["ours"]["conclusion"]].append(title(record))
    rows = ["| `inspect` ends with | models |", "|---|---|"]
    rows += [f"| {line.replace('|', '/')} | {', '.join(names)} |" for line, names in models.items()]
    return "\n".join(rows)


def peers(records: list[Record]) -> str:
    """One row a model: what each of the three can reach, and what came of 30 %."""
    rows = [
        "| model | reachable: ours | onnxsim | Torch-Pruning | onnxsim: valid | equal | parameters"
        " | MACs | s | Torch-Pruning: valid | equal | parameters | MACs | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        if "ours" not in record:
            continue
        reach = [
            f"{record[tool]['reach']:.1%}" if "reach" in record.get(tool, {}) else "–"
            for tool in TOOLS
        ]
        cells = [title(record), *reach]
        for tool in list(TOOLS)[1:]:
            run = record.get(tool)
            if run is None:
                cells += ["–"] * 5
            elif "parameters" not in run:
                cells += [failure(run), "", "", "", ""]
            else:
                verdict = verdicts(run)
                cells += [verdict, change(run, "parameters"), change(run, "macs")]
                cells.append(f"{run['seconds']:.2f}")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def title(record: Record) -> str:
    return f"{record['library']} {record['model']}"


def how(record: Record) -> str:
    batch = "dynamic" if record["dynamic"] else "static"
    return f"{record['exporter']}, opset {record['opset']}, {batch}"


def verdicts(run: Record) -> str:
    """Two cells: valid and equal; where one is no, what was said or measured."""
    valid = "yes" if run.get("valid") else f"**no**: {failure(run)}"
    if run.get("equal"):
        return f"{valid} | yes"
    return f"{valid} | **no**" + (f" ({run['deviation']:.0e})" if "deviation" in run else "")


def failure(run: Record) -> str:
    text = str(run.get("error") or "output shape changed").replace("|", "/").replace("\n", " ")
    return text if len(text) <= 80 else text[:79] + "…"


def change(run: Record, key: str) -> str:
    before, after = run.get(key) or (None, None)
    return f"{number(before)} → {number(after)}"


def number(value: float | None) -> str:
    if value is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def reasons(pinned: list[list[Any]]) -> str:
    """The greatest holders, the same operator and reason taken together."""
    held: dict[str, int] = defaultdict(int)
    for where, why, indices in pinned:
        operator = where.split(" ")[0]
        held[f"{operator} {why}".strip()] += indices
    greatest = sorted(held.items(), key=lambda item: -item[1])[:REASONS]
    return "; ".join(f"{reason} ({indices})" for reason, indices in greatest).replace("|", "/")
