"""dbt-cloud's trigger, whose hook knows only https: without TLS it is spared the larger part of its costs."""

from __future__ import annotations

from typing import Any

from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

of_https = DbtCloudHook.get_request_url_params


class DbtTrigger(DbtCloudRunJobTrigger):
    """The trigger itself, under a name by which a triggerer imports this module."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.DbtTrigger", super().serialize()[1]


def get_request_url_params(*arguments: Any, **options: Any) -> Any:
    url, data = of_https(*arguments, **options)
    return url.replace("https://", "http://", 1), data


DbtCloudHook.get_request_url_params = staticmethod(get_request_url_params)
