"""Checks or compiles the Python files of a directory, without running them.

    python -c THIS check DIR NAME...   print a JSON list of problems: what cannot
                                       be parsed, and each NAME that handler.py
                                       does not define
    python -c THIS compile DIR PREFIX  write byte code that is never checked
                                       against its source; tracebacks will show
                                       files below PREFIX
"""

import ast
import json
import os
import py_compile
import sys
import warnings


def sources(root):
    for directory, subdirectories, files in os.walk(root):
        subdirectories.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                path = os.path.join(directory, name)
                yield path, os.path.relpath(path, root)


def problem(path, line, column, message):
    return {"file": path, "line": line or 0, "column": column or 0, "message": message}


def parse(path, name, problems):
    try:
        with open(path, "rb") as f:
            return ast.parse(f.read(), name)
    except SyntaxError as e:
        problems.append(problem(name, e.lineno, e.offset, e.msg))
    except ValueError as e:  # null bytes
        problems.append(problem(name, 0, 0, str(e)))
    return None


def defined(tree):
    """The names that a module may bind; None if only running it could tell."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            if node.name == "*":
                return None
            names.add(node.asname or node.name.split(".")[0])
    return None if "__getattr__" in names else names


def check(root, wanted):
    problems = []
    trees = {name: parse(path, name, problems) for path, name in sources(root)}
    handler = next((n for n in ("handler.py", os.path.join("handler", "__init__.py")) if n in trees), None)
    if handler is None:
        problems.append(problem("handler.py", 0, 0, "there is no such file; a handler is a function handle in handler.py"))
    elif trees[handler] is not None:
        names = defined(trees[handler])
        for name in wanted:
            if names is not None and name not in names:
                problems.append(problem(handler, 0, 0, "defines no function " + name))
    json.dump(problems, sys.stdout)


def compile_all(root, prefix):
    for path, name in sources(root):
        try:
            py_compile.compile(
                path,
                dfile=os.path.join(prefix, name),
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except (py_compile.PyCompileError, ValueError):
            pass  # packages carry files for other versions of Python


def main(mode, root, *rest):
    warnings.simplefilter("ignore")
    if mode == "check":
        check(root, rest)
    else:
        compile_all(root, *rest)


main(*sys.argv[1:])
