"""Imports go downwards: a module imports lower layers and its own package only.

Every import statement counts, also those inside functions and under TYPE_CHECKING: a lazy import is
a dependency like any other.
"""

import ast
import pathlib

import pytest

import gnocchi

ROOT = pathlib.Path(gnocchi.__file__).parent

#: The longest matching prefix decides.  Keep in step with doc/source/contributor/layout.rst.
LAYERS = {
    "gnocchi.exceptions": 0,
    "gnocchi.times": 0,
    "gnocchi.metric_ids": 0,
    "gnocchi.carbonara": 1,
    "gnocchi.archive_policy": 2,
    "gnocchi.resource_ids": 1,
    "gnocchi.resource_type": 2,
    "gnocchi.catalogue": 2.5,
    "gnocchi.common": 2,
    "gnocchi.indexer": 3,
    "gnocchi.incoming": 3,
    "gnocchi.storage": 3,
    "gnocchi.processing": 4,
    "gnocchi.query": 4,
    "gnocchi.backends": 5,
    "gnocchi.rest": 6,
    "gnocchi.ingest": 5.5,
    "gnocchi.metricd": 6,
    "gnocchi.opts": 7,
    "gnocchi.service": 8,
    "gnocchi.wsgi": 9,
    "gnocchi.cli": 10,
    # Not part of the API's package in truth: the deployable object under its old name.
    "gnocchi.rest.wsgi": 10,
}


def find_unit(module):
    """Return the entry of LAYERS that a module belongs to, or None."""
    names = module.split(".")
    for count in range(len(names), 1, -1):
        prefix = ".".join(names[:count])
        if prefix in LAYERS:
            return prefix
    return None


def list_modules():
    """Return {dotted name: path} of everything but the tests."""
    modules = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT.parent).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        if parts[:2] != ["gnocchi", "tests"] and len(parts) > 1:
            modules[".".join(parts)] = path
    return modules


MODULES = list_modules()


def list_imports(module, path):
    """Yield (line, dotted name) of each module of gnocchi that `module` imports."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join(package[:len(package) - node.level + 1] + ([node.module] if node.module else []))
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target.startswith("gnocchi."):
                yield node.lineno, target


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_lower_layers_and_its_own_package_only(module):
    """The table of layers holds for every module."""
    unit = find_unit(module)
    assert unit, f"{module} has no layer: add it to LAYERS"
    wrong = []
    for line, target in list_imports(module, MODULES[module]):
        other = find_unit(target)
        if other is None:
            assert target.count(".") == 1 and target not in MODULES, f"{module}:{line}: {target} has no layer"
            continue    # a plain name of gnocchi/__init__.py
        if other != unit and LAYERS[other] >= LAYERS[unit]:
            wrong.append(f"{MODULES[module]}:{line}: {module} (layer {LAYERS[unit]}) imports "
                         f"{target} (layer {LAYERS[other]})")
    assert not wrong, "\n".join(wrong)


def test_upward_import_is_found(tmp_path):
    """The check sees lazy, relative and aliased imports."""
    path = tmp_path / "a.py"
    path.write_text("from gnocchi import indexer as i\n"
                    "import gnocchi.rest.app\n"
                    "def f():\n    from . import drivers\n    from ..rest import api\n")
    found = [target for _, target in list_imports("gnocchi.storage.a", path)]
    assert found == ["gnocchi.indexer", "gnocchi.rest.app", "gnocchi.storage.drivers", "gnocchi.rest.api"]


def test_carbonara_is_pure():
    """carbonara knows no I/O, configuration, clock or log."""
    forbidden = {"os", "io", "time", "logging", "socket", "pathlib", "datetime", "oslo_config", "sqlalchemy", "pandas"}
    for module, path in MODULES.items():
        if module.startswith("gnocchi.carbonara"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                used = {name.split(".")[0] for name in names} & forbidden
                assert not used, f"{path}:{node.lineno}: carbonara must not import {sorted(used)}"
