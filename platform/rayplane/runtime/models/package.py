"""Log a model of any flavor to MLflow with its card, and load one for scoring."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import mlflow
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from pydantic import ValidationError

from rayplane import plugins
from rayplane.errors import Failed, InvalidData, Unsupported
from rayplane.runtime.models.card import METADATA_KEY, ModelCard
from rayplane.runtime.models.encoding import Encoding, Matrix

Scores = npt.NDArray[np.float32]


class Predictor(Protocol):
    """A loaded model. Several threads may call it at once."""

    def predict(self, matrix: Matrix) -> Scores:
        """One prediction for each row of a (rows, features) matrix."""
        ...


class Flavor(Protocol):
    """The adapter of a model library: a plug-in of the family ``flavors``."""

    name: str
    requirements: tuple[str, ...]
    """Distributions, beside MLflow, that loading the model needs; ``a|b``: the first of these that is installed."""

    def save_model(self, path: str, mlflow_model: Model, **kwargs: Any) -> None:
        """Write the model below ``path`` as an MLflow model that ``mlflow.pyfunc`` can load.

        Its pyfunc takes the features as the card lists them, texts as texts.
        """
        ...

    def load(self, path: str) -> Predictor:
        """Load the model from a local folder that ``save_model`` wrote."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score."""

    uri: str
    card: ModelCard
    encoding: Encoding
    predictor: Predictor

    def score(self, table: pa.Table) -> Scores:
        """One prediction for each row of a table of features. Raises InvalidData naming the columns that it lacks."""
        return self.predictor.predict(self.encoding.matrix(table))


def log(model: Any, card: ModelCard, example: pa.Table, *, run_id: str, name: str = "model") -> str:
    """Log a trained model, its card, signature and input example to a run; returns its URI (``models:/m-...``).

    ``example`` holds some rows of the card's features, text features as texts. The logged model is then loaded both as
    serving does and through MLflow's pyfunc. Raises Failed if the two predict differently, Unsupported for an unknown
    flavor.
    """
    flavor: Flavor = plugins.load("flavors", card.flavor)()
    rows = example.select(Encoding(card.features).names).to_pandas()
    info = Model.log(
        artifact_path=None,
        model_id=_create_logged_model(run_id, name),
        flavor=flavor,
        run_id=run_id,
        metadata={METADATA_KEY: card.model_dump(mode="json")},
        model=model,
        signature=signature(card),
        input_example=rows,
        pip_requirements=_requirements(flavor),
        # _verify does this below, with the stored files.
        validate_serving_input=False,
    )
    loaded = load(info.model_uri)
    _verify(loaded, example, mlflow.pyfunc.load_model(info.model_uri).predict(rows))
    return str(info.model_uri)


def load(uri: str) -> LoadedModel:
    """Load a model from MLflow (``models:/name/version``, ``models:/name@alias``, ``models:/m-...``) or a local folder.

    Raises InvalidData for a model without a card, Unsupported for an unknown flavor.
    """
    path = mlflow.artifacts.download_artifacts(artifact_uri=uri)
    card = card_of(Model.load(path), uri)
    flavor: Flavor = plugins.load("flavors", card.flavor)()
    return LoadedModel(uri=uri, card=card, encoding=Encoding(card.features), predictor=flavor.load(path))


def card_of(model: Model, uri: str) -> ModelCard:
    """The card in an MLflow model's metadata. Raises InvalidData if it is missing or can't be parsed."""
    recorded = (model.metadata or {}).get(METADATA_KEY)
    remedy = "Log the model with rayplane.runtime.models.log()."
    if recorded is None:
        raise InvalidData(f"Model '{uri}' has no card of rayplane in its metadata.", remedy=remedy)
    try:
        return ModelCard.model_validate(recorded)
    except ValidationError as exc:
        raise InvalidData(f"The card of model '{uri}' can't be read: {exc}.", remedy=remedy) from exc


def signature(card: ModelCard) -> ModelSignature:
    """The MLflow signature of a card: all features as optional inputs, since any may be missing, and one number out."""
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string if f.categories is not None else DataType.double, name=f.name, required=False)
        for f in card.features
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec(DataType.float, name=card.output)]))


def _create_logged_model(run_id: str, name: str) -> str:
    """Create a logged model in the run's own experiment; MLflow would choose the process' current experiment."""
    client = MlflowClient()
    run = client.get_run(run_id)
    model = client.create_logged_model(run.info.experiment_id, name=name, source_run_id=run_id, params=run.data.params)
    return str(model.model_id)


def _verify(loaded: LoadedModel, example: pa.Table, answered: Any) -> None:
    expected = loaded.score(example)
    through_mlflow = np.asarray(answered[loaded.card.output], dtype=np.float32)
    if not np.array_equal(expected, through_mlflow):
        raise Failed(
            f"Model '{loaded.uri}' predicts {through_mlflow[:3]} through MLflow, but {expected[:3]} as it would be "
            "served.",
            remedy="Compare the flavor's two ways to load a model.",
        )


def _requirements(flavor: Flavor) -> list[str]:
    # Listed, not inferred: to infer them, MLflow would load the model in another process.
    return [_pinned("mlflow"), *(_pinned(name) for name in flavor.requirements)]


def _pinned(names: str) -> str:
    for name in names.split("|"):
        try:
            return f"{name}=={version(name)}"
        except PackageNotFoundError:
            continue
    raise Unsupported(
        f"None of the distributions '{names}' is installed.", remedy="Install the extra 'rayplane[runtime]'."
    )
