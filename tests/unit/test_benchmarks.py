"""The frame of the benchmarks: what a program reports becomes a row of docs/performance.md. Nothing is timed here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from sqlalchemy import event, text

from benchmarks import bench, monai_deploy, query_million, scale, series_type
from benchmarks.rows import Row, against, at_least, at_most, reached
from tests.testbed.databases import make_tables
from tests.testbed.instances import MODEL, NOON, later, write_series
from worker.config.settings import Settings
from worker.db.deliveries import claim_deliveries
from worker.db.engine import Database
from worker.db.jobs import claim_job
from worker.db.models import model_row

PROGRAM = """
import sys
from benchmarks.rows import arguments, at_most, finish
chosen = arguments("a benchmark")
assert chosen.quick
rows = [at_most("a wait", [0.2, 0.4, 0.3], 0.6, "s"), at_most("a size", [8.0], 4.0, "MB")]
finish("Something small", rows, chosen.json)
"""

PEER = """
import pathlib, sys
folder, series = pathlib.Path(sys.argv[1]), sys.stdin.readline().strip()
(folder / "report.dcm").touch()
print('{"loading": 1.5}', flush=True)
sys.stdin.readline()
sys.exit("no CUDA runtime")
"""


def test_a_ratio_of_one_is_the_limit_whatever_is_measured() -> None:
    assert at_most("", [0.5], 0.5, "s").ratio == at_least("", [500.0], 500.0, "claims/s").ratio == 1.0
    assert reached(at_most("", [0.4], 0.5, "s"))
    assert not reached(at_most("", [0.6], 0.5, "s"))
    assert not reached(at_least("", [499.0], 500.0, "claims/s"))


def test_rates_are_compared_within_their_rounds() -> None:
    row = against("", ours=[10.0, 40.0, 30.0], peer=[5.0, 10.0, 10.0], peer_name="other", unit="", goal=3.0)
    assert (row.ours, row.peer, row.ratio) == (30.0, 10.0, 3.0)
    assert reached(row)


def test_every_figure_is_in_the_document_and_the_text_around_it_stays(tmp_path: Path) -> None:
    program = tmp_path / "small.py"
    program.write_text(PROGRAM)
    page = tmp_path / "performance.md"
    page.write_text(f"# Before\n\n{bench.BEGIN}\nold figures\n{bench.END}\n\nAfter\n")
    assert bench.main(["--quick", "--out", str(tmp_path)], [program]) == 0
    written = page.read_text()
    assert written.startswith("# Before")
    assert written.endswith("After\n")
    assert "old figures" not in written
    assert "| a wait | 0.3 s | 0.6 limit | 2.00 | 1.00 | reached |" in written
    assert "| a size | 8 MB | 4 limit | 0.50 | 1.00 | **missed** |" in written
    assert "a quick run, whose figures mean nothing" in written
    assert "a wait" in (tmp_path / "performance.svg").read_text()
    assert json.loads((tmp_path / "performance.json").read_text())["small"]["title"] == "Something small"


def test_figures_of_another_kind_of_processor_stay_beside_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "small.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(bench, "_SAMPLE_SECONDS", 0.0)
    for processor in ("Tortoise", "Hare", "Tortoise", "Hare"):  # each row is of the newest run on its processor
        monkeypatch.setattr(bench, "_processor", lambda processor=processor: processor)
        assert bench.main(["--quick", "--out", str(tmp_path)], [program]) == 0
    written = (tmp_path / "performance.md").read_text()
    assert "| goal |  | ratio on Tortoise |\n" in written
    assert "| a size | 8 MB | 4 limit | 0.50 | 1.00 | **missed** | 0.50 |" in written
    assert "On Tortoise: " in written
    assert "On Hare: " not in written
    figures = json.loads((tmp_path / "performance.json").read_text())["small"]
    assert [figures["processor"], *(one["processor"] for one in figures["elsewhere"])] == ["Hare", "Tortoise"]


def test_a_program_that_fails_is_told_and_keeps_nobody_from_running(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken, small = tmp_path / "broken.py", tmp_path / "small.py"
    broken.write_text("raise SystemExit(3)")
    small.write_text(PROGRAM)
    assert bench.main(["--quick", "--out", str(tmp_path)], [broken, small]) == 1
    assert "broken: exit code 3, no figures" in capfd.readouterr().err
    assert "a wait" in (tmp_path / "performance.md").read_text()


def test_a_program_that_cannot_run_here_is_skipped_and_its_figures_stay(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MONAI_DEPLOY_PYTHON", raising=False)
    monkeypatch.setattr(bench, "_SAMPLE_SECONDS", 0.0)
    figures = json.dumps({"monai_deploy": {"title": "of another day", "rows": []}})
    (tmp_path / "performance.json").write_text(figures)
    assert bench.main(["--quick", "--only", "monai_deploy", "--out", str(tmp_path)]) == 0
    assert "monai_deploy: skipped, neither --peer-python nor MONAI_DEPLOY_PYTHON" in capfd.readouterr().out
    assert (tmp_path / "performance.json").read_text() == figures


def test_a_peer_is_compared_in_rate_and_told_with_its_stages() -> None:
    ours = monai_deploy.Cell(rates=[8.0, 12.0, 10.0], work=[0.1, 0.1, 0.1])
    peer = monai_deploy.Cell(
        rates=[1.0, 1.0, 2.0], work=[0.9, 1.0, 1.1], stages=[{"loading": 0.25, "report": 0.01}] * 3
    )
    row = monai_deploy.row(24, "2x224", ours, peer)
    assert (row.ours, row.peer, row.ratio, row.goal) == (10.0, 1.0, 8.0, 10.0)
    assert not reached(row)
    assert "processor time 100 against 1000 ms; the peer's ms: loading 250, report 10" in row.note
    assert monai_deploy.row(24, "3x96", ours, peer).goal is None


def test_a_peer_that_ends_or_writes_no_report_gives_no_figure(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PEER]
    with monai_deploy.running_peer(command, {}, tmp_path / "ends", "2x224") as peer:
        assert peer.classify(tmp_path) == {"loading": 1.5}
        with pytest.raises(RuntimeError, match="the peer ended with 1: no CUDA runtime"):
            peer.classify(tmp_path)
    silent = [sys.executable, "-c", PEER.replace(".touch()", "")]
    with (
        pytest.raises(RuntimeError, match="0 reports for 1 series"),
        monai_deploy.running_peer(silent, {}, tmp_path / "silent", "2x224") as peer,
    ):
        peer.classify(tmp_path)


def test_quick_figures_never_get_into_the_documentation() -> None:
    with pytest.raises(SystemExit):
        bench.main(["--quick"])


def test_every_program_exists() -> None:
    assert all((bench.ROOT / "benchmarks" / f"{name}.py").is_file() for name in bench.PROGRAMS)


def test_cost_follows_from_the_rates() -> None:
    rows = [Row(bench.COSTED[24], 2.0, "series/s", 1), Row(bench.COSTED[200], 0.25, "series/s", 1)]
    assert "| 24 slices | 172,800 | 576 |" in bench.cost(rows)
    assert "| 200 slices | 21,600 | 72 |" in bench.cost(rows)


def test_the_filled_databases_fit_the_schema(tmp_path: Path) -> None:
    for name, fill in (
        ("queries", lambda database: query_million.fill(database, 2000)),
        ("rows", lambda database: scale.add_series(database, 10, done=True)),
    ):
        database = Database(
            Settings.model_validate({"database": {"url": f"sqlite:///{tmp_path / name}.db"}}).database.url
        )
        make_tables(database)
        fill(database)
        with database.engine.connect() as connection:
            studies = ("study", "study_result", "search_word") if name == "queries" else ()
            for table in ("series", "instance", "job", "result", "object", "delivery", *studies):
                assert connection.scalar(text(f"SELECT count(*) FROM {table}")) > 0
        database.close()


def test_a_claim_never_sorts_the_queue(tmp_path: Path) -> None:
    """Nor looks through it: its cost is the same behind ten jobs and a hundred thousand."""
    database = Database(f"sqlite:///{tmp_path / 'queue.db'}")
    make_tables(database)
    scale.add_series(database, 50, done=False)
    executed: list[tuple[str, object]] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: executed.append((call[2], call[3])))
    with database.write() as session:
        model = model_row(session, MODEL, NOON).id
        job = claim_job(session, "host:1", model, later(60), scale.LEASE)
        assert job is not None
        assert claim_deliveries(session, "pacs", "host:1", later(60), scale.LEASE) == []
    asked = [call for call in executed if "ORDER BY" in call[0]]
    assert asked
    with database.engine.connect() as connection:
        for statement, values in asked:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]  # type: ignore[arg-type]
            assert not [step for step in plan if "SCAN" in step.split()[:1] or "TEMP B-TREE" in step], plan
    database.close()


def test_who_lost_its_lease_is_served_before_who_waits(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'queue.db'}")
    make_tables(database)
    scale.add_series(database, 3, done=False)
    with database.write() as session:
        model = model_row(session, MODEL, NOON).id
        first = claim_job(session, "host:1", model, later(1), scale.LEASE)
        second = claim_job(session, "host:1", model, later(2), scale.LEASE)
        assert first is not None
        assert second is not None
    with database.write() as session:
        again = claim_job(session, "host:2", model, later(60), scale.LEASE)
        assert again is not None
        assert (again.id, again.lease_owner, again.attempts) == (first.id, "host:2", 2)
    database.close()


def test_series_types_are_counted_against_the_truth_that_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text_of in (("a", "AX T1 POST"), ("b", "AX T2 FLAIR"), ("c", "AX T1")):
        write_series(tmp_path / name, 4, series=name, SeriesDescription=text_of)
    listed = "".join(f"{name},a head,classified notumor\n" for name in "abc")
    (tmp_path / "series.csv").write_text(f"file,what,expected\n{listed}")
    truth = tmp_path / "truth.csv"
    truth.write_text("file,sequence,contrast_agent\na,T1,with\nb,T1,\nabsent,T1,\n")
    assert series_type.main([str(tmp_path), "--truth", str(truth), "--json", str(tmp_path / "out.json")]) == 0
    assert "1 of 2 series types right" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text()) == {"right": 1, "n": 2}
