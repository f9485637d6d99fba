"""gnocchi-repair as an operator runs it."""

import re
import uuid

import pytest
import sqlalchemy as sa

from gnocchi.indexer import models
from gnocchi.metricd import Processor, Reporter
from gnocchi.query.fetch import read_measures
from gnocchi.tests.functional.daemons import Deployment

ID = "[0-9a-f-]{36}"


@pytest.fixture
def deployment(tmp_path):
    made = Deployment(tmp_path, {"metricd": {"workers": 1, "metric_processing_delay": 1}})
    made.begin_upgraded(2)
    yield made
    made.remove()


def process(deployment, metrics):
    """Run metricd until that many metrics were processed."""
    done = deployment.run("gnocchi-metricd", "--stop-after-processing-metrics", str(metrics))
    assert 0 == done.returncode, done.stdout
    return done.stdout


def read(deployment, metric_id):
    backends = deployment.backends
    minutes = read_measures(backends.store, backends.indexer, backends.indexer.get_metric(metric_id), "count")[-1]
    return [int(minute) % 60 for minute in minutes.timestamps.astype("M8[m]").astype(int)]


def break_section(deployment, section):
    path = deployment.directory / "data" / "objects" / section.key
    data = bytearray(path.read_bytes())
    data[section.offset + section.length // 2] ^= 1
    path.write_bytes(data)


def list_packs(deployment):
    return [pack for number in range(2) for pack in deployment.backends.indexer.list_packs(number)]


@pytest.fixture
def damaged(deployment):
    """One metric with the head of its pack damaged, one measure in it and one parked behind it."""
    [metric_id] = deployment.create_metrics(1)
    deployment.post([metric_id])
    process(deployment, 1)
    [pack] = list_packs(deployment)
    break_section(deployment, pack.base)
    deployment.post([metric_id], minute=1)
    output = process(deployment, 1)
    assert f"measures of pack {pack.id} of archive policy medium are parked" in output
    return metric_id, pack


def test_sound_storage(deployment):
    ids = deployment.create_metrics(20)
    deployment.post(ids)
    process(deployment, 20)
    done = deployment.run("gnocchi-repair", "list")
    assert 0 == done.returncode
    assert "2 objects verified, 0 sections or tables damaged, 0 measures parked\n" == done.stdout


def test_reports(deployment, damaged, caplog):
    """The reporter warns of parked measures; a worker tells what it did not store, and not too often."""
    _, pack = damaged
    conf = deployment.backends.conf
    reporter, worker = Reporter(0, conf), Processor(0, conf)
    caplog.set_level("INFO")
    reporter.run_round()
    assert ["0 measurements bundles across 0 metrics wait to be processed.",
            "1 measures are parked, because 1 packs cannot be read or processed (gnocchi-repair list)."] == [
        record.getMessage() for record in caplog.records if record.name == "gnocchi.metricd"]
    for _ in range(3):
        [gone] = deployment.create_metrics(1)
        deployment.post([gone])
        deployment.backends.indexer.delete_metrics([gone])
        worker.run_round()
    assert 3 == worker.counters["refused measures: metric gone"]
    assert ["Measures not stored: 1 metric gone"] == [
        record.getMessage() for record in caplog.records if "not stored" in record.getMessage()]
    worker.leave()


def test_give_up_a_head(deployment, damaged):
    """From the list to the end: what is damaged, what would be lost, what was saved."""
    metric_id, pack = damaged
    done = deployment.run("gnocchi-repair", "list")
    assert 1 == done.returncode
    where = f"pack {pack.id}, sack {pack.sack}"
    assert re.search(rf"^damaged head \({where}, archive policy medium, 1 metrics\): "
                     rf"{pack.base.key} at byte 120: checksum of the head does not match$", done.stdout, re.M)
    assert re.search(rf"^parked {ID} \({where}\): 1 measures since \S+Z, tried 0 times: ",
                     done.stdout, re.M)
    assert "2 objects verified, 1 sections or tables damaged, 1 measures parked\n" in done.stdout
    other = deployment.run("gnocchi-repair", "list", "--sack", str(1 - pack.sack))
    assert (0, True) == (other.returncode, other.stdout.startswith("0 objects verified"))
    hesitant = deployment.run("gnocchi-repair", "abandon-head", str(pack.id))
    assert 1 == hesitant.returncode
    assert "would be lost:\n  1 metrics without sealed aggregates: all of theirs\n" in hesitant.stdout
    assert "Nothing was changed." in hesitant.stdout
    assert 1 == len(deployment.backends.indexer.list_parked())
    done = deployment.run("gnocchi-repair", "abandon-head", str(pack.id), "--yes")
    assert 0 == done.returncode, done.stdout
    assert "are lost:" in done.stdout
    assert "1 parked measures were taken, 0 of them refused\n" in done.stdout
    assert [1] == read(deployment, metric_id)
    assert 0 == deployment.run("gnocchi-repair", "list").returncode


def test_refusals(deployment, damaged):
    """Wrong usage is 2, what cannot be done is 1 and one line."""
    _, pack = damaged
    for arguments, code, text in (
            ((), 2, "required: action"),
            (("abandon-head", "nonsense"), 2, "invalid UUID value: 'nonsense'"),
            (("abandon-head", str(uuid.UUID(int=0))), 1, f"The catalogue has no {uuid.UUID(int=0)}"),
            (("abandon-block", str(pack.id)), 1, f"has no block {pack.id}"),
            (("list", "--sack", "2"), 1, "There is no sack 2; they are 0 to 1"),
            (("rebuild-catalogue",), 1, "The catalogue is not empty")):
        done = deployment.run("gnocchi-repair", *arguments)
        assert (code, True) == (done.returncode, text in done.stdout), done.stdout
        assert "Traceback" not in done.stdout


def test_rebuild(deployment):
    """The rows are lost; what is stored is read as before."""
    ids = deployment.create_metrics(8)
    for minute in (0, 1, 130):
        deployment.post(ids, minute)
        process(deployment, 8)
    before = {metric_id: read(deployment, metric_id) for metric_id in ids}
    with deployment.backends.indexer.writing() as connection:
        for table in (models.block, models.pack):
            connection.execute(sa.delete(table))
    assert [] == read(deployment, ids[0])
    done = deployment.run("gnocchi-repair", "rebuild-catalogue")
    assert 0 == done.returncode, done.stdout
    assert "the catalogue has 2 packs, 4 blocks (0 of them written anew)" in done.stdout
    assert before == {metric_id: read(deployment, metric_id) for metric_id in ids}
    assert 0 == deployment.run("gnocchi-repair", "list").returncode
