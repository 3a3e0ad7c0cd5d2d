"""TaskFlow: a function returns the inputs, and its task runs the workflow. ``@task.dify_workflow``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, ParamSpec, Protocol, TypeAlias, cast, overload

from airflow.providers.common.compat.sdk import DecoratedOperator, context_merge, task_decorator_factory

from airflow_provider_dify.compat import arguments_of
from airflow_provider_dify.exceptions import DifyInvalidInputError
from airflow_provider_dify.operators.workflow import DifyRunWorkflowOperator
from airflow_provider_dify.rules.taskflow_inputs import inputs_and_files, without_path_objects
from airflow_provider_dify.runtime.error_report import reports_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg

_NAME = "@task.dify_workflow"
_RETURNED = "returned"

P = ParamSpec("P")
OperatorP = ParamSpec("OperatorP")

WorkflowInputs: TypeAlias = Mapping[str, Any] | None
"""What a workflow gets: names of its inputs and their values."""

Returned: TypeAlias = WorkflowInputs | tuple[WorkflowInputs, Sequence[Any] | None]
"""What a decorated function may return: inputs, or inputs and files."""


class _DifyWorkflowDecoratedOperator(DecoratedOperator, DifyRunWorkflowOperator):
    """Runs the workflow with what a function returns. See ``dify_workflow_task``."""

    # The inputs are not among them: a stray brace in a text that nobody here has written is not to be rendered.
    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in DifyRunWorkflowOperator.template_fields if name != "inputs"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        "files": "json",
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
        if "inputs" in kwargs:
            raise DifyInvalidInputError(
                f"inputs cannot be given to {_NAME}: the function {python_callable.__name__!r} returns them."
            )
        if inspect.iscoroutinefunction(python_callable) or inspect.isasyncgenfunction(python_callable):
            raise DifyInvalidInputError(
                f"The function {python_callable.__name__!r} of {_NAME} must be an ordinary one, not async: with "
                "deferrable=True the triggerer waits for the run, and the function has only to return its inputs."
            )
        if kwargs.get("multiple_outputs") and kwargs.get("wait_for_termination") is False:
            raise DifyInvalidInputError(
                "multiple_outputs needs outputs, and with wait_for_termination=False the task returns the run's id: "
                "leave out one of the two."
            )
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs)

    @reports_errors
    def execute(self, context: Context) -> Any:
        """Call the function, and run the workflow with what it returns.

        :raises DifyInvalidInputError: It returns no inputs, or files that the decorator was given as well.
        """
        context_merge(context, self.op_kwargs)
        arguments = arguments_of(self.python_callable, self.op_args, context)
        returned = self.python_callable(*self.op_args, **arguments)
        inputs, files = inputs_and_files(returned, self.python_callable.__name__)
        if files is not None:
            if self.files is not None:
                raise DifyInvalidInputError(
                    f"files are given to {_NAME} and returned by the function {self.python_callable.__name__!r}: "
                    "give them in one of the two places."
                )
            self.files = files
        self.inputs = inputs
        return super().execute(context)

    def defer(self, *, trigger: Any, **arguments: Any) -> NoReturn:
        """Defer, and keep what the function has returned, since the task may still have to submit.

        A resumed task is another process, and the function may return something else there, or cost something.
        """
        trigger.resume = {**(trigger.resume or {}), _RETURNED: without_path_objects([self.inputs, self.files])}
        if "kept" in (kwargs := arguments.get("kwargs") or {}):
            # Airflow itself resumes a task whose required action was answered, without the trigger's event.
            kwargs["kept"] = trigger.resume
        super().defer(trigger=trigger, **arguments)

    @staticmethod
    def xcom_push(context: Context, key: str, value: Any) -> None:
        """Push one of several outputs. Airflow 3.0's decorated operators ask for this method and lack it."""
        context["ti"].xcom_push(key=key, value=value)

    def _restore(self, event: Any, returned: Sequence[Any] | None = None) -> None:
        """Take what the function returned before the task was deferred, by this version or an older one."""
        # Parsing a DAG file needs nothing of what resuming needs.
        from airflow_provider_dify.runtime.report import carried

        kept = carried(event).get(_RETURNED) if returned is None else returned
        if kept is not None:
            self.inputs, self.files = kept

    def submit_again(
        self,
        context: Context,
        event: Any,
        submission: dict[str, Any] | None = None,
        returned: Sequence[Any] | None = None,
    ) -> Any:
        """Submit a run that found no room before, with what the function returned then."""
        self._restore(event, returned)
        return super().submit_again(context, event, submission)

    def execute_found(
        self,
        context: Context,
        event: Any,
        submission: dict[str, Any] | None = None,
        earlier: bool | None = None,
        returned: Sequence[Any] | None = None,
    ) -> Any:
        """Go on with a run that was looked for, or submit with what the function returned before."""
        self._restore(event, returned)
        return super().execute_found(context, event, submission, earlier)

    def execute_complete(self, context: Context, event: Any, *args: Any, **kwargs: Any) -> Any:
        """Go on when the wait in the triggerer has ended, or submit again after a shutdown of the server."""
        self._restore(event)
        return super().execute_complete(context, event, *args, **kwargs)

    def execute_answered(self, context: Context, event: Any, kept: dict[str, Any] | None = None) -> Any:
        """Go on when a question was answered, or submit again after a shutdown of the server."""
        self._restore(event, (kept or {}).get(_RETURNED))
        return super().execute_answered(context, event, kept)


class DifyWorkflowTask(Protocol[P]):
    """A decorated function, for type checkers: called, it makes a task and gives the place of its result."""

    function: Callable[P, Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> XComArg:
        """Make a task that calls the function with these arguments, or with the results of other tasks."""

    def partial(self, **kwargs: Any) -> DifyWorkflowTask[P]:
        """Return the decorated function with some of its arguments fixed, to be expanded."""

    def expand(self, **kwargs: Any) -> XComArg:
        """Make a mapped task: one run of the workflow for each element, or combination of elements."""

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> XComArg:
        """Make a mapped task out of a list of keyword arguments."""

    def override(self, **kwargs: Any) -> DifyWorkflowTask[P]:
        """Return the decorated function with other parameters of the task."""


class DifyWorkflowDecorator(Protocol[OperatorP]):
    """``dify_workflow_task``, for type checkers: it takes a function, or the operator's parameters."""

    # The two overlap only for a function that is one of the operator's positional arguments, of which there are none.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, python_callable: Callable[P, Returned], /
    ) -> DifyWorkflowTask[P]: ...

    @overload
    def __call__(
        self, *args: OperatorP.args, **kwargs: OperatorP.kwargs
    ) -> Callable[[Callable[P, Returned]], DifyWorkflowTask[P]]: ...


def _with_parameters_of(
    operator: Callable[OperatorP, DifyRunWorkflowOperator],
) -> Callable[[Callable[..., Any]], DifyWorkflowDecorator[OperatorP]]:
    """Give a decorator the operator's parameters for type checkers, without writing them down again."""
    return lambda decorator: cast("DifyWorkflowDecorator[OperatorP]", decorator)


@_with_parameters_of(DifyRunWorkflowOperator)
def dify_workflow_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool | None = None, **kwargs: Any
) -> Any:
    """Run a Dify workflow with the inputs that a function returns; the task returns the outputs.

    In a DAG it is ``@task.dify_workflow``. This function is the same, and lets editors and type checkers know its
    parameters, which are those of ``DifyRunWorkflowOperator`` but ``inputs``.

    The function is called once in each try, on the worker, and may take values of the context such as ``ds`` and
    ``ti``. It is not called again when the task comes back from the triggerer. In a retry that reattaches to the run
    of the try before it is called, and what it returns is not sent.

    What the function returns is data and is not rendered: a ``{{`` in a text stays as it is. The other templated
    parameters are rendered as the operator's are, and so are the function's arguments.

    :param python_callable: The function. It returns the inputs as a mapping, inputs and a list of files as a tuple of
        the two, or None for no inputs.
    :param multiple_outputs: Whether each of the workflow's outputs is also pushed to an XCom of its own, so that
        ``outputs["summary"]`` names one of them. It is never guessed from the function's annotation, which describes
        the inputs. An output that is named ``workflow_run_id``, ``task_id`` or ``dify_run_url`` takes the place of what
        the operator pushes there.
    :param kwargs: The operator's parameters, and those of every Airflow task. ``files`` are those of a function that
        returns none.
    :raises DifyInvalidInputError: ``inputs`` is given, the function is async, or ``multiple_outputs`` has no outputs.
    """
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=bool(multiple_outputs),
        decorated_operator_class=_DifyWorkflowDecoratedOperator,
        **kwargs,
    )
