from __future__ import annotations

import json
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.exceptions import ExpressionError, InputError
from autotune.search_space import Parameter, SearchSpace, find_space, value_from_text
from autotune.trial import Params

NODE = {"cpu_count": 2, "gpu_count": 0, "memory_gib": 8.0}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace.load(find_space("spdl_video"))


def make(parameters: dict[str, Any], constraints: list[str] | None = None) -> SearchSpace:
    return SearchSpace.from_dict(
        {"target": "t", "parameters": parameters, "constraints": constraints or []}, "x.yaml"
    )


THREADS = {"min": 1, "max": 4, "default": 2}
MODE = {"values": ["off", "pool"], "default": "off"}


# --------------------------------------------------------------------------- the packaged space


def test_packaged_space_has_the_published_defaults(space: SearchSpace) -> None:
    assert space.target == "spdl_video"
    assert space.defaults() == {
        "num_fetch_threads": 8,
        "num_demux_threads": 8,
        "num_decode_threads": 16,
        "decoder_threads": 1,
        "sink_buffer_size": 3,
        "backend_buffer_size": 3,
        "process_mode": "in_process",
        "arena": "off",
        "gc_policy": "automatic",
        "device": "cpu",
        "subclip_duration": 2.0,
        "subclip_start": "first",
        "batch_size": 16,
        "scale_algorithm": "bicubic",
    }
    assert space.workload_names == [
        "device",
        "subclip_duration",
        "subclip_start",
        "batch_size",
        "scale_algorithm",
    ]
    assert space.parameters["num_demux_threads"].flag == "--num-demux-threads"
    assert all(parameter.help for parameter in space.parameters.values())
    assert space.violations(space.defaults(), NODE) == []


def test_violations_show_the_numbers(space: SearchSpace) -> None:
    params = space.complete({"num_fetch_threads": 16, "num_demux_threads": 12})
    (broken,) = space.violations(params, NODE)
    assert "num_fetch_threads + num_demux_threads <= max(16, 4 * cpu_count)" in broken
    assert "28 <= 16 (cpu_count = 2, num_demux_threads = 12, num_fetch_threads = 16)" in broken
    assert space.violations(params, {**NODE, "cpu_count": 16}) == []
    with pytest.raises(ExpressionError, match="unknown name 'cpu_count'"):
        space.violations(params, {})


# --------------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ({**THREADS, "maxx": 3}, ["parameters.p.maxx: unknown key", "'max'", "values, min"]),
        (3, ["parameters.p: a mapping", "not a number (3)"]),
        ({"min": 1, "max": 4}, ["parameters.p.default: is missing"]),
        ({"min": 1, "default": 1}, ["parameters.p.max: is missing", "`values`"]),
        ({**THREADS, "min": "1"}, ["parameters.p.min: a number is needed, not text (1)"]),
        ({**THREADS, "max": True}, ["parameters.p.max: a number is needed, not true/false"]),
        ({**THREADS, "max": float("nan")}, ["parameters.p.max: a number is needed"]),
        ({"min": 4, "max": 1, "default": 2}, ["range is empty: min 4 is above max 1"]),
        ({"values": [], "default": 2}, ["parameters.p.values: the list is empty"]),
        ({"values": 3, "default": 2}, ["parameters.p.values: a list", "not a number"]),
        ({"values": [8, 8], "default": 8}, ["8 is listed twice"]),
        ({"values": [1, 1.0], "default": 1}, ["1.0 is listed twice"]),
        ({"values": [[1]], "default": 1}, ["[1] is a list"]),
        ({"values": ["a", 1], "default": 1}, ["mix a number and text", "in quotes"]),
        ({"values": [False, "pool"], "default": "pool"}, ["Was off or no meant?", 'it ("off")']),
        ({**THREADS, "default": 5}, ["p.default: 5 is not accepted", "whole numbers 1 to 4"]),
        ({**THREADS, "default": "2"}, ["p.default: 2 is not accepted", "whole numbers 1 to 4"]),
        ({**MODE, "default": "of"}, ["Did you mean 'off'?", "Accepted: off, pool"]),
        ({**MODE, "default": False}, ['An unquoted off is false in YAML: write "off"']),
        ({**MODE, "min": 1}, ["p.min: cannot stand beside `values`"]),
        ({**THREADS, "step": 0}, ["p.step: 0 is not accepted", "above 0"]),
        ({**THREADS, "step": 2}, ["p.max: 4 is not reached", "is 3"]),
        ({**THREADS, "log": True, "min": 0}, ["p.log: needs min above 0"]),
        ({**THREADS, "log": True, "step": 1}, ["p.log: cannot stand beside `step`"]),
        ({**THREADS, "log": 1}, ["p.log: 1 is not accepted. Accepted: true, false"]),
        ({**THREADS, "workload": "yes"}, ["p.workload: 'yes' is not accepted"]),
        ({**THREADS, "flag": "-p"}, ["p.flag: '-p' is not a flag"]),
        ({**THREADS, "unit": 3}, ["p.unit: text is needed, not a number (3)"]),
        ({**THREADS, "when": "q ="}, ["parameters.p.when: unexpected '='", "^"]),
        ({**THREADS, "when": True}, ["parameters.p.when: True is not an expression"]),
        ({**THREADS, "when": "qq > 2"}, ["'qq' is no parameter", "Did you mean 'q'?"]),
        ({**THREADS, "when": "p > 2"}, ["refers to p itself"]),
        ({**THREADS, "when": "q == 'a'"}, ["cannot compare the number"]),
        ({**THREADS, "when": "q"}, ["must be true or false"]),
        ({**THREADS, "when": "cpu_count > 2"}, ["'cpu_count' is no parameter"]),
        ({**THREADS, "flag": "--q"}, ["parameters.q.flag: --q is already the flag of p"]),
    ],
)
def test_bad_parameters(entry: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        make({"p": entry, "q": THREADS})
    assert str(caught.value).startswith("x.yaml: parameters.")
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["P", "1p", "a-b", "", "and", "a.b", "cpu_count"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InputError, match=r"x\.yaml: parameters\."):
        make({name: THREADS})


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ([], ["a mapping is needed, not a list"]),
        ({"parameters": {"p": THREADS}}, ["target: the target's name is needed"]),
        ({"target": "t"}, ["parameters: a mapping of parameters is needed"]),
        ({"target": "t", "parameters": {}}, ["at least one"]),
        ({"target": "t", "parameter": {}}, ["unknown key", "Did you mean 'parameters'?"]),
        ({"target": "t", "parameters": {"p": THREADS}, "constraints": "p > 1"}, ["a list of"]),
    ],
)
def test_bad_documents(data: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        SearchSpace.from_dict(data, "x.yaml")
    assert str(caught.value).startswith("x.yaml")
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("pp < 2", ["x.yaml: constraints[1]: unknown name 'pp'", "Did you mean 'p'?", "cpu_count"]),
        ("p < ", ["x.yaml: constraints[1]: unexpected end"]),
        ("p + 1", ["x.yaml: constraints[1]", "must be true or false"]),
        ("p < 'a'", ["x.yaml: constraints[1]", "cannot compare"]),
    ],
)
def test_bad_constraints(text: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        make({"p": THREADS}, ["p <= cpu_count", text])
    for part in parts:
        assert part in str(caught.value)


def test_circular_conditions() -> None:
    circle = {
        "a": {**THREADS, "when": "b > 1"},
        "b": {**THREADS, "when": "c > 1"},
        "c": {**THREADS, "when": "a > 1"},
    }
    with pytest.raises(InputError, match="circle: a -> b -> c -> a"):
        make(circle)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("target: t\nparameters:\n  p: [1,\n", [":4: this is not valid YAML"]),
        ("target: t\ntarget: u\n", [":2: the key 'target' is given twice"]),
        ("target: t\nparameters: {p: {values: [off, pool]}}", [":2: an unquoted off", '"off"']),
        ("target: t\nparameters: {on: {min: 1}}", [":2: an unquoted on"]),
        ("target: !!timestamp 2026-01-01\n", [":1: this is not valid YAML"]),
        ("target: !!python/name:os.system x\n", [":1: this is not valid YAML"]),
        ("1: t\n", [":1: the key 1 is not text"]),
        ("target: 1e999\n", [":1: this number is too large"]),
        ("- t\n", ["a YAML mapping"]),
        ("", ["the file is empty"]),
        ("[" * 1000, ["nested too deeply"]),
    ],
)
def test_bad_yaml_names_file_and_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        SearchSpace.load(path)
    assert str(caught.value).startswith(str(path))
    for part in parts:
        assert part in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        SearchSpace.load(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        SearchSpace.load(tmp_path)
    binary = tmp_path / "space.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        SearchSpace.load(binary)


def test_yaml_reads_numbers_as_a_person_means_them(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "target: t\nparameters:\n  p: {min: 1e-3, max: 1e3, log: true, default: 1}\n"
        "  d: {values: [2026-01-01, 1:30, 'off'], default: 1:30}\n"
    )
    space = SearchSpace.load(path)
    assert space.parameters["p"].max == 1000.0
    assert space.parameters["d"].values == ("2026-01-01", "1:30", "off")


def test_a_condition_that_can_never_hold_is_refused_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "target: t\nparameters:\n  mode: {values: [a, b], default: a}\n"
        "  p: {min: 1, max: 2, default: 1, when: mode == 'bb'}\n"
    )
    with pytest.raises(InputError, match=r"can never be true.*Values of mode: a, b"):
        SearchSpace.load(path)


def test_find_space_lists_what_there_is() -> None:
    with pytest.raises(InputError) as caught:
        find_space("spdl_vido")
    assert "Did you mean 'spdl_video'?" in str(caught.value)
    with pytest.raises(InputError, match=r"Accepted: .*spdl_video"):
        find_space("../pyproject")


# --------------------------------------------------------------------------- kinds and values


def test_kinds_follow_from_what_is_written() -> None:
    space = make(
        {
            "i": THREADS,
            "f": {"min": 0, "max": 1, "default": 0.5},
            "s": {"min": 0, "max": 1, "step": 0.1, "default": 0},
            "c": {"values": [1, 2.5], "default": 1},
            "b": {"values": [True, False], "default": False},
        }
    )
    assert [p.kind for p in space.parameters.values()] == [
        "int",
        "float",
        "float",
        "categorical",
        "categorical",
    ]
    assert space.parameters["c"].values == (1.0, 2.5)
    assert list(space.parameters["s"].domain()) == [k / 10 for k in range(11)]
    assert space.parameters["f"].cardinality() is None
    # What a sampler's arithmetic makes of 0.3 is still 0.3.
    assert space.complete({"s": 0.1 + 0.2})["s"] == 0.3
    assert space.size() is None
    with pytest.raises(InputError, match=r"f: the range numbers 0\.0 to 1\.0 is continuous"):
        next(space.enumerate())


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("num_demux_threads", 17, ["17 is not accepted", "whole numbers 1 to 16"]),
        ("num_demux_threads", 2.5, ["2.5 is not accepted"]),
        ("num_demux_threads", True, ["true is not accepted"]),
        ("num_demux_threads", "3", ["3 is not accepted"]),
        ("num_demux_threads", float("inf"), ["inf is not accepted"]),
        ("num_demux_threads", None, ["None is not accepted"]),
        ("arena", False, ['write "off"']),
        ("subclip_duration", 3, ["0.5, 1.0, 2.0, 4.0"]),
        ("num_demux_thread", 3, ["unknown parameter", "Did you mean 'num_demux_threads'?"]),
    ],
)
def test_check_names_key_value_and_accepted(
    space: SearchSpace, name: str, value: object, parts: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        space.check({name: value}, "e.yaml: baseline")
    assert str(caught.value).startswith(f"e.yaml: baseline.{name}: ")
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_demux_threads", "3", 3),
        ("subclip_duration", "2", 2.0),
        ("subclip_duration", "5e-1", 0.5),
        ("arena", "off", "off"),
    ],
)
def test_value_from_text(space: SearchSpace, name: str, text: str, value: object) -> None:
    found = value_from_text(space.parameters[name], text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["", "x", "1_0", " 3", "nan", "3.5", "0x3", "٣", "9" * 200])
def test_value_from_bad_text(space: SearchSpace, text: str) -> None:
    with pytest.raises(InputError, match=r"num_demux_threads: .*Accepted: whole numbers 1 to 16"):
        value_from_text(space.parameters["num_demux_threads"], text)


# --------------------------------------------------------------------------- conditions


def test_a_parameter_without_effect_takes_its_default(space: SearchSpace) -> None:
    params = space.complete({"arena": "pool", "num_demux_threads": 3})
    assert params["arena"] == "off"
    assert "arena" not in space.active(params)
    assert space.complete({"arena": "pool", "process_mode": "subprocess"})["arena"] == "pool"
    assert list(params) == list(space.parameters)


def test_conditions_chain_in_any_order() -> None:
    chained = make(
        {
            "c": {**THREADS, "when": "b == 4"},
            "b": {**THREADS, "when": "a == 4"},
            "a": THREADS,
        }
    )
    assert chained.searched == ["a", "b", "c"]
    assert chained.complete({"a": 4, "b": 4, "c": 1}) == {"c": 1, "b": 4, "a": 4}
    # b falls to its default, and so c has no effect either.
    assert chained.complete({"a": 3, "b": 4, "c": 1}) == {"c": 2, "b": 2, "a": 3}
    assert chained.size() == 3 + 3 + 4


def test_canonical_ignores_what_has_no_effect(space: SearchSpace) -> None:
    one = space.canonical({"process_mode": "in_process", "arena": "pool"})
    other = space.canonical({})
    assert one == other
    assert space.canonical({"process_mode": "subprocess"}) != one
    # NVDEC's frames are scaled by the same algorithms as the CPU's
    scaled = {"device": "nvdec", "scale_algorithm": "area"}
    assert space.workload_key(scaled) != space.workload_key({"device": "nvdec"})
    assert space.workload_key({"batch_size": 8}) != space.workload_key({})
    assert space.workload_key({"num_demux_threads": 2}) == space.workload_key({})


# --------------------------------------------------------------------------- what is searched


def test_subset_pins_what_is_fixed_and_the_workload(space: SearchSpace) -> None:
    searched = space.subset({"device": "cpu"}, ["subclip_duration"], {"batch_size": 32})
    assert searched.pinned == {
        "device": "cpu",
        "batch_size": 32,
        "subclip_start": "first",
        "scale_algorithm": "bicubic",
    }
    assert "subclip_duration" in searched.searched
    assert searched.complete({})["batch_size"] == 32
    assert searched.parameters == space.parameters


def test_subset_pins_what_can_have_no_effect(space: SearchSpace) -> None:
    searched = space.subset({"device": "nvdec", "process_mode": "in_process"})
    for name in ("decoder_threads", "arena", "backend_buffer_size"):
        assert searched.pinned[name] == space.parameters[name].default
    assert searched.size() == 16 * 16 * 32 * 16 * 2


def test_pinned_values_cannot_be_contradicted(space: SearchSpace) -> None:
    searched = space.subset({"num_demux_threads": 3})
    with pytest.raises(InputError, match=r"num_demux_threads at 3\. Remove it, or do not fix"):
        searched.check({"num_demux_threads": 4})
    with pytest.raises(InputError, match=r"batch_size at 16.*under vary_workload"):
        searched.complete({"batch_size": 8})
    assert searched.complete({"num_demux_threads": 3})["num_demux_threads"] == 3


@pytest.mark.parametrize(
    ("fixed", "vary", "parts"),
    [
        ({}, ["subclip"], ["vary_workload: subclip is unknown", "subclip_start"]),
        ({}, ["num_demux_threads"], ["is no workload parameter", "Accepted: device"]),
        ({"batch_size": 8}, ["batch_size"], ["is fixed at 8", "Remove one"]),
        ({"batch_size": 7}, [], ["e.yaml: target.batch_size: 7", "8, 16, 32, 64"]),
    ],
)
def test_bad_subsets(space: SearchSpace, fixed: Params, vary: list[str], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        space.subset(fixed, vary, where="e.yaml")
    for part in parts:
        assert part in str(caught.value)


def test_a_range_of_one_value_is_not_searched() -> None:
    space = make({"a": {"min": 2, "max": 2, "default": 2}, "b": THREADS})
    assert space.searched == ["b"]
    assert space.pinned == {"a": 2}


def test_merged_narrows(space: SearchSpace) -> None:
    narrow = space.merged(
        {
            "num_decode_threads": {"max": 4, "default": 4},
            "process_mode": {"values": ["in_process"]},
        },
        "e.yaml: search_space.parameters",
    )
    assert narrow.parameters["num_decode_threads"].max == 4
    assert narrow.pinned["arena"] == "off"
    assert narrow.parameters["batch_size"] == space.parameters["batch_size"]
    choices = space.merged({"num_decode_threads": {"values": [4, 16]}}, "e.yaml")
    assert choices.parameters["num_decode_threads"].kind == "categorical"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"num_decode_threads": {"max": 4}}, ["default: 16 is not accepted", "give one here too"]),
        ({"num_decode": {"max": 4}}, ["num_decode: unknown", "'num_decode_threads'"]),
        ({"num_decode_threads": {"mx": 4}}, ["num_decode_threads.mx: unknown key", "'max'"]),
        ({"num_decode_threads": 4}, ["a mapping is needed"]),
        ([], ["a mapping is needed, not a list"]),
    ],
)
def test_bad_merges(space: SearchSpace, changes: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        space.merged(changes, "e.yaml: search_space.parameters")
    assert str(caught.value).startswith("e.yaml: search_space.parameters")
    for part in parts:
        assert part in str(caught.value)


# --------------------------------------------------------------------------- any space


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Small finite spaces with conditions on earlier parameters, some parameters pinned."""
    parameters: dict[str, Any] = {}
    for index in range(draw(st.integers(1, 5))):
        name = f"p{index}"
        if draw(st.booleans()):
            low, count = draw(st.integers(-2, 2)), draw(st.integers(1, 3))
            domain: list[Any] = list(range(low, low + count))
            entry: dict[str, Any] = {"min": low, "max": low + count - 1}
        else:
            kinds = [["off", "pool", "a b"], [True, False], [0.5, 1.0, 2.5], ["--x", "-1", "'"]]
            domain = draw(st.sampled_from(kinds))
            entry = {"values": domain}
        entry["default"] = draw(st.sampled_from(domain))
        entry["workload"] = draw(st.booleans())
        if parameters and draw(st.booleans()):
            other = draw(st.sampled_from(sorted(parameters)))
            wanted = draw(st.sampled_from(parameters[other]["domain"]))
            literal = json.dumps(wanted)
            entry["when"] = f"{other} {draw(st.sampled_from(['==', '!=']))} {literal}"
        parameters[name] = {**entry, "domain": domain}
    space = make({n: {k: v for k, v in e.items() if k != "domain"} for n, e in parameters.items()})
    fixed = {
        name: draw(st.sampled_from(entry["domain"]))
        for name, entry in parameters.items()
        if draw(st.integers(0, 4)) == 0
    }
    vary = [n for n in space.workload_names if n not in fixed and draw(st.booleans())]
    return space.subset(fixed, vary)


@given(spaces())
@settings(deadline=None)
def test_size_enumerate_and_brute_force_agree(space: SearchSpace) -> None:
    listed = list(space.enumerate())
    keys = {space.canonical(params) for params in listed}
    assert len(keys) == len(listed) == space.size()
    domains = [space.parameters[n].domain() for n in space.searched]
    brute = {
        space.canonical(dict(zip(space.searched, values, strict=True)))
        for values in product(*domains)
    }
    assert keys == brute
    for params in listed:
        assert space.complete(params) == params
        for name, value in space.pinned.items():
            if name in space.active(params):
                assert params[name] == value


@given(spaces(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_flags_read_back(space: SearchSpace, random: Any) -> None:
    params = random.choice(list(space.enumerate()))
    words = space.format_flags(params)
    assert space.complete(space.parse_flags(words)) == params
    assert space.complete(space.parse_flags(shlex.join(words))) == params
    command = ["python", "train.py", *words, "--lr", "0.1"]
    found, ignored = space.parse_flags(command, ignore_unknown=True)
    assert space.complete(found) == params
    assert ignored == ["python", "train.py", "--lr", "0.1"]


@given(spaces())
@settings(deadline=None)
def test_to_dict_reads_back_through_json(space: SearchSpace) -> None:
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


# --------------------------------------------------------------------------- flags


def test_flags_leave_out_what_has_no_effect(space: SearchSpace) -> None:
    words = space.format_flags(space.complete({"num_demux_threads": 3}))
    assert words[:4] == ["--num-fetch-threads", "8", "--num-demux-threads", "3"]
    assert "--arena" not in words


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("--num-demux-threads 3 --arena=pool", {"num_demux_threads": 3, "arena": "pool"}),
        ("--num_demux_threads=3", {"num_demux_threads": 3}),
        ("--batch-size 8 --batch-size 32", {"batch_size": 32}),
        ("", {}),
    ],
)
def test_parse_flags(space: SearchSpace, text: str, params: Params) -> None:
    assert space.parse_flags(text) == params


def test_boolean_flags() -> None:
    space = make({"pin": {"values": [True, False], "default": False}, "n": THREADS})
    assert space.parse_flags("--pin --n 2") == {"pin": True, "n": 2}
    assert space.parse_flags("--pin false") == {"pin": False}
    assert space.format_flags({"pin": True, "n": 2}) == ["--pin", "true", "--n", "2"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("--num-demux-thread 3", ["unknown flag", "Did you mean '--num-demux-threads'?"]),
        ("3", ["'3' is not a flag"]),
        ("--num-demux-threads", ["has no value", "whole numbers 1 to 16"]),
        ("--num-demux-threads --arena off", ["--num-demux-threads has no value"]),
        ("--num-demux-threads x", ["--num-demux-threads: x is not accepted", "1 to 16"]),
        ("--arena=of", ["--arena: of is not accepted", "'off'"]),
        ("--arena 'off", ["cannot be split"]),
        ("-n 3", ["unknown flag -n"]),
    ],
)
def test_bad_flags(space: SearchSpace, text: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        space.parse_flags(text, "--baseline")
    assert str(caught.value).startswith("--baseline: ")
    for part in parts:
        assert part in str(caught.value)


def test_a_parameter_is_read_from_its_own_dict() -> None:
    entry = {"values": [1, 2], "default": 1, "unit": "s", "workload": True, "help": "h"}
    parameter = Parameter.from_dict("p", entry, "x")
    assert Parameter.from_dict("p", parameter.to_dict(), "x") == parameter
