"""Ray datasets on a real Ray: published through Arrow, read block by block."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray
import ray.data

from rayplane.nouns.job import RunContext
from rayplane.runtime import datasets
from tests.support.warm import Warm, local_ray

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _local_ray(warm: Warm) -> Iterator[None]:
    with local_ray(warm, num_cpus=1):
        yield


def test_a_ray_dataset_is_the_same_version_as_its_rows_in_one_table(job: RunContext) -> None:
    table = pa.table({"n": list(range(100)), "s": [str(n % 7) if n % 5 else None for n in range(100)]})
    blocks = ray.data.from_arrow([table.slice(50), table.slice(0, 50)])
    version = datasets.publish("d", blocks)
    assert version.content_hash == datasets.content_hash(table)
    job.inputs["d"] = version.version
    back = datasets.read_ray("d")
    assert back.count() == 100
    assert back.sum("n") == 4950


def test_a_ray_dataset_without_rows_keeps_its_columns(job: RunContext) -> None:
    no_rows = ray.data.from_arrow(pa.table({"n": [1, 2]}).slice(0, 0))
    version = datasets.publish("d", no_rows, allow_empty=True)
    assert (version.rows, [(c.name, c.type) for c in version.columns]) == (0, [("n", "int64")])
