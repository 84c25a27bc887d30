"""What a process tree uses, against processes that use a known amount."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from autotune.measuring.telemetry import Telemetry
from autotune.trial import Resources

BURN = """
import sys, threading, time
block = bytearray(200 * 2**20)
for i in range(0, len(block), 4096): block[i] = 1
for _ in range(4): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("ready", flush=True)
end = time.process_time() + 0.8
while time.process_time() < end: pass
print("burnt", flush=True)
time.sleep(60)
"""


def test_cpu_memory_processes_and_threads_of_a_tree() -> None:
    child = subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        telemetry = Telemetry(child.pid)
        telemetry.sample()
        began = time.monotonic()
        child.stdout.readline()
        telemetry.sample()
        seconds = time.monotonic() - began
        resources = telemetry.resources(0, time.monotonic())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    cores = len(os.sched_getaffinity(0))
    assert resources.cpu_percent * seconds * cores / 100 == pytest.approx(0.8, abs=0.15)
    assert 0.19 < resources.rss_gib < 0.3
    assert resources.processes == 1
    assert resources.threads == 5


def test_children_belong_to_the_tree_and_shared_pages_count_once() -> None:
    code = (
        "import os, time\n"
        "block = bytearray(100 * 2**20)\n"
        "for i in range(0, len(block), 4096): block[i] = 1\n"
        "pids = [os.fork() for _ in range(1)]\n"
        "if pids[0]: print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    try:
        parent.stdout.readline()
        telemetry = Telemetry(parent.pid)
        sample = telemetry.sample()
    finally:
        os.killpg(parent.pid, 9)
        parent.wait()
        parent.stdout.close()
    assert sample.processes == 2
    assert 0.09 < sample.memory_gib < 0.16, "100 MiB, which both processes map"


def test_a_process_that_ended_keeps_its_cpu_time() -> None:
    telemetry = Telemetry(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    before = telemetry.sample()
    assert before.processes >= 2
    child.communicate(b"\n")
    after = telemetry.sample()
    assert after.processes == before.processes - 1
    assert after.cpu_seconds >= before.cpu_seconds


def test_children_that_ended_between_two_looks_count_too() -> None:
    code = (
        "import subprocess, sys\n"
        "burn = 'import time\\nwhile time.process_time() < 0.3: pass'\n"
        "for line in sys.stdin:\n"
        "    for _ in range(2): subprocess.run([sys.executable, '-c', burn])\n"
        "    print('burnt', flush=True)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        telemetry = Telemetry(parent.pid)
        before = telemetry.sample()
        parent.stdin.write("go\n")
        parent.stdin.flush()
        parent.stdout.readline()
        after = telemetry.sample()
    finally:
        parent.kill()
        parent.wait()
        parent.stdin.close()
        parent.stdout.close()
    assert before.processes == after.processes == 1
    assert after.cpu_seconds - before.cpu_seconds > 0.55


def test_without_samples_there_are_no_figures() -> None:
    telemetry = Telemetry(os.getpid())
    telemetry.stop()
    telemetry.stop()
    assert telemetry.resources(0.0, 1.0) == Resources()
    assert telemetry.contamination(0.0, 1.0) is None


def test_only_the_time_asked_for_counts() -> None:
    telemetry = Telemetry(os.getpid())
    for _ in range(3):
        telemetry.sample()
        time.sleep(0.02)
    border = time.monotonic()
    block = bytearray(150 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    for _ in range(2):
        telemetry.sample()
        time.sleep(0.02)
    early = telemetry.resources(0, border)
    late = telemetry.resources(border, time.monotonic())
    assert late.rss_gib - early.rss_gib > 0.1
