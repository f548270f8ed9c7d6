"""Every Triton kernel compiles for GPUs that are not here, without spills and with wide accesses."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_kernels import ahead_of_time, assembly
from vkdsurgeon_kernels.backend import OPERATIONS

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

PTX = """
.version 9.4
.target sm_90a
.address_size 64
.visible .entry k(
	.param .u64 .ptr .global .align 1 k_param_0
)
	ld.param.b64 	%rd5, [%r20];
	@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
	ld.global.nc.L1::evict_first.L2::cache_hint.v8.b32 { %r1, %r2 }, [ %rd1 + 0 ], %rd9;
	@%p1 ld.global.b16 { %rs1 }, [ %rd1 + 0 ];
	cp.async.cg.shared.global [ %r7 + 0 ], [ %rd1 + 0 ], 0x10, %r8;
	ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r5];
	@%p1 bra 	$L__BB0_2;
	@%p1 st.global.v2.b64 [ %rd3 + 0 ], { %rd9, %rd10 };
	atom.global.gpu.relaxed.add.f32 %r1, [ %rd1 + 0 ], %r2;
	red.global.gpu.relaxed.add.u32 [%rd4], %r9;
$L__BB0_2:
	ret;
"""
PTX_ACCESSES = {256: 1, 128: 2, 16: 1}

AMDGCN = """
.LBB0_0:
	s_load_dwordx2 s[0:1], s[2:3], 0x0
	s_cbranch_execz .LBB0_2
	global_load_dwordx4 v[0:3], v[0:1], off
	buffer_load_ushort v1, v2, s[0:3], 0 offen
	global_atomic_add_u32 v1, v2, v3, off
.LBB0_2:
	buffer_store_dwordx2 v[0:1], v2, s[0:3], 0 offen
	s_endpgm
    .private_segment_fixed_size: 8
    .sgpr_count:     24
    .sgpr_spill_count: 1
    .vgpr_count:     19
    .vgpr_spill_count: 2
"""


def test_ptx_is_read_instruction_by_instruction():
    found = assembly.read_ptx(PTX)
    assert found.loads == PTX_ACCESSES
    assert found.stores == {128: 1}
    assert found.atomics == 2
    assert found.straight_line
    assert found.bytes_per_thread == 32 + 2 * 16 + 2 + 16
    assert assembly.ptx_target(PTX) == "sm_90a"
    assert assembly.wide(found.loads, 128) == 2 + 2


def test_a_jump_back_makes_the_bytes_unknown():
    for text, read in ((PTX, assembly.read_ptx), (AMDGCN, assembly.read_amdgcn)):
        label = "$L__BB0_2" if read is assembly.read_ptx else ".LBB0_2"
        jump = f"\t@%p9 bra {label};\n" if read is assembly.read_ptx else f"\ts_cbranch_scc0 {label}\n"
        looped = read(text.replace("\tret;\n", jump).replace("\ts_endpgm\n", jump))
        assert not looped.straight_line
        assert looped.bytes_per_thread is None


def test_amdgcn_is_read_instruction_by_instruction():
    found = assembly.read_amdgcn(AMDGCN)
    assert found.loads == {128: 1, 16: 1}
    assert found.stores == {64: 1}
    assert found.atomics == 1
    assert found.straight_line
    assert assembly.read_amdgcn_metadata(AMDGCN) == {"registers": 19, "spill_bytes": 12, "stack_bytes": 8}


def test_assembly_that_says_nothing_is_an_error():
    with pytest.raises(ValueError, match="dwordx32"):
        assembly.read_amdgcn("  global_load_dwordx32 v0, v1, off")
    with pytest.raises(ValueError, match="vgpr_spill_count"):
        assembly.read_amdgcn_metadata("s_endpgm")
    with pytest.raises(ValueError, match="no registers"):
        assembly.read_ptxas("ptxas info : compiled")
    with pytest.raises(ValueError, match="target"):
        assembly.ptx_target("ret;")


def test_what_ptxas_tells():
    log = (
        "ptxas info    : Compiling entry function 'k' for 'sm_90a'\n"
        "    16 bytes stack frame, 20 bytes spill stores, 24 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 400 bytes cmem[0]\n"
    )
    assert assembly.read_ptxas(log) == {"registers": 40, "spill_bytes": 44, "stack_bytes": 16}


def test_problems_are_told_in_words():
    sound: dict[str, Any] = {
        "target": "cuda:90", "spill_bytes": 0, "shared_bytes": 48 << 10, "loads": {"256": 1}, "stores": {"128": 1},
        "wide_bits": 128, "least_wide_loads": 2, "least_wide_stores": 1,
    }  # fmt: skip
    assert ahead_of_time.problems(sound) == []
    broken = [{"spill_bytes": 8}, {"shared_bytes": (48 << 10) + 1}, {"loads": {"64": 9}}, {"stores": {}}]
    for change in broken:
        assert len(ahead_of_time.problems({**sound, **change})) == 1
    assert ahead_of_time.problems({**sound, "target": "hip:gfx942", "shared_bytes": 64 << 10}) == []


def test_no_byte_count_is_better_than_a_wrong_one():
    assert assembly.Accesses(Counter({128: 1}), Counter(), 0, straight_line=False).bytes_per_thread is None


def _gate(*arguments: str, **environment: str) -> tuple[int, list[dict[str, Any]], str]:
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "vkdsurgeon_kernels.ahead_of_time", "--json", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**inherited, **environment}, timeout=600
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@needs_triton
def test_sound_kernels_pass_and_are_described():
    status, rows, errors = _gate("--module", "tests.kernels.sample_kernels", "--operation", "sound")
    assert status == 0, errors
    assert {row["target"] for row in rows} == set(ahead_of_time.TARGETS)
    for row in rows:
        assert row["problems"] == []
        assert row["registers"] > 0
        if row["variant"] == "scale":
            # Two bytes in, two bytes out, and the pointers of two layers do not break the vectors.
            assert row["bytes_per_element"] == 4
            assert set(row["loads"]) == set(row["stores"]) == {"128"}
        else:
            assert row["bytes_per_element"] is None
            assert row["shared_bytes"] > 0


@needs_triton
def test_unsound_kernels_are_stopped():
    problems = {"spills": "spills", "narrow": "128-bit loads", "wrong": "does not compile"}
    chosen = [word for operation in problems for word in ("--operation", operation)]
    status, rows, _ = _gate("--module", "tests.kernels.sample_kernels", *chosen, "--target", "cuda:90")
    assert status == 1
    assert {row["operation"] for row in rows} == set(problems)
    assert len(rows) == len(problems)
    for row in rows:
        assert problems[row["operation"]] in row["problems"][0]


@needs_triton
def test_what_cannot_be_compiled_is_refused_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert ahead_of_time.main(["--json"]) == 2
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err
    # In a process of its own: Triton decides when it is imported whether a process interprets.
    calls = [
        ["--module", "tests.kernels.sample_kernels", "--operation", "souund"],
        ["--module", "tests.kernels.sample_kernels", "--operation", "sound", "--target", "metal:3"],
    ]
    program = f"from vkdsurgeon_kernels.ahead_of_time import main; print([main(words) for words in {calls!r}])"
    monkeypatch.delenv("TRITON_INTERPRET")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.stdout == "[2, 2]\n", done.stderr
    assert "souund" in done.stderr
    assert "there are kernels of: narrow, sound, spills, wrong" in done.stderr
    assert "metal:3" in done.stderr


@pytest.fixture(scope="session", params=["nowhere", pytest.param("cuda:90", marks=pytest.mark.campaign)])
def kernels(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The gate's rows: one variant of each kernel on every target; with the campaigns, every variant on one of them."""
    status, rows, errors = _gate("--all-on", request.param)
    assert rows, errors
    assert status == int(any(row["problems"] for row in rows)), errors
    return rows


@needs_triton
def test_every_operation_with_triton_has_kernels_for_every_target(kernels: list[dict[str, Any]]):
    expected = {name for name, implementations in OPERATIONS.items() if "triton" in implementations}
    for target in ahead_of_time.TARGETS:
        assert {row["operation"] for row in kernels if row["target"] == target} == expected


@needs_triton
def test_no_kernel_spills_reads_narrowly_or_takes_too_much_shared_memory(kernels: list[dict[str, Any]]):
    assert [(row["target"], row["variant"], row["problems"]) for row in kernels if row["problems"]] == []


@needs_triton
def test_the_kept_report_is_about_these_kernels(kernels: list[dict[str, Any]]):
    kept = [json.loads(line) for line in (ROOT / "benchmarks/results/aot.jsonl").read_text().splitlines()]
    for target in ahead_of_time.TARGETS:
        reported = {(row["operation"], row["variant"]) for row in kept if row["target"] == target}
        compiled = {(row["operation"], row["variant"]) for row in kernels if row["target"] == target}
        assert reported >= compiled, "run: make aot"
    assert not [row for row in kept if row["problems"]]


@needs_triton
def test_streaming_kernels_promise_wide_accesses(kernels: list[dict[str, Any]]):
    promises: Counter[str] = Counter()
    for row in kernels:
        promises[row["operation"]] += row.get("least_wide_loads", 0) + row.get("least_wide_stores", 0)
    assert promises
    assert all(promises.values()), promises
