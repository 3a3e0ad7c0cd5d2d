"""OpenLineage data sets of a sync; imported only when OpenLineage asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import Dataset, InputDataset, OutputDataset

from airflow_provider_dify.api.checks import plain_text
from airflow_provider_dify.exceptions import DifyError
from airflow_provider_dify.rules.lineage import dataset_of
from airflow_provider_dify.rules.uploads import is_path_object

MOST_INPUTS = 100
"""Files of rows that are named: a folder is one data set, whatever is in it."""


def sync_lineage(task: Any) -> OperatorLineage[Dataset, Any]:
    """Return the folder or files that are read, and the knowledge base that is written.

    :param task: The operator, with its templates rendered.
    """
    found = [dataset_of(str(each)) for each in _locations(task.source)]
    inputs: list[Dataset] = [InputDataset(namespace, name) for namespace, name in dict.fromkeys(filter(None, found))]
    dataset_id = task.known_dataset_id
    if dataset_id is None:
        return OperatorLineage(inputs=inputs)
    try:
        host = urlsplit(task.hook.connection.base_url).netloc
    except DifyError:
        return OperatorLineage(inputs=inputs)
    outputs: list[Dataset] = [OutputDataset(f"dify://{host}", f"datasets/{dataset_id}")]
    return OperatorLineage(inputs=inputs, outputs=outputs)


def _locations(source: Any) -> list[Any]:
    if plain_text(source) is not None or is_path_object(source):
        return [source]
    rows = source if isinstance(source, (list, tuple)) else []
    files = [row.get("file") if isinstance(row, Mapping) else row for row in rows]
    return [each for each in files if plain_text(each) is not None or is_path_object(each)][:MOST_INPUTS]
