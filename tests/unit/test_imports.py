"""What is imported is declared, and what an extra brings says so where it is missing."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;]", line)[0].strip().lower() for line in requirements}


def find_imported() -> dict[str, str]:
    """Return each foreign package that is imported, with a module that does."""
    found: dict[str, str] = {}
    for path in (ROOT / "longtask_kit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            else:
                continue
            for module in modules:
                top = module.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "longtask_kit":
                    found[top] = str(path.relative_to(ROOT))
    return found


def test_every_package_that_is_imported_is_declared() -> None:
    declared = names_of(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        declared |= names_of(extra)
    by_module = packages_distributions()
    for module, where in find_imported().items():
        distributions = {name.lower() for name in by_module.get(module, [module])}
        assert distributions & declared, f"{module}, imported by {where}, is in no requirement"


def test_the_re_executor_says_which_extra_it_needs() -> None:
    code = "import sys; sys.modules['nbclient'] = None\nimport longtask_kit.cli.notebooks"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert "ConfigError" in done.stderr
    assert 'pip install "longtask_kit[dev]"' in done.stderr
