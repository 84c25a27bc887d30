"""What `gpu_check` found, as verdicts and as Markdown."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks import _common, gpu_sweep
from experiments.benchmarks.quality import GOAL_DB

DAMAGED = ("corrupted.mp4",)
"""Clips whose lost pictures each decoder makes up in its own way."""


def judge_decoding(found: Mapping[str, Any]) -> dict[str, Any]:
    """Whether every clip at every window came out of NVDEC at 35 dB or more; ``partial`` where
    those that were compared did, and the time did not suffice for all.

    A window that lies behind a clip's end has no frames on either path; it is left out. Each
    scaler is compared with the reference's same scaler; the native size leaves scalers out.
    """
    rows: Sequence[Mapping[str, Any]] = found.get("rows", [])
    measured = [r for r in rows if "psnr_db" in r]
    outside = [r for r in rows if r.get("kind") == "DataError" and "no frame in" in r["error"]]
    errors = [r for r in rows if "error" in r and r not in outside]
    low = [r for r in measured if r["psnr_db"] < GOAL_DB]
    elsewhere = [r for r in measured if not str(r["device"]).startswith("cuda")]
    complete = bool(found.get("complete")) and "error" not in found
    passed = complete and bool(measured) and not (errors or low or elsewhere)
    return {
        "status": verdict(passed, found.get("left_out")),
        "compared": len(measured),
        "below_goal": len(low),
        "errors": len(errors),
        "outside_the_clip": len(outside),
        "worst_db": min((r["psnr_db"] for r in measured), default=None),
        "not_on_the_gpu": len(elsewhere),
    }


def judge_odd(found: Mapping[str, Any]) -> dict[str, Any]:
    """Whether every clip that NVDEC need not take was refused by name, or decoded right."""
    rows: Sequence[Mapping[str, Any]] = found.get("rows", [])
    unexpected = [r["clip"] for r in rows if "error" in r and r["kind"] != "DataError"]
    decoded = [r for r in rows if "psnr_db" in r]
    wrong = [r["clip"] for r in decoded if r["psnr_db"] < GOAL_DB and r["clip"] not in DAMAGED]
    complete = bool(found.get("complete")) and "error" not in found
    return {
        "status": verdict(complete and not (unexpected or wrong), found.get("left_out")),
        "refused": [r["clip"] for r in rows if r.get("kind") == "DataError"],
        "unexpected": unexpected,
        "below_goal": wrong,
    }


def verdict(passed: bool, left_out: Sequence[Any] | None) -> str:
    """A section's status: ``failed``, ``partial`` where something was left out, or ``ok``."""
    if not passed:
        return "failed"
    return "partial" if left_out else "ok"


def report(document: Mapping[str, Any]) -> str:
    """The whole check as one Markdown page."""
    sections: Mapping[str, Any] = document["sections"]
    gpu = sections.get("gpu", {})
    names = ", ".join(g["name"] for g in gpu.get("gpus", [])) or "GPU"
    parts = [f"# NVDEC on {names}, {document['date']}\n", _summary(document)]
    if gpu:
        parts += ["## GPU\n", _gpu(gpu, document["machine"])]
    if "decode" in sections:
        parts += ["## Decoded on NVDEC against the reference\n", _decoding(sections["decode"])]
    if "odd" in sections:
        parts += ["## What NVDEC need not take\n", _odd(sections["odd"])]
    if sections.get("threads", {}).get("rows"):
        threads = sections["threads"]
        parts += ["## Samples/s by threads\n", gpu_sweep.table(threads["rows"]) + "\n"]
        names = ("process_mode", "num_demux_threads", "num_decode_threads")
        parts.append(
            _not_compared([_common.flags_of(p, *names) for p in threads.get("left_out", [])])
        )
    if "trials" in sections.get("study", {}):
        parts += ["## A study with `train_step`\n", _study(sections["study"])]
    for name, section in sections.items():
        if "error" in section:
            parts += [f"## Failed: {name}\n", _failure(section)]
    return "\n".join(parts)


def _summary(document: Mapping[str, Any]) -> str:
    rows = [
        [name, section["status"], section.get("seconds", "-"), section.get("error", "")]
        for name, section in document["sections"].items()
    ]
    return _common.markdown_table(["section", "status", "seconds", "what failed"], rows) + "\n"


def _gpu(gpu: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    versions = machine["versions"]
    shown = ("torch", "torchvision", "spdl", "av")
    lines = [
        f"- CPU: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"Python {machine['python']}",
        "- packages: " + ", ".join(f"{name} {versions[name]}" for name in shown),
    ]
    for card in gpu.get("gpus", []):
        lines.append(f"- {card['name']}, {card['memory_gib']} GiB, driver {card['driver']}")
    for key in ("cuda_driver", "video_clock_mhz", "max_video_clock_mhz", "power_limit_w", "mig"):
        if key in gpu:
            lines.append(f"- {key}: {gpu[key]}")
    for name, path in gpu.get("libraries", {}).get("found", {}).items():
        lines.append(f"- {name}: {path}")
    for missing in gpu.get("libraries", {}).get("missing", []):
        lines.append(f"- missing: {missing}")
    engines = [
        [codec, c["engines"], "x".join(map(str, c["max_size"]))]
        for codec, c in (gpu.get("capabilities") or {}).items()
        if isinstance(c, Mapping)
    ]
    text = "\n".join(lines) + "\n"
    if engines:
        text += "\n" + _common.markdown_table(["codec", "engines", "largest size"], engines) + "\n"
    return text


def _decoding(section: Mapping[str, Any]) -> str:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in section.get("rows", []):
        what = "own size" if row["native"] else f"112x112 {row['scaler']}"
        groups[row["clip"], what].append(row)
    rows = []
    for (clip, what), found in sorted(groups.items()):
        values = [r["psnr_db"] for r in found if "psnr_db" in r]
        worst = [r["worst_frame_db"] for r in found if "worst_frame_db" in r]
        errors = sorted({r["error"] for r in found if "error" in r})
        rows.append(
            [
                clip,
                what,
                len(values),
                f"{min(values):.1f}" if values else "-",
                f"{min(worst):.1f}" if worst else "-",
                "; ".join(errors)[:200],
            ]
        )
    header = ["clip", "size", "windows", "lowest PSNR (dB)", "worst frame (dB)", "errors"]
    text = _common.markdown_table(header, rows) + "\n"
    plain = {
        name: found.get("error") or found.get("shape")
        for name, found in section.get("plain_spdl", {}).items()
    }
    text += f"\nThe published example's own call: `{json.dumps(plain)}`\n"
    return text + _not_compared(section.get("left_out", []))


def _odd(section: Mapping[str, Any]) -> str:
    rows = [
        [
            row["clip"],
            f"{row['psnr_db']:.1f}" if "psnr_db" in row else "-",
            row.get("error", "")[:200],
        ]
        for row in section.get("rows", [])
    ]
    text = _common.markdown_table(["clip", "PSNR (dB)", "refused because"], rows) + "\n"
    return text + _not_compared(section.get("left_out", []))


def _not_compared(names: Sequence[str]) -> str:
    """What the time did not suffice for; nothing where it did."""
    if not names:
        return ""
    return f"\nLeft out, since the time was up ({len(names)}):\n\n" + "".join(
        f"- {name}\n" for name in names
    )


def _study(section: Mapping[str, Any]) -> str:
    rows = []
    for trial in section["trials"]:
        rate = trial["samples_per_second"]
        params = trial["params"]
        names = ("process_mode", "num_demux_threads", "num_decode_threads", "sink_buffer_size")
        use = trial["accelerator_utilization"]
        rows.append(
            [
                trial["number"],
                trial["origin"],
                "-" if rate is None else f"{rate:.0f}",
                "-" if use is None else f"{100 * use:.0f} %",
                _common.flags_of(params, *names),
                (trial["failure"] or {}).get("cause", ""),
            ]
        )
    header = ["trial", "origin", "samples/s", "accelerator utilization", "settings", "failure"]
    return (
        f"Model: `{section['model']}`. State: {section['state']}; {section['reason']}\n\n"
        + _common.markdown_table(header, rows)
        + "\n"
    )


def _failure(section: Mapping[str, Any]) -> str:
    lines = [section["error"], ""]
    for key in ("trace", "log_tail"):
        if section.get(key):
            lines += ["```", section[key].strip(), "```", ""]
    libraries = section.get("libraries")
    if libraries:
        lines += ["```json", json.dumps(libraries, indent=1), "```", ""]
    return "\n".join(lines)
