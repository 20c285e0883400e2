"""Compiles the server's hot path with mypyc into build/compiled, or the folder that is named: `make compiled`.

What is there is the package as it is, and beside the modules below machine code of the same source. Whoever names the
folder first uses it: `PYTHONPATH=build/compiled homenode serve …`. The interpreted modules stay the reference: nothing
here is needed to run.

mypyc makes classes native, but leaves to the interpreter what `dataclass` generates, and a judgement makes some twenty
values. So in the copy each dataclass has its `__init__` written out, and is neither frozen nor slotted, which type
checkers hold and native classes are; and its annotations are set again, of which mypyc keeps the outermost type only.
"""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "homenode_directory"
# From a frame to the store's call and back. Left out is what has async generators, which mypyc does not know.
MODULES = {
    "": "audience directory jobs place sinks slice slicetime",
    "protocol": "model events facts effects draft rules transitions",
    "store": "base codec fields redis_script",
    "api": "bodies calls carried frames held_reads outbox stream validate wire",
}


def _decorator(node: ast.ClassDef) -> str | None:
    """How the class is made a dataclass; None: it is not."""
    (text, *_) = [*map(ast.unparse, node.decorator_list), ""]
    return text if text.startswith(("dataclass", "value")) else None


def _parameter(field: ast.AnnAssign) -> tuple[str, str]:
    """A field as a parameter of `__init__`, and the line that sets it."""
    name, hint, default = ast.unparse(field.target), ast.unparse(field.annotation), field.value
    if default is None:
        return f"{name}: {hint}", f"self.{name} = {name}"
    if isinstance(default, ast.Call) and ast.unparse(default.func) == "field":
        (factory,) = (word.value for word in default.keywords if word.arg == "default_factory")
        fresh = factory.body if isinstance(factory, ast.Lambda) else ast.Call(factory, [], [])
        line = f"self.{name} = {name} if {name} is not None else {ast.unparse(fresh)}"
        return f"{name}: {hint} | None = None", line  # nobody gives None for a field that is made anew
    return f"{name}: {hint} = {ast.unparse(default)}", f"self.{name} = {name}"


def rewritten(source: str) -> str:
    """The source of a module with its dataclasses as mypyc is to have them."""
    lines = source.splitlines()
    for node in sorted(ast.walk(ast.parse(source)), key=lambda node: -getattr(node, "lineno", 0)):
        decorator = _decorator(node) if isinstance(node, ast.ClassDef) else None
        if not isinstance(node, ast.ClassDef) or decorator is None:
            continue
        words = ["order=True"] if "order=True" in decorator else []
        words.append("eq=False" if "eq=False" in decorator else "unsafe_hash=True")
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
        if fields:
            words.append("init=False")
            hints = {ast.unparse(one.target): ast.unparse(one.annotation) for one in fields}
            end = node.end_lineno or 0
            lines[end:end] = [f"vars({node.name})['__annotations__'].update({hints!r})"]
            parameters, body = zip(*map(_parameter, fields), strict=True)
            head = f"    def __init__(self, {', '.join(parameters)}) -> None:"
            after = fields[-1].end_lineno or 0
            lines[after:after] = ["", head, *(f"        {line}" for line in body)]
        lines[node.decorator_list[0].lineno - 1] = f"@dataclass({', '.join(words)})"
    values = f"from {PACKAGE}.protocol.values import value"
    return "\n".join("from dataclasses import dataclass" if line == values else line for line in lines) + "\n"


def main() -> None:
    """Copy, rewrite, compile."""
    try:
        from mypyc.build import mypycify
        from setuptools import Distribution
    except ImportError:
        sys.exit("mypyc and setuptools are needed: pip install 'mypy[mypyc]'")
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "compiled").absolute()
    shutil.rmtree(target, ignore_errors=True)
    source = ROOT / "directory_service" / PACKAGE
    shutil.copytree(source, target / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    paths = [target / PACKAGE / folder / f"{name}.py" for folder, names in MODULES.items() for name in names.split()]
    for path in paths:
        path.write_text(rewritten(path.read_text("utf-8")), "utf-8")
    settings = target / "mypy.ini"
    settings.write_text(f"[mypy]\nmypy_path = {target}:{ROOT / 'proto'}\nignore_missing_imports = True\n")
    words = ["--config-file", str(settings), "--namespace-packages", "--explicit-package-bases"]
    extensions = mypycify([*words, *map(str, paths)], opt_level="2", target_dir=str(target / "c"), debug_level="0")
    command = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(target), str(target / "o")
    command.ensure_finalized()
    command.run()
    for left in ("c", "o", ".mypy_cache"):
        shutil.rmtree(target / left, ignore_errors=True)


if __name__ == "__main__":
    main()
