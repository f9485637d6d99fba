"""Decoders take the corpus, and what a fuzzer makes of it in some seconds."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

from gnocchi.tests.databases import DEADLINE_S
from gnocchi.tests.fuzz.targets import TARGETS

CORPUS = pathlib.Path(__file__).parent / "corpus"

#: Short of what finds things, long enough to see that it would.
RUNS = 20_000


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name):
    """Whatever was found once is decoded or refused."""
    paths = sorted((CORPUS / name).iterdir())
    assert paths
    for path in paths:
        TARGETS[name](path.read_bytes())


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python")
@pytest.mark.parametrize("name", TARGETS)
def test_fuzzer_finds_nothing(name, tmp_path):
    """A failure shows the bytes, of which a file of the corpus is to be made."""
    done = subprocess.run(
        [sys.executable, "-m", "gnocchi.tests.fuzz", name, f"-runs={RUNS}", "-timeout=60", "-max_len=2000",
         f"-artifact_prefix={tmp_path}/", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S, check=False)
    found = [path.read_bytes() for path in tmp_path.glob("*-*") if path.name.startswith(("crash", "timeout", "oom"))]
    assert (0, []) == (done.returncode, found), done.stdout[-3000:]
    assert f"Done {RUNS} runs" in done.stdout
