"""What is exported reads back as the configuration that was measured, and says where it is from."""

from __future__ import annotations

import json
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autotune.exceptions import InputError
from autotune.export import ExportFormat, Provenance, export, provenance
from autotune.search_space import SearchSpace
from autotune.stats import RatioEstimate
from autotune.storage import Database, StudyRecord, TrialRecord, VerificationRecord
from autotune.trial import Failure, Measurement, Params, TrialResult

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
AWKWARD = ["off", "no", "1e3", "a b", "it's", '"$HOME"', "--x", "#c", "ü", "x=y", "*"]

SPACE = SearchSpace.from_dict(
    {
        "target": "spdl_video",
        "parameters": {
            "num_demux_threads": {
                "min": 1,
                "max": 16,
                "default": 8,
                "flag": "--num-demux-threads",
            },
            "subclip_duration": {
                "min": 0.25,
                "max": 4.0,
                "default": 2.0,
                "flag": "--subclip-duration",
                "workload": True,
            },
            "gc": {"values": [True, False], "default": True, "flag": "--gc"},
            "mode": {"values": AWKWARD, "default": "off", "flag": "--mode"},
            "arena": {
                "values": ["off", "pool"],
                "default": "off",
                "flag": "--arena",
                "when": 'mode == "off"',
            },
        },
    }
)
PARAMS: Params = {
    "num_demux_threads": 3,
    "subclip_duration": 0.5,
    "gc": False,
    "mode": "off",
    "arena": "pool",
}


def _study(**changes: Any) -> StudyRecord:
    values: dict[str, Any] = {
        "id": 1,
        "uuid": "u",
        "name": "kinetics",
        "optuna_study_name": "kinetics",
        "target": "spdl_video",
        "source": "measured",
        "experiment": {},
        "identity": {},
        "space": SPACE.to_dict(),
        "baseline": SPACE.defaults(),
        "state": "finished",
        "state_reason": "",
        "created_at": NOW,
        "updated_at": NOW,
        "elapsed_seconds": 60.0,
        "dataset_samples": 10,
        "machine_hash": None,
        "dataset_hash": None,
        "autotune_version": "0.1.0",
    }
    return StudyRecord(**(values | changes))


def _verification(verified: bool) -> VerificationRecord:
    return VerificationRecord(
        study_id=1,
        trial_number=7,
        baseline_number=0,
        baseline_params=SPACE.defaults(),
        workload="",
        ratio=1.43 if verified else 1.01,
        ratio_low=1.40 if verified else 0.98,
        ratio_high=1.46 if verified else 1.04,
        blocks=6,
        significant=verified,
        verified=verified,
        candidate_mean=143.0,
        baseline_mean=100.0,
        details={},
        created_at=NOW,
    )


def _trial(params: Params = PARAMS, **changes: Any) -> TrialRecord:
    values: dict[str, Any] = {
        "study": "kinetics",
        "number": 7,
        "state": "COMPLETE",
        "origin": "sampler",
        "params": SPACE.complete(params),
        "workload_key": "subclip_duration=0.5",
        "samples_per_second": 140.0,
        "verified": True,
        "verification": _verification(True),
        "created_at": NOW,
    }
    return TrialRecord(**(values | changes))


def _provenance(**changes: Any) -> Provenance:
    values: dict[str, Any] = {
        "study": "kinetics",
        "study_uuid": "u",
        "trial": 7,
        "target": "spdl_video",
        "verified": True,
        "gain": 1.43,
        "gain_low": 1.40,
        "gain_high": 1.46,
        "blocks": 6,
        "samples_per_second": 143.0,
        "baseline_samples_per_second": 100.0,
        "workload": "subclip_duration=0.5",
        "gpu": "NVIDIA H100",
        "cpu": "Xeon",
        "machine": {"gpu": "NVIDIA H100"},
        "data": {"num_samples": 10},
        "versions": {"spdl": "0.8.0"},
        "measured_at": NOW,
        "autotune_version": "0.1.0",
    }
    return Provenance(**(values | changes))


def test_flags_are_one_line_to_paste() -> None:
    text = export(_trial(), _study(), SPACE, "flags")
    assert text == (
        "--num-demux-threads 3 --subclip-duration 0.5 --gc false --mode off --arena pool\n"
    )


def test_parameters_without_effect_are_left_out_everywhere() -> None:
    trial = _trial(PARAMS | {"mode": "no"})
    formats: tuple[ExportFormat, ...] = ("flags", "json", "yaml", "env", "argfile")
    for form in formats:
        assert "arena" not in export(trial, _study(), SPACE, form).lower()


def test_env_says_where_it_comes_from_in_comments() -> None:
    lines = export(_trial(), _study(), SPACE, "env", _provenance()).splitlines()
    comments = [line for line in lines if line.startswith("# ")]
    assert "study kinetics, trial 7, target spdl_video" in comments[0]
    assert comments[1] == "# verified: 1.43x the baseline (1.40 to 1.46, 6 blocks)"
    assert "# machine: NVIDIA H100, Xeon" in comments
    assert "# versions: spdl 0.8.0" in comments
    assert lines[len(comments) :] == [
        "NUM_DEMUX_THREADS=3",
        "SUBCLIP_DURATION=0.5",
        "GC=false",
        "MODE=off",
        "ARENA=pool",
    ]


def test_a_name_cannot_break_out_of_its_comment(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    text = export(
        _trial(), _study(), SPACE, "env", _provenance(study=f"x\r\ntouch {marker}\u2028y")
    )
    file = tmp_path / "flags.env"
    file.write_text(text)
    subprocess.run(["sh", "-c", f"set -a; . {file}"], check=True)
    assert not marker.exists()


def test_documents_carry_parameters_and_provenance() -> None:
    as_json = json.loads(export(_trial(), _study(), SPACE, "json", _provenance()))
    as_yaml = yaml.safe_load(export(_trial(), _study(), SPACE, "yaml", _provenance()))
    assert as_json == as_yaml
    assert as_json["params"] == PARAMS
    assert as_json["provenance"]["gain_low"] == 1.40
    assert as_json["provenance"]["measured_at"] == "2026-11-20T12:00:00Z"
    assert json.loads(export(_trial(), _study(), SPACE, "json")) == {"params": PARAMS}


@pytest.mark.parametrize(
    ("changes", "study", "says"),
    [
        ({"verified": False, "verification": None}, {}, "not measured again"),
        (
            {"verified": False, "verification": _verification(False)},
            {},
            r"no significant gain \(1.01x, 0.98 to 1.04\)",
        ),
        ({"verified": False, "verification": None, "origin": "baseline"}, {}, "is the baseline"),
    ],
)
def test_what_is_not_verified_is_exported_only_on_demand(
    changes: dict[str, Any], study: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        export(_trial(**changes), _study(**study), SPACE, "flags")
    assert "--unverified" in str(caught.value)
    assert export(_trial(**changes), _study(**study), SPACE, "flags", unverified=True)


@pytest.mark.parametrize(
    ("changes", "study", "says"),
    [
        ({}, {"source": "replay"}, "never exported"),
        ({"failure": Failure(kind="hang", cause="silent")}, {}, r"failed \(hang: silent\)"),
        ({"samples_per_second": None, "state": "RUNNING"}, {}, "state is RUNNING"),
    ],
)
def test_what_was_not_measured_is_never_exported(
    changes: dict[str, Any], study: dict[str, Any], says: str
) -> None:
    for unverified in (False, True):
        with pytest.raises(InputError, match=says):
            export(_trial(**changes), _study(**study), SPACE, "flags", unverified=unverified)


def test_an_unknown_format_lists_the_accepted_ones() -> None:
    with pytest.raises(InputError, match="accepted: flags, json, yaml, env, argfile"):
        export(_trial(), _study(), SPACE, "toml")  # type: ignore[arg-type]


_PARAMS = st.fixed_dictionaries(
    {
        "num_demux_threads": st.integers(1, 16),
        "subclip_duration": st.floats(0.25, 4.0),
        "gc": st.booleans(),
        "mode": st.sampled_from(AWKWARD),
        "arena": st.sampled_from(["off", "pool"]),
    }
)


@given(_PARAMS)
def test_every_format_reads_back_as_the_configuration(params: Params) -> None:
    trial, study = _trial(params), _study()
    wanted = SPACE.canonical(params)
    flags = export(trial, study, SPACE, "flags")
    assert flags.count("\n") == 1
    assert SPACE.canonical(SPACE.parse_flags(flags)) == wanted
    words = export(trial, study, SPACE, "argfile").splitlines()
    assert SPACE.canonical(SPACE.parse_flags(words)) == wanted
    assert json.loads(export(trial, study, SPACE, "json"))["params"] == dict(wanted)
    assert yaml.safe_load(export(trial, study, SPACE, "yaml"))["params"] == dict(wanted)
    env = export(trial, study, SPACE, "env", _provenance())
    read = [shlex.split(line, comments=False) for line in env.splitlines() if line[0] != "#"]
    texts = {name.upper(): str(v).lower() if isinstance(v, bool) else str(v) for name, v in wanted}
    assert dict(word.split("=", 1) for [word] in read) == texts


def test_provenance_comes_from_the_database(tmp_path: Path) -> None:
    needed = [n for n, f in Measurement.model_fields.items() if f.is_required()]
    figures = dict.fromkeys(needed, 1) | {"steady": True, "versions": {"ffmpeg": "8.0"}}
    with Database.open(f"sqlite:///{tmp_path / 's.db'}") as database:
        study = database.create_study(
            "kinetics",
            target="spdl_video",
            experiment={},
            identity={},
            space=SPACE.to_dict(),
            baseline=SPACE.defaults(),
        )
        database.start_trial(study.id, 0, PARAMS)
        result = TrialResult(
            uuid="a",
            state="finished",
            measurement=Measurement(**figures),
            started_at=NOW.timestamp(),
        )
        database.record(
            study.id, 0, "search", result, machine={"gpu": "H100"}, data={"num_samples": 4}
        )
        database.finish_trial(study.id, 0, "COMPLETE")
        before = provenance(database, study, database.trial(study.id, 0))
        database.add_verification(
            study.id,
            0,
            workload="",
            outcome=RatioEstimate(1.5, 1.4, 1.6, 2),
            candidate_rates=[1.5, 1.5],
            baseline_rates=[1.0, 1.0],
            baseline_params={},
        )
        trial = database.trial(study.id, 0)
        after = provenance(database, study, trial)
        assert '"verified": true' in export(trial, study, SPACE, "json", after)
    assert (before.verified, before.gain, before.samples_per_second) == (False, None, 1.0)
    assert (after.verified, after.gain, after.gain_low, after.blocks) == (True, 1.5, 1.4, 2)
    assert (after.samples_per_second, after.baseline_samples_per_second) == (1.5, 1.0)
    assert (after.gpu, after.data, after.versions) == (
        "H100",
        {"num_samples": 4},
        {"ffmpeg": "8.0"},
    )
    assert after.measured_at == NOW
    assert after.workload == "subclip_duration=0.5"
