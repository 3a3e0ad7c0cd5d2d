"""What Airflow discovers of the provider."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dify import __version__
from airflow_provider_dify.fields import EXTRA_NAMES
from airflow_provider_dify.get_provider_info import get_provider_info
from airflow_provider_dify.hooks.dify import DifyHook

INFO = get_provider_info()


@pytest.fixture(scope="module")
def manager() -> Any:
    from airflow.providers_manager import ProvidersManager

    return ProvidersManager()


def test_versions_agree() -> None:
    assert version("airflow-provider-dify") == __version__
    assert INFO["versions"] == [__version__]


def test_the_schema_of_airflow_accepts_it() -> None:
    import airflow
    import jsonschema

    found = list(Path(airflow.__file__).parent.glob("provider_info.schema.json"))
    assert found
    jsonschema.validate(INFO, json.loads(found[0].read_text(encoding="utf-8")))


def test_airflow_discovers_hook_and_link(manager: Any) -> None:
    hook = manager.hooks["dify"]
    assert hook.hook_class_name == "airflow_provider_dify.hooks.dify.DifyHook"
    assert (hook.connection_type, hook.hook_name, hook.connection_testable) == ("dify", "Dify", True)
    assert "airflow_provider_dify.links.dify.DifyRunLink" in manager.extra_links_class_names


def test_everything_that_is_named_exists() -> None:
    for kind in ("hooks", "operators", "sensors", "triggers"):
        for entry in INFO[kind]:
            for module in entry["python-modules"]:
                importlib.import_module(module)
    for path in (*INFO["extra-links"], INFO["connection-types"][0]["hook-class-name"]):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_both_forms_have_the_same_fields() -> None:
    pytest.importorskip("wtforms", reason="Airflow 3 has no classic form")
    pytest.importorskip("flask_appbuilder", reason="Airflow 3 has no classic form")
    assert tuple(DifyHook.get_connection_form_widgets()) == EXTRA_NAMES


def test_the_form_has_every_extra_and_hides_what_dify_does_not_use() -> None:
    (connection,) = INFO["connection-types"]
    assert tuple(connection["conn-fields"]) == EXTRA_NAMES
    behaviour = connection["ui-field-behaviour"]
    assert "login" in behaviour["hidden-fields"]
    assert "password" not in behaviour["hidden-fields"]
    assert behaviour["relabeling"]["password"]
