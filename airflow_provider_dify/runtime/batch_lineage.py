"""OpenLineage data sets of a batch; imported only when OpenLineage asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import InputDataset, OutputDataset

from airflow_provider_dify.api.checks import plain_text
from airflow_provider_dify.rules.lineage import dataset_of
from airflow_provider_dify.rules.uploads import is_path_object


def lineage_of(task: Any, returned: Any) -> OperatorLineage[Any, Any]:
    """Return the file of rows and, once the batch has ended, the folder of its results.

    :param task: The operator, with its templates rendered.
    :param returned: What the task returned; None before its end, and for one that failed.
    """
    given = task.requests
    path = str(given) if is_path_object(given) else plain_text(given)
    is_file = path is not None and path.strip() != "" and not path.lstrip().startswith("[")
    source = dataset_of(path) if is_file and path is not None else None
    results = returned.get("results") if isinstance(returned, Mapping) else None
    target = dataset_of(results) if isinstance(results, str) else None
    return OperatorLineage(
        inputs=[] if source is None else [InputDataset(*source)],
        outputs=[] if target is None else [OutputDataset(*target)],
    )
