"""What counts as a change of agents and pipelines, and how it is said."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.watch import Contents, Known, Watcher, contents, differences

SECONDS = 60
NOTHING_SECONDS = 3.0  # longer than the watcher's own look


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    folder = tmp_path / "agents"
    (folder / "greeter" / "prompts").mkdir(parents=True)
    (folder / "greeter" / "agent.yaml").write_text("flows: []\n")
    (folder / "greeter" / "greet.py").write_text("one\n")
    return folder


def save_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def save_by_rename(path: Path, text: str) -> None:
    """As vim, and most editors that keep the old file until the new one is whole."""
    new = path.with_name(f".{path.name}.tmp")
    new.write_text(text)
    new.replace(path)


def save_with_a_backup(path: Path, text: str) -> None:
    """As emacs."""
    path.rename(f"{path}~")
    path.write_text(text)


def save_within_the_same_second(path: Path, text: str) -> None:
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=times)


def rewrite(folder: Path, change: Callable[[], object]) -> str:
    before = contents([folder])
    change()
    return differences(before, contents([folder]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "greeter/greet.py").write_text("two\n"), "agents/greeter changed"),
        (lambda f: (f / "greeter/prompts/x.yaml").write_text("x"), "agents/greeter changed"),
        (lambda f: (f / "greeter/greet.py").unlink(), "agents/greeter changed"),
        (lambda f: (f / "greeter").rename(f / "host"), "agents/greeter removed, agents/host added"),
        (lambda f: (f / "greeter/greet.py").touch(), ""),
        (lambda f: (f / "greeter/greet.py").chmod(0o755), ""),
        (lambda f: (f / "greeter/notes.txt").write_text("what a flow wrote"), ""),
        (lambda f: (f / "greeter/.#greet.py").write_text("an editor's lock"), ""),
        (lambda f: (f / "greeter/greet.py~").write_text("a backup"), ""),
        (lambda f: os.mkfifo(f / "greeter/pipe.py"), ""),
        (lambda f: (f / "greeter/again").symlink_to(f), ""),
    ],
)
def test_a_change_is_said_by_the_name_of_its_target(
    agents: Path, change: Callable[[Path], object], said: str
) -> None:
    assert rewrite(agents, lambda: change(agents)) == said


def test_compiled_files_are_no_change(agents: Path) -> None:
    cache = agents / "greeter" / "__pycache__"
    assert rewrite(agents, lambda: (cache.mkdir(), (cache / "greet.py").write_text("x"))) == ""


def test_a_pipeline_is_named_without_its_suffix(tmp_path: Path) -> None:
    folder = tmp_path / "pipelines"
    folder.mkdir()
    said = rewrite(folder, lambda: (folder / "welcome.yaml").write_text("steps: []\n"))
    assert said == "pipelines/welcome added"


def test_a_line_names_eight_targets_and_counts_the_others() -> None:
    said = differences({}, {f"agents/a{number}": {Path("x"): b"1"} for number in range(11)})
    assert said.count("added") == 8
    assert said.endswith(", 3 more")


Seen = queue.SimpleQueue[Contents]


@pytest.fixture
def seen(agents: Path) -> Iterator[Seen]:
    found: Seen = queue.SimpleQueue()
    watcher = Watcher([agents], found.put, pytest.fail)
    watcher.start()
    yield found
    watcher.stop()


@pytest.mark.parametrize(
    "save", [save_in_place, save_by_rename, save_with_a_backup, save_within_the_same_second]
)
def test_every_way_to_save_a_file_is_one_change(
    agents: Path, seen: Seen, save: Callable[[Path, str], None]
) -> None:
    before = contents([agents])
    save(agents / "greeter" / "greet.py", "two\n")
    assert differences(before, seen.get(timeout=SECONDS)) == "agents/greeter changed"
    with pytest.raises(queue.Empty):
        seen.get(timeout=NOTHING_SECONDS)


def test_many_changes_at_once_are_few_reloads(agents: Path, seen: Seen) -> None:
    for number in range(200):
        (agents / f"a{number}").mkdir()
        (agents / f"a{number}" / "agent.yaml").write_text("flows: []\n")
    reloads, last = 0, {}
    while len(last) < 201:
        last = seen.get(timeout=SECONDS)
        reloads += 1
    assert reloads < 10


def test_a_link_that_is_turned_to_another_folder_is_seen(tmp_path: Path, agents: Path) -> None:
    link, found = tmp_path / "current", queue.SimpleQueue[Contents]()
    link.symlink_to(agents)
    watcher = Watcher([link], found.put, pytest.fail)
    watcher.start()
    (tmp_path / "v2" / "greeter").mkdir(parents=True)
    (tmp_path / "v2" / "greeter" / "agent.yaml").write_text("flows: [1]\n")
    link.unlink()
    link.symlink_to(tmp_path / "v2")
    while len(found.get(timeout=SECONDS)["current/greeter"]) != 1:
        pass
    watcher.stop()


def test_a_file_is_read_again_only_if_it_may_have_changed(
    agents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, greet = [], agents / "greeter" / "greet.py"
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    known: Known = {}
    first = contents([agents], known)
    assert contents([agents], known) == first
    assert len(read) == 4  # they are so new that they may change without another time
    time.sleep(1.1)
    assert contents([agents], known) == contents([agents], known) == first
    assert len(read) == 6
    save_within_the_same_second(greet, "two\n")
    assert differences(first, contents([agents], known)) == "agents/greeter changed"
    assert read[6:] == [greet]
