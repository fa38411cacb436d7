"""Work by this process, by processes and by a cluster: the same results, and none is lost with a worker."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from dask_cluster import dask
from workers_that_end import deadly, killed_once, sleepy, squares, sums, unable

from training import parallel
from training.parallel import Prepared, Workers, each, starting

ROOT = Path(__file__).resolve().parents[1]


def quiet(line: str) -> None:
    pass


@pytest.mark.parametrize("count", [1, 2])
def test_every_job_once(count: int) -> None:
    assert sorted(each(squares, range(20), Workers(count), "number")) == [(i, i * i) for i in range(20)]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("count", [1, 2])
def test_a_job_may_have_jobs_of_its_own(count: int) -> None:
    assert sorted(each(sums, [3, 4], Workers(count), "sum")) == [(3, 5), (4, 14)]


def test_nothing_to_do_starts_nobody() -> None:
    assert list(each(squares, [], Workers(5), "number")) == []


def test_what_was_prepared_is_closed_when_all_is_done() -> None:
    said: list[str] = []

    def make() -> Prepared[int, int]:
        said.append("open")
        return Prepared(lambda number: said.append(str(number)) or number, lambda: said.append("close"))

    list(each(make, [1, 2], Workers(), "number"))
    assert said == ["open", "1", "2", "close"]


def test_a_killed_worker_is_replaced_and_its_job_is_done_again(tmp_path: Path) -> None:
    said: list[str] = []
    found = dict(each(partial(killed_once, tmp_path), range(12), Workers(2), "number", said.append))
    assert {number: square for number, (square, _) in found.items()} == {i: i * i for i in range(12)}
    assert (tmp_path / "killed").exists() and len({process for _, process in found.values()}) >= 3
    (line,) = said
    assert line.startswith("a worker process was killed; another one begins number ") and "3" in line
    assert not multiprocessing.active_children()


def test_processes_that_were_started_early_do_the_work_or_end() -> None:
    with starting(Workers(2), 20, "json"):
        early = {child.pid for child in multiprocessing.active_children()}
        assert len(early) == 2
        assert sorted(each(squares, range(20), Workers(2), "number")) == [(i, i * i) for i in range(20)]
        assert not multiprocessing.active_children()
    with pytest.raises(ValueError, match="wrong"), starting(Workers(2), 20, "json"):
        raise ValueError("wrong")
    with starting(Workers(2), 20, "no such module"):  # whose work needs it says so
        assert sorted(each(squares, [1], Workers(2), "number")) == [(1, 1)]
    assert not multiprocessing.active_children()


def test_workers_that_cannot_start_are_no_endless_story() -> None:
    with pytest.raises(RuntimeError, match=r"^3 worker processes ended before they had done number [01]: they could"):
        list(each(deadly, [0, 1], Workers(2), "number", quiet))
    assert not multiprocessing.active_children()


def test_what_a_worker_cannot_begin_with_is_said() -> None:
    with pytest.raises(ValueError, match=r"^no such checkpoint$"):
        list(each(unable, [0, 1], Workers(2), "number"))
    assert not multiprocessing.active_children()


def test_who_stops_taking_results_ends_the_workers_at_once(tmp_path: Path) -> None:
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 60.0)
        with pytest.raises(KeyboardInterrupt):
            _interrupted_when_busy(tmp_path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert not multiprocessing.active_children()
    assert list(tmp_path.iterdir()) == []  # what was half written has gone too


def _interrupted_when_busy(folder: Path) -> None:
    import threading

    def watch() -> None:
        while len(list(folder.glob("*.part"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGALRM)

    threading.Thread(target=watch, daemon=True).start()
    list(each(partial(sleepy, folder), [0, 1], Workers(2), "number"))


@pytest.mark.parametrize(("workers", "said"), [
    ({"count": 0}, "workers 0: must be at least 1"),
    ({"cluster": "host:8786"}, "cluster 'host:8786': the address of a scheduler is expected, as tcp://host:8786"),
])  # fmt: skip
def test_bad_workers_are_one_line(workers: dict, said: str) -> None:
    with pytest.raises(ValueError, match="^" + said.replace("(", r"\(") + "$"):
        Workers(**workers)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_cluster_gives_the_same_also_when_a_worker_is_killed(tmp_path: Path) -> None:
    with dask(tmp_path, 2) as (address, *_):
        found = dict(each(partial(killed_once, tmp_path), range(30), Workers(cluster=address), "number", quiet))
    assert (tmp_path / "killed").exists()
    assert {number: square for number, (square, _) in found.items()} == {i: i * i for i in range(30)}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_cluster_without_workers_and_one_that_is_none_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "WAITING_SECONDS", 0.2)
    monkeypatch.setattr(parallel, "CONNECTING_SECONDS", 2.0)
    monkeypatch.setattr(parallel._Cluster, "patience", 0.2)
    said: list[str] = []
    with (
        dask(tmp_path, 0) as (address, *_),
        pytest.raises(RuntimeError, match=r"^cluster tcp:.*: no workers for 0.2 s$"),
    ):
        list(each(squares, [1], Workers(cluster=address), "number", said.append))
    assert said == [f"cluster {address}: no workers; waiting for some"]
    with pytest.raises(ValueError, match=r"^cluster tcp://127.0.0.1:9: no scheduler answers there \("):
        list(each(squares, [1], Workers(cluster="tcp://127.0.0.1:9"), "number", said.append))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_episodes_of_can_survive_a_killed_worker_of_a_cluster(tmp_path: Path) -> None:
    """And are what one process makes of them, bit for bit."""
    common = [sys.executable, "-m", "training.evaluate", "--checkpoint", str(ROOT / "checkpoints/can_state.pt")]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    lines = tmp_path / "many.jsonl"
    with dask(tmp_path, 2) as (address, workers, start):
        words = ["--episodes", "100", "--cluster", address, "--json", str(tmp_path / "many.json")]
        many = subprocess.Popen([*common, *words], env=environment, stdout=subprocess.DEVNULL)
        try:
            while not lines.exists() or len(lines.read_text().splitlines()) < 30:
                assert many.poll() is None
                time.sleep(0.2)
            workers[0].kill()
            time.sleep(20.0)
            start()
            assert many.wait(3000) == 0
        finally:
            many.kill()
            many.wait()
    results = json.loads((tmp_path / "many.json").read_text())["results"]
    assert [result["index"] for result in results] == list(range(100))
    words = ["--episodes", "12", "--json", str(tmp_path / "one.json")]
    subprocess.run([*common, *words], env=environment, stdout=subprocess.DEVNULL, check=True)
    assert json.loads((tmp_path / "one.json").read_text())["results"] == results[:12]


def test_a_worker_with_other_libraries_says_so() -> None:
    theirs = {**parallel.versions(), "torch": "1.0"}
    with pytest.raises(RuntimeError, match=r"^worker on .*: torch [\d.+a-z]+, 1\.0 expected: it would compute other"):
        parallel._do_elsewhere("token", squares, 1, theirs)
