"""Measure the house: how large the package is, and what a record meets on its way.

    python -m tests.tools.house [FOLDER] [--way]

Code is lines without docstrings, comments and blanks. `--way` embeds the sample with the demo model in here
and lists the classes that are made for it, with their bases and the protocols beside them: its nouns.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tempfile
import threading
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def lines_between(nodes: Iterator[ast.AST]) -> set[int]:
    """Collect the lines that nodes cover."""
    return {
        line
        for node in nodes
        for line in range(getattr(node, "lineno", 1), (getattr(node, "end_lineno", None) or 0) + 1)
    }


def docstrings(tree: ast.Module) -> Iterator[ast.AST]:
    """Find docstrings, and the strings below attributes and constants that serve as such."""
    for node in ast.walk(tree):
        for child in getattr(node, "body", []) if isinstance(node, DEFINITIONS) else []:
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                yield child


def code_lines(source: str) -> set[int]:
    """Collect the lines with code or docstrings: not blank, and more than a comment."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the parameters of a function, without self and cls."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in arguments)


def measure(package: Path) -> dict[str, Any]:
    """Measure all modules of a package."""
    found = dict.fromkeys(("modules", "code", "docstrings", "imports", "classes", "functions"), 0)
    many = 0
    for path in sorted(package.rglob("*.py")):
        source = path.read_text()
        tree = ast.parse(source)
        documented, coded = lines_between(docstrings(tree)), code_lines(source)
        imported = lines_between(n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom)))
        functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        found["modules"] += 1
        found["code"] += len(coded - documented)
        found["docstrings"] += len(documented & coded)
        found["imports"] += len(imported & coded)
        found["classes"] += sum(isinstance(n, ast.ClassDef) for n in ast.walk(tree))
        found["functions"] += len(functions)
        if path.relative_to(package).parts[0] in ("run", "api"):
            many += sum(parameters(function) >= 5 for function in functions)
    return {
        **found,
        "imports, % of code": round(100 * found["imports"] / found["code"], 1),
        "functions with 5 or more parameters in run and api": many,
    }


def way() -> tuple[set[str], set[str]]:
    """Embed the sample; returns the modules whose functions run, and the nouns."""
    modules: set[str] = set()
    classes: set[type] = set()

    def look(frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        module = str(frame.f_globals.get("__name__", ""))
        name = frame.f_code.co_name
        if module.startswith("protrna_cli") and not name.startswith("<"):
            modules.add(module)
        if (name == "__init__" and module.startswith("protrna_cli")) or module.startswith("namedtuple_"):
            first = frame.f_locals.get("self", frame.f_locals.get("_cls"))
            made = first if isinstance(first, type) else type(first)
            classes.update(c for c in made.__mro__ if c.__module__.startswith("protrna_cli"))

    from protrna_cli.cli.main import run
    from protrna_cli.libraries import own_process

    own_process()
    with tempfile.TemporaryDirectory() as folder:
        sample = ROOT / "sample_data" / "rna_families.fa"
        sys.argv = ["protrna", "embed", str(sample), "-o", f"{folder}/out.parquet", "--model", "demo", "-q"]
        threading.setprofile(look)
        sys.setprofile(look)
        try:
            code = run()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
    if code:
        sys.exit(code)
    protocols = {
        value
        for name in modules
        for value in vars(sys.modules[name]).values()
        if isinstance(value, type) and getattr(value, "_is_protocol", False) and value.__module__ in modules
    }
    return modules, {f"{c.__module__}.{c.__qualname__}" for c in classes | protocols}


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "protrna_cli")
    parser.add_argument("--way", action="store_true")
    args = parser.parse_args()
    for name, value in measure(args.folder).items():
        print(f"{name:52} {value:>8}")
    if args.way:
        modules, nouns = way()
        print(f"{'modules that run for the sample':52} {len(modules):>8}")
        print(f"{'nouns':52} {len(nouns):>8}\n  " + "\n  ".join(sorted(nouns)))


if __name__ == "__main__":
    main()
