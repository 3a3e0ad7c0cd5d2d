"""What differs between the versions of Airflow: no other module asks which one it runs with.

Nothing of Airflow is imported before it is needed, since DAG files are parsed often.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any
from uuid import UUID

_DEFERRED = "deferred"
# From Airflow 3.2 on a process has two registries of metrics, and Airflow switches on only the one it uses itself: the
# Task SDK's where a task runs, its own in a triggerer (apache/airflow 69172). The last is that of Airflow 2.11 to 3.1.
_STATS_IN_TASK = ("airflow.sdk.observability.stats", "airflow.stats")
_STATS_IN_TRIGGERER = ("airflow.observability.stats", "airflow.stats")
_HITL = ("airflow.sdk.execution_time.hitl",)
_SECRET_MASKERS = (
    "airflow.sdk.log",
    "airflow.sdk.execution_time.secrets_masker",  # Airflow 3.0
    "airflow.utils.log.secrets_masker",  # Airflow 2
)


def _attribute(modules: tuple[str, ...], name: str) -> Any:
    """Return an attribute of the first of the modules that exists and has it; None where none does."""
    for module in modules:
        try:
            found = getattr(import_module(module), name, None)
        except ModuleNotFoundError:
            continue
        if found is not None:
            return found
    return None


def tasks_reach_database() -> bool:
    """Tell whether tasks have access to Airflow's database: on Airflow 2, which has no Task SDK."""
    return _attribute(("airflow.sdk",), "__file__") is None


def mask_secret(secret: str) -> None:
    """Have Airflow replace a secret in everything that it logs from now on."""
    masker: Callable[[str], None] = _attribute(_SECRET_MASKERS, "mask_secret")
    masker(secret)


def stats_backend(*, in_triggerer: bool) -> Any:
    """Return Airflow's sender of metrics; None where there is none.

    :param in_triggerer: Whether the caller runs in a triggerer.
    """
    return _attribute(_STATS_IN_TRIGGERER if in_triggerer else _STATS_IN_TASK, "Stats")


def arguments_of(function: Callable[..., Any], args: Collection[Any], context: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parts of Airflow's context that a TaskFlow function has parameters for."""
    # common-compat offers it only since 1.14.1.
    determine = _attribute(("airflow.sdk.bases.decorator", "airflow.utils.operator_helpers"), "determine_kwargs")
    found: Mapping[str, Any] = determine(function, args, context)
    return found


def triggerer_calls_on_kill() -> bool:
    """Tell whether the triggerer calls a trigger's ``on_kill`` for what a user did: from Airflow 3.3 on."""
    return hasattr(import_module("airflow.triggers.base").BaseTrigger, "on_kill")


def waits_for_trigger(ti: Any, trigger_id: Any) -> bool:
    """Tell whether a task instance is still deferred to a trigger; to be called beside the event loop.

    :param ti: What the trigger knows as its ``task_instance``.
    :param trigger_id: The trigger, which only Airflow 2 compares.
    """
    if _runner() is None:
        return _waits_by_database(ti, trigger_id)
    return task_state(ti) == _DEFERRED


def _runner() -> Any:
    return _attribute(("airflow.sdk.execution_time.task_runner",), "RuntimeTaskInstance")


def task_state(ti: Any) -> str:
    """Return the state of a trigger's task instance, on Airflow 3; to be called beside the event loop."""
    states = _runner().get_task_states(
        dag_id=ti.dag_id,
        task_ids=[ti.task_id],
        run_ids=[ti.run_id],
        map_index=ti.map_index if ti.map_index >= 0 else None,
    )
    name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
    state = (states.get(ti.run_id) or {}).get(name)
    return str(getattr(state, "value", state))


def _waits_by_database(ti: Any, trigger_id: Any) -> bool:
    # The row also tells a new try that waits for another trigger.
    row = _task_row(ti, "state", "trigger_id")
    return row is not None and row[0] == _DEFERRED and row[1] == trigger_id


def try_in_database(ti: Any) -> tuple[int, str | None]:
    """Return which try Airflow 2 has a task instance at, and its state; 0 where it does not know it."""
    row = _task_row(ti, "try_number", "state")
    return (0, None) if row is None else (int(row[0] or 0), row[1])


def _task_row(ti: Any, *columns: str) -> Any:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session() as session:
        return (
            session.query(*(getattr(TaskInstance, column) for column in columns))
            .filter_by(dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index)
            .one_or_none()
        )


def deferred_arguments(ti: Any) -> dict[str, Any] | None:
    """Return what a task was deferred with, where Airflow kills it before it resumes it: on Airflow 2; else None."""
    kept = getattr(ti, "next_kwargs", None)
    return kept if isinstance(kept, dict) else None


def trace_carrier(ti: Any) -> Any:
    """Return what carries the trace of a task instance: from Airflow 3 on; else None."""
    return getattr(ti, "context_carrier", None)


def is_first_poke(context: Mapping[str, Any]) -> bool:
    """Tell whether a rescheduled sensor pokes for the first time; nobody knows before Airflow 3."""
    return context.get("task_reschedule_count") == 0


def is_own_process(ti: Any) -> bool:
    """Tell whether this is the process of the task itself, on Airflow 3."""
    return _server_context(ti) is not None


def has_resumed(ti: Any) -> bool:
    """Tell whether a task goes on after a deferral, on Airflow 3."""
    return bool(getattr(_server_context(ti), "next_method", None))


def _server_context(ti: Any) -> Any:
    return getattr(ti, "_ti_context_from_server", None)


def push_xcom(ti: Any, key: str, value: Any) -> None:
    """Push an XCom past an XCom backend, where Airflow 3 lets a task do so; through it elsewhere.

    The user interface of Airflow 3 shows a link as it stands in the database, and a backend that keeps values in an
    object store leaves the address of a file there. Airflow itself stores links this way when a task ends.
    """
    from airflow.providers.common.compat.sdk import XCom

    past_backend = getattr(XCom, "_set_xcom_in_db", None)
    if past_backend is None or not is_own_process(ti):
        ti.xcom_push(key=key, value=value)
        return
    past_backend(key=key, value=value, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index)


def retry_policy_types() -> tuple[Any, Any]:
    """Return ``RetryDecision`` and ``RetryPolicy`` of Airflow 3.3 and later.

    :raises ImportError: This Airflow has none.
    """
    decision, policy = (_attribute(("airflow.sdk",), name) for name in ("RetryDecision", "RetryPolicy"))
    if decision is None or policy is None:
        raise ImportError(
            "DifyRetryPolicy needs Airflow 3.3 or later, where tasks have the parameter retry_policy. Before that, "
            "leave the policy out: retries and retry_delay of the task apply, and final errors are not retried either "
            "way."
        )
    return decision, policy


def reschedule_decision(decision: Any) -> Any:
    """Return what makes a ``RetryDecision`` that takes no retry: from Airflow 3.4 on; else None."""
    return getattr(decision, "reschedule", None)


def has_required_actions() -> bool:
    """Tell whether tasks can ask people something: from Airflow 3.1 on."""
    return _attribute(_HITL, "upsert_hitl_detail") is not None


def answers_resume_tasks() -> bool:
    """Tell whether Airflow itself resumes a deferred task whose required action is answered: from Airflow 3.3 on."""
    return _attribute(("airflow.sdk.exceptions",), "TaskAwaitingInput") is not None


def open_required_action(ti_id: UUID, *, params: dict[str, Any], assigned_users: Any, **details: Any) -> Any:
    """Ask Airflow's supervisor of a task to open its required action; return what the action then shows.

    Airflow's own function for this returns nothing. Before 3.4 Airflow keeps what a task instance asked first, and so
    tells something else than was asked for.
    """
    comms, models = (
        import_module("airflow.sdk.execution_time.comms"),
        import_module("airflow.sdk.api.datamodels._generated"),
    )
    users = [models.HITLUser(id=user["id"], name=user["name"]) for user in assigned_users]
    payload = comms.CreateHITLDetailPayload(ti_id=ti_id, params=params, assigned_users=users, **details)
    return import_module("airflow.sdk.execution_time.task_runner").SUPERVISOR_COMMS.send(msg=payload)


def read_required_action(ti_id: UUID) -> Any:
    """Return how a required action was answered; to be called in a triggerer, beside the event loop."""
    return _attribute(_HITL, "get_hitl_detail_content_detail")(ti_id=ti_id)


def close_required_action(ti_id: UUID, why: str) -> Any:
    """Answer a required action with a remark; to be called in a triggerer, beside the event loop."""
    return _attribute(_HITL, "update_hitl_detail_response")(ti_id=ti_id, chosen_options=[why], params_input={})
