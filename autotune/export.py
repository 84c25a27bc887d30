"""The winner of a study in the form that its user needs, with the evidence beside it.

    flags    --num-demux-threads 3 --process-mode subprocess      one line, to paste
    argfile  one word a line, for ``argparse(fromfile_prefix_chars="@")`` and the like
    env      NUM_DEMUX_THREADS=3, one a line; for ``set -a; . FILE`` and env files of containers
    json     {"params": {...}, "provenance": {...}}
    yaml     the same

``env`` says where it comes from in comments; flags and argument files know none. Parameters that
have no effect in this configuration are left out everywhere.
"""

from __future__ import annotations

import json
import re
import shlex
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

from autotune.exceptions import InputError
from autotune.search_space import SearchSpace
from autotune.storage import StudyRecord, TrialRecord
from autotune.trial import Params, Scalar, Value

if TYPE_CHECKING:
    from autotune.storage import Database

ExportFormat = Literal["flags", "json", "yaml", "env", "argfile"]


class Provenance(Value):
    """Where an exported configuration comes from: what was measured, on what, when."""

    study: str
    study_uuid: str
    trial: int
    target: str
    verified: bool
    gain: float | None
    """Rate over the baseline's, from fresh interleaved runs made after it was chosen."""
    gain_low: float | None
    gain_high: float | None
    """95 % interval of the gain."""
    blocks: int
    samples_per_second: float | None
    baseline_samples_per_second: float | None
    workload: str
    """Values of the parameters that change the work per sample; the gain holds within them."""
    gpu: str | None
    cpu: str | None
    machine: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]
    measured_at: datetime | None
    autotune_version: str


def provenance(database: Database, study: StudyRecord, trial: TrialRecord) -> Provenance:
    """What the database knows of a trial's origin.

    The figures are those of its verification where there is one, else those of the search.
    """
    verification = trial.verification
    runs = database.measurements(study.id, trial.number)
    finished = [run for run in runs if run.state == "finished" and run.role != "ceiling"]
    named = {machine.hash: machine for machine in database.machines()}
    machine = named.get(trial.machine or "")
    data = database.dataset_fingerprint(trial.dataset) if trial.dataset is not None else None
    return Provenance(
        study=study.name,
        study_uuid=study.uuid,
        trial=trial.number,
        target=study.target,
        verified=trial.verified,
        gain=None if verification is None else verification.ratio,
        gain_low=None if verification is None else verification.ratio_low,
        gain_high=None if verification is None else verification.ratio_high,
        blocks=0 if verification is None else verification.blocks,
        samples_per_second=(
            trial.samples_per_second if verification is None else verification.candidate_mean
        ),
        baseline_samples_per_second=(None if verification is None else verification.baseline_mean),
        workload=trial.workload_key,
        gpu=None if machine is None else machine.gpu,
        cpu=None if machine is None else machine.cpu,
        machine={} if machine is None else machine.fingerprint,
        data=data or {},
        versions=finished[-1].versions if finished else {},
        measured_at=finished[-1].started_at if finished else None,
        autotune_version=study.autotune_version,
    )


def export(
    trial: TrialRecord,
    study: StudyRecord,
    space: SearchSpace,
    format: ExportFormat,
    provenance: Provenance | None = None,
    *,
    unverified: bool = False,
) -> str:
    """A trial's configuration as text that ends with a newline.

    Args:
        space: the search space the study was made with: it knows the flags.
        provenance: see `provenance`; the documents and ``env`` carry it.
        unverified: allow a trial whose gain was not verified.

    Raises:
        InputError: for another format, a trial without a figure, a replayed study, one that is not
            verified (unless allowed), or a value that the format cannot carry.
    """
    if format not in get_args(ExportFormat):
        raise InputError(f"format {format!r}; accepted: {', '.join(get_args(ExportFormat))}")
    _refuse(trial, study, unverified)
    params: Params = dict(space.canonical(trial.params))
    match format:
        case "flags":
            return f"{shlex.join(space.format_flags(trial.params))}\n"
        case "argfile":
            words = space.format_flags(trial.params)
            return "".join(f"{_one_line(word, format)}\n" for word in words)
        case "env":
            lines = [f"# {text}" for text in _comments(provenance)]
            lines += [f"{_variable(n)}={_env_value(v)}" for n, v in params.items()]
            return "\n".join(lines) + "\n"
        case "json":
            document = _document(params, provenance)
            return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        case "yaml":
            import yaml

            text: str = yaml.safe_dump(
                _document(params, provenance), sort_keys=False, allow_unicode=True
            )
            return text


def _refuse(trial: TrialRecord, study: StudyRecord, unverified: bool) -> None:
    """Raise InputError unless the trial may be exported, naming what to do instead."""
    which = f"trial {trial.number} of study {study.name!r}"
    if study.source != "measured":
        raise InputError(
            f"{which} was replayed from a recorded table, not measured; a replayed study is "
            "never exported. Launch a study on the real target"
        )
    if trial.failure is not None:
        raise InputError(
            f"{which} failed ({trial.failure.kind}: {trial.failure.cause}); "
            "export another one with --trial, see `autotune trials`"
        )
    if trial.samples_per_second is None:
        raise InputError(
            f"{which} has no figure (its state is {trial.state}); "
            "export another one with --trial, see `autotune trials`"
        )
    if trial.stopped_early:
        raise InputError(
            f"{which} was stopped early as beyond doubt slower than the best, so it has no figure "
            "to export; `autotune best` lists those that were measured to their end"
        )
    if trial.verified or unverified:
        return
    if trial.origin == "baseline":
        why = "it is the baseline: nothing was shown to be faster"
    elif trial.verification is None:
        why = "it was not measured again against the baseline"
    else:
        why = f"measured again it showed no significant gain ({_gain(trial)})"
    raise InputError(
        f"{which} is not verified: {why}. Export it all the same with --unverified, or raise "
        "`budget` and launch the study again to verify its best trial"
    )


def _gain(trial: TrialRecord) -> str:
    found = trial.verification
    if found is None or found.ratio is None:
        return "too few runs ended"
    low = "?" if found.ratio_low is None else f"{found.ratio_low:.2f}"
    high = "?" if found.ratio_high is None else f"{found.ratio_high:.2f}"
    return f"{found.ratio:.2f}x, {low} to {high}"


def _document(params: Params, provenance: Provenance | None) -> dict[str, Any]:
    document: dict[str, Any] = {"params": params}
    if provenance is not None:
        document["provenance"] = provenance.model_dump(mode="json")
    return document


def _comments(provenance: Provenance | None) -> list[str]:
    """The provenance as lines of text; none of them can end its comment."""
    if provenance is None:
        return []
    p = provenance
    lines = [f"autotune {p.autotune_version}, study {p.study}, trial {p.trial}, target {p.target}"]
    if p.gain is not None and p.gain_low is not None and p.gain_high is not None:
        claim = "verified" if p.verified else "not verified"
        lines.append(
            f"{claim}: {p.gain:.2f}x the baseline ({p.gain_low:.2f} to {p.gain_high:.2f}, "
            f"{p.blocks} blocks)"
        )
    else:
        lines.append("not verified")
    if p.workload:
        lines.append(f"within: {p.workload}")
    place = ", ".join(text for text in (p.gpu, p.cpu) if text)
    if place:
        lines.append(f"machine: {place}")
    if p.versions:
        lines.append(f"versions: {', '.join(f'{n} {v}' for n, v in sorted(p.versions.items()))}")
    if p.measured_at is not None:
        lines.append(f"measured: {p.measured_at:%Y-%m-%d}")
    return [" ".join(line.split()) for line in lines]


def _variable(name: str) -> str:
    """NUM_DEMUX_THREADS: no prefix, as AUTOTUNE_... are autotune's own variables."""
    return re.sub(r"\W", "_", name.upper(), flags=re.ASCII)


def _one_line(text: str, format: str) -> str:
    if text.splitlines() not in ([text], []):
        raise InputError(f"{format}: the value {text!r} has more than one line; use json or yaml")
    return text


def _env_value(value: Scalar) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return shlex.quote(_one_line(text, "env"))
