"""The documents and what they speak of agree: options, policy rules, methods, layers, release notes."""

import importlib
import io
import json
import pathlib
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oslo_config import cfg, generator

import gnocchi
from gnocchi import opts
from gnocchi.carbonara import methods
from gnocchi.rest import policies

ROOT = pathlib.Path(gnocchi.__file__).parent.parent
DOCUMENTS = ROOT / "doc" / "source"
GENERATOR = ROOT / "gnocchi" / "gnocchi-config-generator.conf"

OPTIONS = [pytest.param(section, option, id=f"{section}.{option.dest}")
           for section, options in opts.list_opts() for option in options]

needs_checkout = pytest.mark.skipif(not DOCUMENTS.is_dir(), reason="documents are not installed with the package")


@pytest.fixture(scope="module")
def sample():
    """Return {section: text} of what `gnocchi-config-generator` prints."""
    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    conf(["--config-file", str(GENERATOR)], project="gnocchi")
    output = io.StringIO()
    generator.generate(conf, output)
    parts = re.split(r"^\[(\w+)\]$", output.getvalue(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(("section", "option"), OPTIONS)
def test_option_has_help_and_an_entry_in_the_sample(section, option, sample):
    """Every option says what it does, in a sentence, and is printed by the generator (the page is made from it)."""
    assert option.help, f"[{section}] {option.dest} has no help"
    assert option.help.strip()[0].isupper(), f"[{section}] {option.dest}: {option.help!r}"
    assert option.help.strip().endswith((".", ")")), f"[{section}] {option.dest}: {option.help!r}"
    assert "`" not in option.help, f"[{section}] {option.dest}: the help is also read as reStructuredText"
    if not option.deprecated_for_removal:
        assert re.search(rf"^#?{option.dest} = ", sample[section], re.MULTILINE), f"[{section}] {option.dest}"


def test_options_are_registered_once():
    """No option is declared twice in one section."""
    for section, options in opts.list_opts():
        names = [option.dest for option in options]
        assert len(names) == len(set(names)), section


@needs_checkout
def test_options_named_in_the_documents_exist():
    """``[section] option`` in the text is an option of that section."""
    known = {(section, option.dest) for section, options in opts.list_opts() for option in options}
    sections = {section for section, _ in known}
    wrong = [f"{path.name}: [{section}] {name}"
             for path in DOCUMENTS.rglob("*.rst")
             for section, name in re.findall(r"``\[(\w+)\] (\w+)", path.read_text())
             if section in sections and (section, name) not in known]
    assert not wrong, "\n".join(wrong)


def test_policy_rules_have_descriptions_and_operations():
    """Every rule that an endpoint checks says what it allows and where."""
    for rule in policies.list_rules():
        if hasattr(rule, "operations"):
            assert rule.description, rule.name
            assert all(operation["path"].startswith("/v1/") for operation in rule.operations), rule.name


@needs_checkout
def test_aggregation_methods_are_defined():
    """Each method of the engine stands in the table of aggregation.rst."""
    text = (DOCUMENTS / "aggregation.rst").read_text()
    for method in methods.METHODS:
        if not method.startswith("rate:") and not method.endswith("pct"):
            assert f"``{method}``" in text, method
    assert "``1pct`` … ``99pct``" in text
    assert f"These are {len(methods.METHODS)} names" in text


@pytest.fixture
def layout(monkeypatch):
    """The module that lays out answers in the documents."""
    if not DOCUMENTS.is_dir():
        pytest.skip("documents are not installed with the package")
    monkeypatch.syspath_prepend(str(DOCUMENTS.parent / "ext" / "executed"))
    return importlib.import_module("layout")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=40),
                    lambda each: st.lists(each) | st.dictionaries(st.text(max_size=30), each)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_is_laid_out_unchanged(layout, value):
    """Whatever the answer, the page has it; in short lines wherever a line can be broken."""
    text = layout.format_json(value)
    assert value == json.loads(text)
    for line in text.splitlines():
        assert len(line) <= layout.WIDTH or line.rstrip(",")[-1] not in "]}" or line.strip(" ,]}") == ""


def test_series_are_shown_in_every_shape(layout):
    """One row for each series, one column for each time, one table for each granularity."""
    points = [["2026-01-01T12:00:00+00:00", 60.0, 1.5], ["2026-01-01T12:01:00+00:00", 60.0, float("nan")],
              ["2026-01-01T12:00:00+00:00", 3600.0, 2.0]]
    answers = [
        ({"aggregated": points}, "aggregated"),
        ({"x": {"mean": points}}, "web mean"),
        ({"x": {"cpu": {"mean": points}}}, "web cpu mean"),
        ([{"group": {"flavor": "a"}, "measures": {"measures": {"aggregated": points}}}], "flavor a: aggregated"),
    ]
    for answer, label in answers:
        series, = layout.list_series(answer, {"x": "web"})
        assert label == series.label
        blank = " " * len(label)
        assert ("3600 s".ljust(len(label)) + "  12:00\n" + label + "      2\n\n" + "60 s".ljust(len(blank))
                + "  12:00  12:01\n" + label + "    1.5    NaN") == layout.format_series([series])


def test_long_answers_are_cut(layout):
    assert "a\nb\n… and 2 more lines" == layout.shorten("a\nb\nc\nd", 2)
    assert "a\nb" == layout.shorten("a\nb", 2)
