"""A job that trains a model on two columns and registers it as ``tiny@champion``."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import xgboost

from rayplane.runtime import context, models

ROWS = 300


def main() -> None:
    """Train, log, register."""
    run_id = context.current().run_id
    assert run_id is not None, "the job is not tracked"
    booster, card, example = train()
    uri = models.log(booster, card, example, run_id=run_id)
    models.register("tiny", model_uri=uri, run_id=run_id, alias="champion")


def train() -> tuple[xgboost.Booster, models.ModelCard, pa.Table]:
    """Train a model; returns it, its card and some rows."""
    random = np.random.default_rng(1)
    table = pa.table({"carrier": random.choice(["AA", "UA"], ROWS).tolist(), "wind": random.random(ROWS).tolist()})
    card = models.ModelCard(
        flavor="xgboost",
        request=models.RequestSchema(
            columns=[
                models.RequestColumn(name="carrier", type="string"),
                models.RequestColumn(name="wind", type="number"),
            ]
        ),
        features=[
            models.FeatureColumn(name="carrier", categories=["AA", "UA"]),
            models.FeatureColumn(name="wind"),
        ],
    )
    label = table["wind"].to_numpy() > 0.4
    data = xgboost.DMatrix(models.Encoding(card.features).matrix(table), label=label)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 10)
    return booster, card, table.slice(0, 5)


if __name__ == "__main__":
    main()
