"""What happens between the decision to submit a run and its submission: inputs are held against the app's form."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_dify.api.inputs import check_inputs
from airflow_provider_dify.exceptions import DifyInvalidInputError

if TYPE_CHECKING:
    from airflow_provider_dify.hooks.dify import DifyHook

log = logging.getLogger(__name__)


def check_against_form(hook: DifyHook, value: Any, *, workflow_id: str | None) -> Mapping[str, Any]:
    """Return the inputs of a run, checked against the app's form where that can be read.

    A form that this process has known for a while may be out of date: before inputs are refused it is asked for again.

    :param hook: The hook of the app's connection.
    :param value: The operator's ``inputs``.
    :param workflow_id: The published version that is to run, where one is named: the form that the server tells is
        that of the current one, so that nothing is checked.
    :raises DifyInvalidInputError: They do not fit; the message names every one that is wrong.
    """
    inputs = check_inputs(value)
    if workflow_id is not None:
        log.info("Inputs are not checked here, since workflow_id names a version whose input form may be another one.")
        return inputs
    known = hook.known_form()
    if known.form is None:
        log.info("Inputs are not checked here, since the app's input form cannot be read: %s", known.reason)
        return inputs
    try:
        known.form.check(inputs)
    except DifyInvalidInputError:
        newer = None if known.is_new else hook.known_form(fresh=True).form
        if newer is None:
            raise
        newer.check(inputs)
    return inputs
