"""Nothing that comes from elsewhere is ever unpickled: what could do it is not in the product."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = {"send_pyobj", "recv_pyobj", "send_serialized", "recv_serialized", "read_pickle"}
OBJECT_QUEUES = {"Queue", "SimpleQueue", "JoinableQueue", "Pipe", "Manager", "Pool", "ProcessPoolExecutor"}


def faults_of(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += _imports(node)
        elif isinstance(node, ast.Call):
            found += _calls(node)
    return found


def _imports(node: ast.Import | ast.ImportFrom) -> list[str]:
    module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
    names = [alias.name for alias in node.names]
    roots = {module.split(".")[0]} if module else {name.split(".")[0] for name in names}
    from_processes = [
        n for n in names if n in OBJECT_QUEUES and module.split(".")[0] in {"multiprocessing", "concurrent"}
    ]
    return [*(roots & MODULES), *from_processes]


def _calls(node: ast.Call) -> list[str]:
    target = node.func
    if not isinstance(target, ast.Attribute):
        return []
    owner = target.value.id if isinstance(target.value, ast.Name) else ""
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if (owner, target.attr) == ("torch", "load"):
        only = given.get("weights_only")
        return [] if isinstance(only, ast.Constant) and only.value is True else ["torch.load without weights_only=True"]
    if (owner, target.attr) in {("np", "load"), ("numpy", "load")} and "allow_pickle" in given:
        return ["numpy.load with allow_pickle"]
    is_queue = owner in {"multiprocessing", "mp"} and target.attr in OBJECT_QUEUES
    return [target.attr] if target.attr in CALLS or is_queue else []


def test_the_product_unpickles_nothing() -> None:
    found = {str(file): faults for file in SOURCE.rglob("*.py") if (faults := faults_of(file.read_text()))}
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "socket.send_pyobj(x)",
        "await socket.recv_pyobj()",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "multiprocessing.Queue()",
        "from multiprocessing import Queue",
        "from concurrent.futures import ProcessPoolExecutor",
        "np.load(file, allow_pickle=True)",
    ],
)
def test_the_search_finds_what_would(source: str) -> None:
    assert faults_of(source if "await" not in source else f"async def f():\n    {source}")
