"""What is imported is declared, and what an extra brings says so where it is missing."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


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


def find_modules(folder: str) -> set[str]:
    """Return the packages and modules right in a folder of the package."""
    paths = (ROOT / folder).iterdir()
    return {
        f"{folder.replace('/', '.')}.{path.stem}"
        for path in paths
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }


def test_the_contract_of_the_stand_ins_leaves_no_module_out() -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    [contract] = [one for one in contracts if one["name"].startswith("The stand-ins")]
    here = {"longtask_kit.__init__", "longtask_kit.errors", "longtask_kit.local"}
    here |= {f"longtask_kit.local.{name}" for name in ("__init__", "__main__")}
    known = {*contract["source_modules"], *contract["forbidden_modules"], *here}
    assert find_modules("longtask_kit") | find_modules("longtask_kit/local") <= known


def test_the_re_executor_says_which_extra_it_needs() -> None:
    code = "import sys; sys.modules['nbclient'] = None\nimport longtask_kit.cli.notebooks"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert "ConfigError" in done.stderr
    assert 'pip install "longtask_kit[dev]"' in done.stderr
