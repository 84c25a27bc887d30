"""What a person sees of a trial, a study and a result: columns over their JSON objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotune.cli import figures
from autotune.cli.formatting import Column, JsonObject
from autotune.trial import Scalar


def _rate_cell(row: JsonObject) -> str:
    rate = figures.number(row["samples_per_second"])
    return f"~{rate}" if row["stopped_early"] else rate


def _interval_cell(row: JsonObject) -> str:
    return figures.interval(row["ci_low"], row["ci_high"])


def _epoch_cell(row: JsonObject) -> str:
    return figures.duration(row["epoch_seconds"])


def _gain_cell(row: JsonObject) -> str:
    """The verified ratio, else that of the search figures with a ~: nothing is claimed by it."""
    verification = row.get("verification")
    if row["verified"] and verification:
        return f"{verification['ratio']:.2f}x verified"
    if verification and verification["ratio"] is not None:
        return f"{verification['ratio']:.2f}x no gain"
    ratio = row.get("ratio")
    return figures.UNKNOWN if ratio is None or row["origin"] == "baseline" else f"~{ratio:.2f}x"


def outcome_cell(row: JsonObject, baseline: Mapping[str, Scalar] | None) -> str:
    """The configuration as what it changes; for a failed trial, why it failed."""
    changed = figures.changes(row["params"], baseline)
    if row["origin"] == "baseline" and changed == "as the baseline":
        changed = "baseline"
    if row["failure"]:
        return f"{changed}: {row['failure']['kind']}: {row['failure']['cause']}"
    if row["stopped_early"]:
        return f"{changed}: stopped early at ~{figures.number(row['samples_per_second'])}/s"
    if row["violated"]:
        return f"{changed}: violates {', '.join(map(str, row['violated']))}"
    if row["warnings"]:
        return f"{changed}: {'; '.join(row['warnings'])}"
    return changed


def without_common_warnings(rows: Sequence[JsonObject]) -> tuple[list[JsonObject], list[str]]:
    """The rows without the warnings that all trials with a figure share, and those warnings: a
    table says them once."""
    told = [row["warnings"] for row in rows if row["samples_per_second"] is not None]
    common = [text for text in told[0] if all(text in other for other in told)] if told else []
    if len(told) < 2 or not common:
        return list(rows), []
    return [
        {**row, "warnings": [text for text in row["warnings"] if text not in common]}
        for row in rows
    ], common


def trial_columns(baseline: Mapping[str, Scalar] | None) -> list[Column]:
    """Columns of a list of trials."""
    return [
        Column("trial", "number", justify="right"),
        Column("state", "state", lambda row: row["state"].lower()),
        Column("samples/s", "samples_per_second", _rate_cell, "right"),
        Column("95 % interval", "ci_low", _interval_cell, "right"),
        Column("epoch", "epoch_seconds", _epoch_cell, "right"),
        Column(
            "differs from the baseline", "params", lambda r: outcome_cell(r, baseline), fold=True
        ),
    ]


def best_columns(
    baseline: Mapping[str, Scalar] | None, *, across: bool = False, smallest: str | None = None
) -> list[Column]:
    """Columns of the best trials; ``across`` studies names the study of each, ``smallest`` is the
    key of what they are in order by."""
    study = [Column("study", "study")] if across else []
    least = [] if smallest is None else [Column(smallest.removeprefix("params."), smallest)]
    return [
        *study,
        Column("trial", "number", justify="right"),
        Column("samples/s", "samples_per_second", _rate_cell, "right"),
        Column("95 % interval", "ci_low", _interval_cell, "right"),
        Column("vs baseline", "ratio", _gain_cell),
        Column("epoch", "epoch_seconds", _epoch_cell, "right"),
        *least,
        Column(
            "parameters" if across else "differs from the baseline",
            "params",
            lambda row: outcome_cell(row, baseline),
            fold=True,
        ),
    ]


def study_columns() -> list[Column]:
    """Columns of the list of studies."""
    return [
        Column("study", "study"),
        Column("target", "target"),
        Column("state", "state"),
        Column("trials", "trials_done", _trials_cell, "right"),
        Column("best", "best.samples_per_second", _best_cell, "right"),
        Column(
            "vs baseline",
            "best.ratio",
            lambda row: _gain_cell(row["best"]) if row["best"] else figures.UNKNOWN,
        ),
        Column("elapsed", "elapsed_seconds", _elapsed_cell, "right"),
    ]


def _trials_cell(row: JsonObject) -> str:
    total = row["trials_total"]
    return str(row["trials_done"]) if total is None else f"{row['trials_done']}/{total}"


def _best_cell(row: JsonObject) -> str:
    return figures.number(row["best"]["samples_per_second"]) if row["best"] else figures.UNKNOWN


def _elapsed_cell(row: JsonObject) -> str:
    return figures.duration(row["elapsed_seconds"])


def status_lines() -> list[Column]:
    """Lines of `autotune status`."""
    return [
        Column("study", "study"),
        Column("state", "state", lambda r: figures.state(r["state"], r["reason"])),
        Column("trials", "trials_done", _trials_line),
        Column("baseline", "baseline.samples_per_second", lambda r: _figure_line(r["baseline"])),
        Column("best", "best.samples_per_second", _best_line),
        Column("gain", "best.ratio", lambda r: gain_line(r["best"])),
        Column("noise floor", "noise.floor", noise_line),
        Column("ceiling", "best.ceiling_share", _ceiling_cell),
        Column("data", "data.clips", _data_line),
        Column("elapsed", "elapsed_seconds", _elapsed_cell),
        Column(
            "time left", "time_left_seconds", lambda r: figures.duration(r["time_left_seconds"])
        ),
        Column("warning", "warnings", lambda r: "\n".join(r["warnings"])),
    ]


def _data_line(row: JsonObject) -> str:
    data = row["data"]
    if data is None:
        return figures.UNKNOWN
    line = f"{figures.counted(data['clips'], 'clip')}, {figures.size(data['bytes'])}"
    if made := data["extraction"]:
        line += (
            f": {figures.counted(made['frames'], 'frame')}, extracted in "
            f"{figures.duration(made['seconds'])} from {figures.size(made['source_bytes'])}"
        )
    return line


def _trials_line(row: JsonObject) -> str:
    failed = f", {row['trials_failed']} failed" if row["trials_failed"] else ""
    return f"{_trials_cell(row)} done{failed}"


def _figure_line(trial: JsonObject | None) -> str:
    if trial is None or trial["samples_per_second"] is None:
        return ""
    rate = figures.rate(trial["samples_per_second"], trial["ci_low"], trial["ci_high"])
    return f"{rate}, epoch {figures.duration(trial['epoch_seconds'])}"


def _best_line(row: JsonObject) -> str:
    best, baseline = row["best"], row["baseline"]
    if best is None:
        return ""
    changed = figures.changes(best["params"], baseline["params"] if baseline else None)
    return f"trial {best['number']}: {_figure_line(best)}\n{changed}"


def noise_line(row: JsonObject) -> str:
    """``3.1 % (5 runs of the baseline)``, and what changed since."""
    noise = row["noise"]
    if noise is None:
        return ""
    prior = ", pooled with a prior" if noise["prior"] else ""
    runs = figures.counted(noise["runs"], "run")
    lines = [f"{100 * noise['floor']:.1f} % ({runs} of the baseline{prior})"]
    for drift in noise["drift"]:
        change = 100 * (drift["now"] / drift["then"] - 1)
        lines.append(
            f"after {figures.counted(drift['after_trials'], 'trial')} the baseline went from "
            f"{figures.number(drift['then'])} to {figures.rate(drift['now'])} ({change:+.1f} %)"
        )
    return "\n".join(lines)


def ceiling_line(ceilings: JsonObject, trial: JsonObject | None) -> str:
    """``ceiling 3,405 samples/s (train_step fed from memory); trial 7 reaches 38 %``."""
    found = ceilings["workloads"]
    if trial is not None:
        found = [one for one in found if one["workload"] == trial["workload"]]
    if not found:
        return ""
    if found[0]["samples_per_second"] is None:
        return str(found[0]["reason"])
    text = f"ceiling {figures.rate(found[0]['samples_per_second'])}"
    text += f" ({ceilings['consumer']} fed from memory)"
    if trial is None or trial["ceiling_share"] is None:
        return text
    return f"{text}; trial {trial['number']} reaches {100 * trial['ceiling_share']:.0f} %"


def _ceiling_cell(row: JsonObject) -> str:
    if row["ceilings"] is None:
        return ""
    line = ceiling_line(row["ceilings"], row["best"])
    return line.removeprefix("ceiling ").removeprefix("no ceiling: ")


def stage_columns() -> list[Column]:
    """Columns of what each stage reaches alone."""
    return [
        Column("stage", "name"),
        Column("threads", "concurrency", justify="right"),
        Column("samples/s alone", "samples_per_second", _alone_cell, "right"),
    ]


def _alone_cell(row: JsonObject) -> str:
    return figures.number(row["samples_per_second"])


def ties_line(best: int, tied: list[int], floor: float) -> str:
    """Which trials the search cannot tell from the best."""
    shown = ", ".join(map(str, tied[:8])) + (" ..." if len(tied) > 8 else "")
    return (
        f"{figures.counted(len(tied), 'trial')} within the noise floor ({100 * floor:.1f} %) of "
        f"trial {best}, a tie by the search: {shown}"
    )


def gain_line(trial: JsonObject | None) -> str:
    """What may be said of a trial against the baseline, and on what ground."""
    if trial is None:
        return ""
    verification = trial["verification"]
    if verification and verification["ratio"] is not None:
        text = figures.gain(
            verification["ratio"], verification["ratio_low"], verification["ratio_high"]
        )
        blocks = figures.counted(verification["blocks"], "block")
        if not trial["verified"]:
            return f"no significant gain: {text} over {blocks}"
        epochs = figures.epoch_change(
            verification["baseline_epoch_seconds"], verification["epoch_seconds"]
        )
        return f"{text}, verified over {blocks}\nepoch {epochs}"
    if trial.get("ratio") is None or trial["origin"] == "baseline":
        return ""
    return f"{figures.gain(trial['ratio'])} in the search, not verified"


def across_line(across: JsonObject) -> str:
    """The ratio across workload values, labelled as such."""
    return (
        f"Across workload values (a sample is not the same work): trial {across['trial']} with "
        f"{across['workload']} delivers ~{across['ratio']:.2f}x the samples/s of the baseline "
        f"with {across['baseline_workload']}."
    )
