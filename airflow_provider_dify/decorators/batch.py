"""TaskFlow: a function returns or yields rows, and its task runs the workflow over each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import DecoratedOperator, context_merge, task_decorator_factory

from airflow_provider_dify.compat import arguments_of
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.operators.batch import DifyRunWorkflowBatchOperator
from airflow_provider_dify.runtime.error_report import reports_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_NAME = "@task.dify_workflow_batch"


class _DifyWorkflowBatchDecoratedOperator(DecoratedOperator, DifyRunWorkflowBatchOperator):
    """Runs the workflow over the rows that a function returns. See ``dify_workflow_batch_task``."""

    # The rows are not among them: a stray brace in a text that nobody here has written is not to be rendered.
    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in DifyRunWorkflowBatchOperator.template_fields if name != "requests"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        "inputs": "json",
        "manifest": "json",
    }
    custom_operator_name = _NAME

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if "requests" in kwargs:
            raise DifyInvalidInputError(
                f"requests cannot be given to {_NAME}: the function {python_callable.__name__!r} returns them."
            )
        if inspect.iscoroutinefunction(python_callable) or inspect.isasyncgenfunction(python_callable):
            raise DifyInvalidInputError(
                f"The function {python_callable.__name__!r} of {_NAME} must be an ordinary one, not async: with "
                "deferrable=True the triggerer runs the batch, and the function has only to return or yield its rows."
            )
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs)
        self._arguments: Mapping[str, Any] = {}

    @reports_errors
    def execute(self, context: Context) -> Any:
        """Call the function where the batch has no rows yet, and run the workflow over what it returns."""
        context_merge(context, self.op_kwargs)
        self._arguments = arguments_of(self.python_callable, self.op_args, context)
        return DifyRunWorkflowBatchOperator.execute(self, context)

    def rows(self) -> Any:
        """Return what the function returns."""
        return self.python_callable(*self.op_args, **self._arguments)

    @staticmethod
    def xcom_push(context: Context, key: str, value: Any) -> None:
        """Push an XCom. Airflow 3.0's decorated operators ask for this method and lack it."""
        context["ti"].xcom_push(key=key, value=value)


def dify_workflow_batch_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool | None = None, **kwargs: Any
) -> Any:
    """Run a Dify workflow over the rows that a function returns or yields; the task returns the batch's manifest.

    In a DAG it is ``@task.dify_workflow_batch``. The function is called once for each batch, on the worker: its rows
    are written to the batch's folder, so that a retry and the triggerer have the same ones. It may also return the path
    or URI of a file of rows.

    :param python_callable: The function: it returns rows as a list of mappings, or yields them, which keeps only one of
        them in memory.
    :param multiple_outputs: Whether each field of the manifest is also pushed to an XCom of its own.
    :param kwargs: The operator's parameters but ``requests``, and those of every Airflow task.
    :raises DifyInvalidInputError: ``requests`` is given, or the function is async.
    """
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=bool(multiple_outputs),
        decorated_operator_class=_DifyWorkflowBatchDecoratedOperator,
        **kwargs,
    )
