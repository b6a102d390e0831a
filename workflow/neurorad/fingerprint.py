"""Which code made a result: a fingerprint of the functions, classes and constants that an entry point reaches.

Snakemake does not look into a package. Given as a parameter of a rule, the fingerprint re-runs what depends on a changed
function, and only that. Comments, docstrings and formatting do not count.
"""

import ast
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


class _Module:
    """The top-level names of one source file: `symbols` (name -> statements that bind it), `imports` (name -> (module,
    name there or None for the module itself)) of this package, and `loose`, statements that bind no name."""

    def __init__(self, path: Path) -> None:
        tree = _without_docstrings(ast.parse(path.read_text(encoding="utf-8")))
        self.symbols: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, tuple[str, str | None]] = {}
        self.loose: list[ast.stmt] = []
        for statement in tree.body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self.imports |= dict(_imported(statement))
                continue
            names = list(_bound(statement))
            for name in names:
                self.symbols.setdefault(name, []).append(statement)
            if not names:
                self.loose.append(statement)


@cache
def fingerprint(*entries: str) -> str:
    """sha256 of all code that `entries` reach, each `module:function` below `neurorad` ("evaluation.commands:run_probe").

    Names are followed through this package's own modules; a module imported as a whole counts as a whole, and so do the
    defaults of the flags where the entry is a verb's. What is looked up by a text at run time is not seen.

    Raises:
        KeyError: no such function.
    """
    seen: set[tuple[str, str]] = set()
    ahead = [_split(entry) for entry in entries]
    while ahead:
        found = ahead.pop()
        if found not in seen:
            seen.add(found)
            ahead += _used(*found)
    texts = [f"{module}:{name} {_text(_module(module).symbols[name])}" for module, name in sorted(seen)]
    for module in sorted({module for module, _ in seen}):
        texts += [f"{module} {_text(_module(module).loose)}", *_defaults(_module(module))]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _split(entry: str) -> tuple[str, str]:
    module, name = entry.split(":")
    if name not in _module(module).symbols:
        raise KeyError(f"{module}.py has no {name}")
    return module, name


@cache
def _module(name: str) -> _Module:
    return _Module(_file(name))


def _file(name: str) -> Path:
    path = PACKAGE.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _used(module: str, name: str) -> Iterator[tuple[str, str]]:
    """The symbols of this package that one symbol names, one step deep."""
    source = _module(module)
    for statement in source.symbols[name]:
        inside = list(ast.walk(statement))
        imports = dict(source.imports)
        for node in inside:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports |= dict(_imported(node))
        for used in {node.id for node in inside if isinstance(node, ast.Name)}:
            if used in imports:
                yield from _resolved(*imports[used])
            elif used in source.symbols:
                yield module, used


def _resolved(module: str, name: str | None) -> Iterator[tuple[str, str]]:
    if name is None:
        yield from ((module, symbol) for symbol in _module(module).symbols)
    elif name in _module(module).symbols:
        yield module, name
    elif name in _module(module).imports:
        yield from _resolved(*_module(module).imports[name])


def _imported(statement: ast.stmt) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Name -> where it comes from, for imports from this package."""
    if isinstance(statement, ast.ImportFrom) and (path := (statement.module or "").split("."))[0] == PACKAGE.name:
        parent = ".".join(path[1:])
        for alias in statement.names:
            below = f"{parent}.{alias.name}".strip(".")
            target = (below, None) if _file(below).is_file() else (parent, alias.name)
            yield alias.asname or alias.name, target


def _bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _defaults(module: _Module) -> list[str]:
    """The default values of a stage's flags; their help texts make no result."""
    verbs = module.symbols.get("add_verbs", [])
    calls = (node for statement in verbs for node in ast.walk(statement) if isinstance(node, ast.Call))
    return [
        _text([*call.args[:1], keyword.value])
        for call in calls
        for keyword in call.keywords
        if keyword.arg in ("default", "action")
    ]


def _text(nodes: Sequence[ast.AST]) -> str:
    return "\n".join(ast.dump(node) for node in nodes)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                item
                for item in node.body
                if not (
                    isinstance(item, ast.Expr)
                    and isinstance(item.value, ast.Constant)
                    and isinstance(item.value.value, str)
                )
            ]
    return tree
