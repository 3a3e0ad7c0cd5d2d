"""Reads an Airflow connection of the type ``dify`` and checks it."""

from __future__ import annotations

import json

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_dify.api.operations import check_id
from airflow_provider_dify.client.masking import mask_secrets
from airflow_provider_dify.connection import DifyConnection
from airflow_provider_dify.exceptions import DifyConfigurationError, DifyError, DifyTransportError


def read_connection(conn_id: str, *, for_knowledge: bool = False) -> DifyConnection:
    """Return a connection as Airflow has it; its secrets are masked in logs from then on.

    :param conn_id: The Airflow connection.
    :param for_knowledge: Whether its key must be one of the knowledge API, instead of an app's.
    :raises DifyConfigurationError: It does not exist, or a field is wrong.
    """
    conn_id = check_id(conn_id, "dify_conn_id")
    try:
        found = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise DifyConfigurationError(
            f"There is no Airflow connection {conn_id!r}.",
            advice="Create one of the type dify (Admin, Connections) with the app's API key, or correct "
            "dify_conn_id. If the environment or a secrets backend defines it, correct its URI or JSON.",
            where="dify_conn_id",
        ) from error
    try:
        # extra_dejson has Airflow 3.3 warn in every log of values too short to be masked, such as "true".
        extra = json.loads(found.extra) if found.extra else {}
    except (ValueError, TypeError, RecursionError) as error:
        raise DifyConfigurationError(f"Connection {conn_id!r}, field extra: must be a JSON object.") from error
    connection = DifyConnection.parse(
        conn_id=conn_id,
        host=found.host,
        schema=found.schema,
        port=found.port,
        password=found.password,
        extra=extra,
    )
    mask_secrets(connection.secrets)
    (connection.check_dataset_key if for_knowledge else connection.check_app_key)(conn_id)
    return connection


async def read_connection_beside_loop(conn_id: str, *, for_knowledge: bool = False) -> DifyConnection:
    """Return a connection as Airflow has it, read beside the event loop.

    :param conn_id: The Airflow connection.
    :param for_knowledge: See ``read_connection``.
    :raises DifyConfigurationError: It does not exist, or a field is wrong.
    :raises DifyTransportError: Airflow could not be asked.
    """
    from asgiref.sync import sync_to_async

    try:
        # The one way that finds connections of every kind in every triggerer from 2.11 on.
        return await sync_to_async(read_connection)(conn_id, for_knowledge=for_knowledge)
    except DifyError:
        raise
    except Exception as error:
        # Whatever Airflow's metadata or secrets backend fails with: the next poll asks again.
        raise DifyTransportError(
            f"The Airflow connection {conn_id!r} could not be read ({type(error).__name__}).", sent=False
        ) from error
