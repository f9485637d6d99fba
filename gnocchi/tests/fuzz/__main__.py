"""`python -m gnocchi.tests.fuzz TARGET [option of libFuzzer ...] DIRECTORY`."""

import pathlib
import sys

import atheris

with atheris.instrument_imports(include=["gnocchi.ingest"]):
    from gnocchi.tests.fuzz.targets import TARGETS

CORPUS = pathlib.Path(__file__).parent / "corpus"


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m gnocchi.tests.fuzz {{{','.join(TARGETS)}}} [option of libFuzzer ...] DIRECTORY")
    name = sys.argv[1]
    # What is new goes into the first directory.
    atheris.Setup([sys.argv[0], *sys.argv[2:], str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


main()
