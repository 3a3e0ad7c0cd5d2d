"""What Airflow discovers of the provider."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest

from airflow_provider_dify import __version__
from airflow_provider_dify.connection_fields import EXTRA_FIELDS, EXTRA_NAMES
from airflow_provider_dify.get_provider_info import get_provider_info
from airflow_provider_dify.hooks.dify import DifyHook

INFO = get_provider_info()
(CONNECTION,) = INFO["connection-types"]
AIRFLOW_2 = airflow.__version__.startswith("2.")
STANDARD_FIELDS = {"description", "host", "port", "login", "password", "schema", "extra"}
# In a process of its own: the manager is one for each process and says what it dislikes only once.
DISCOVERY = """
import json, logging, warnings
lines = []
class Keep(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
keep = Keep(logging.WARNING)
for name in ("airflow", "airflow.providers_manager", "airflow.sdk.providers_manager_runtime"):
    logging.getLogger(name).addHandler(keep)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from airflow.providers_manager import ProvidersManager
    manager = ProvidersManager()
    hook = manager.hooks["dify"]
    widgets = {name: widget for name, widget in manager.connection_form_widgets.items() if "__dify__" in name}
    found = {
        "provider": manager.providers["airflow-provider-dify"].version,
        "hook": [hook.hook_class_name, hook.connection_type, hook.hook_name, hook.connection_testable],
        "links": manager.extra_links_class_names,
        "widgets": {name: widget.is_sensitive for name, widget in widgets.items()},
        "behaviour": manager.field_behaviours.get("dify"),
    }
found["lines"] = lines + [str(each.message) for each in caught]
print()
print(json.dumps(found))
"""

# Airflow 3.0 and 3.1 discover the form only where the packages of the classic one are installed, and say so of every
# provider. Their user interface does without, by stand-ins for those packages.
FORM_IS_DISCOVERED = (
    not airflow.__version__.startswith(("3.0.", "3.1.")) or importlib.util.find_spec("flask_appbuilder") is not None
)
OF_EVERY_PROVIDER = "because the 'flask_appbuilder' package is not installed, however it is not required"

STAND_INS = """
import json, sys
from unittest import mock
from {module} import HookMetaService as Service
for name in ("wtforms", "wtforms.validators", "flask_appbuilder", "flask_appbuilder.fieldwidgets"):
    sys.modules[name] = mock.MagicMock()
wtforms, validators = sys.modules["wtforms"], sys.modules["wtforms.validators"]
for kind in ("String", "Integer", "Password"):
    setattr(wtforms, kind + "Field", getattr(Service, "Mock" + kind + "Field"))
validators.Optional, validators.any_of = Service.MockOptional, Service.MockEnum
from airflow_provider_dify.hooks.dify import DifyHook
print()
print(json.dumps({{name: field.param.dump() for name, field in DifyHook.get_connection_form_widgets().items()}}))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Let Airflow discover the provider by its entry point."""
    done = subprocess.run([sys.executable, "-c", DISCOVERY], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    *others, last = done.stdout.splitlines()
    answer: dict[str, Any] = json.loads(last)
    answer["lines"] += [*others, *done.stderr.splitlines()]
    return answer


def test_versions_agree() -> None:
    assert distribution("airflow-provider-dify").version == __version__
    assert INFO["versions"] == [__version__]


def test_the_entry_point() -> None:
    points = distribution("airflow-provider-dify").entry_points.select(group="apache_airflow_provider")
    assert [point.load() for point in points] == [get_provider_info]


def airflow_schema(name: str) -> Any:
    return json.loads((Path(airflow.__file__).parent / name).read_text(encoding="utf-8"))


def test_the_schema_of_airflow_accepts_it() -> None:
    jsonschema.validate(INFO, airflow_schema("provider_info.schema.json"))


def test_the_schema_of_the_connection_form_accepts_it() -> None:
    schema = airflow_schema("provider.yaml.schema.json")["properties"]["connection-types"]
    if "conn-fields" not in schema["items"]["properties"]:
        pytest.skip("Airflow reads the form from provider info since 3.2")
    jsonschema.validate(INFO["connection-types"], schema)


def test_the_schema_of_the_classic_form_accepts_it() -> None:
    jsonschema.validate(
        DifyHook.get_ui_field_behaviour(), airflow_schema("customized_form_field_behaviours.schema.json")
    )


def test_airflow_discovers_hook_and_link(found: dict[str, Any]) -> None:
    assert found["provider"] == __version__
    assert found["hook"] == ["airflow_provider_dify.hooks.dify.DifyHook", "dify", "Dify", True]
    assert "airflow_provider_dify.links.dify.DifyRunLink" in found["links"]


def test_airflow_discovers_the_form(found: dict[str, Any]) -> None:
    if not FORM_IS_DISCOVERED:
        assert (found["widgets"], found["behaviour"]) == ({}, None)
        return
    secret = {f"extra__dify__{extra.name}": extra.schema.get("format") == "password" for extra in EXTRA_FIELDS}
    assert found["widgets"] == secret
    behaviour = found["behaviour"]
    # Airflow 3.3's Test button needs a port, Airflow 2's the editor of the extra.
    assert set(behaviour["hidden_fields"]) == {"schema", "login", "port" if AIRFLOW_2 else "extra"}
    assert behaviour["relabeling"] == {"host": "Base URL", "password": "API key"}
    assert set(behaviour["placeholders"]) == {"host", "password", "port", *secret}


def test_airflow_has_nothing_to_say_about_it(found: dict[str, Any]) -> None:
    lines = [text for text in found["lines"] if "dify" in text.lower()]
    assert [text for text in lines if FORM_IS_DISCOVERED or OF_EVERY_PROVIDER not in text] == []


def test_the_retry_policy_is_named_as_the_newest_schema_has_it() -> None:
    schema = airflow_schema("provider.yaml.schema.json")["properties"].get("retry-policies")
    if schema is None:
        pytest.skip("Airflow's schema has retry policies since 3.4")
    jsonschema.validate(INFO["retry-policies"], schema)


def test_everything_that_is_named_exists() -> None:
    for kind in ("hooks", "operators", "sensors", "triggers"):
        for entry in INFO[kind]:
            for module in entry["python-modules"]:
                importlib.import_module(module)
    for entry in INFO["retry-policies"]:
        for module in entry["python-modules"]:
            assert importlib.util.find_spec(module) is not None
    for path in (*INFO["extra-links"], CONNECTION["hook-class-name"]):
        module, _, name = path.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type)
    for entry in INFO["task-decorators"]:
        module, _, name = entry["class-name"].rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
    assert (DifyHook.conn_type, DifyHook.hook_name) == (CONNECTION["connection-type"], CONNECTION["hook-name"])


def test_the_form_has_every_extra() -> None:
    shown = {name: (field["label"], field["description"]) for name, field in CONNECTION["conn-fields"].items()}
    assert list(shown) == list(EXTRA_NAMES)
    assert shown == {extra.name: (extra.label, extra.help) for extra in EXTRA_FIELDS}
    for extra in EXTRA_FIELDS:
        schema = CONNECTION["conn-fields"][extra.name]["schema"]
        jsonschema.Draft7Validator.check_schema(schema)
        # A choice has a default, every other field may be left empty.
        jsonschema.validate(schema["default"] if "enum" in schema else None, schema)
        if "enum" in schema:
            assert schema["type"] == "string"


def test_the_classic_form_has_every_extra() -> None:
    pytest.importorskip("wtforms", reason="the classic form's packages are not installed")
    pytest.importorskip("flask_appbuilder", reason="the classic form's packages are not installed")
    widgets = DifyHook.get_connection_form_widgets()
    assert list(widgets) == list(EXTRA_NAMES)
    for extra in EXTRA_FIELDS:
        assert widgets[extra.name].args[0] == extra.label
        assert widgets[extra.name].kwargs["description"].startswith(extra.help)
    kinds = {name: widget.field_class.__name__ for name, widget in widgets.items()}
    numbers, secret = {"connect_timeout", "read_timeout", "max_connections"}, {"proxy"}
    assert {name for name, kind in kinds.items() if kind == "IntegerField"} == numbers
    assert {name for name, kind in kinds.items() if kind == "PasswordField"} == secret
    assert {kind for name, kind in kinds.items() if name not in numbers | secret} == {"StringField"}


def test_the_classic_form_takes_choices_numbers_and_nothing() -> None:
    wtforms = pytest.importorskip("wtforms", reason="the classic form's packages are not installed")
    pytest.importorskip("flask_appbuilder", reason="the classic form's packages are not installed")
    form_class = type("ConnectionForm", (wtforms.Form,), DifyHook.get_connection_form_widgets())

    def errors(**fields: str) -> set[str]:
        form = form_class(_FormData(fields))
        return set() if form.validate() else set(form.errors)

    assert form_class().data["api_contract"] == "service-api"
    assert errors(**dict.fromkeys(EXTRA_NAMES, "")) == set()
    assert errors(api_contract="workflow-runs", connect_timeout="60", verify="false", max_connections="8") == set()
    assert errors(api_contract="v1", connect_timeout="soon") == {"api_contract", "connect_timeout"}


class _FormData(dict[str, str]):
    """A posted form as wtforms reads it."""

    def getlist(self, name: str) -> list[str]:
        return [self[name]] if name in self else []


@pytest.mark.processes
def test_the_form_of_airflow_3_without_the_classic_forms_packages() -> None:
    """Airflow 3.0 and 3.1 read the classic methods with stand-ins for the packages that they do not have."""
    connections = pytest.importorskip("airflow.api_fastapi.core_api.services.ui.connections", reason="Airflow 3 only")
    if importlib.util.find_spec("wtforms"):
        pytest.skip("the packages are installed")
    done = subprocess.run(
        [sys.executable, "-c", STAND_INS.format(module=connections.__name__)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    fields = json.loads(done.stdout.splitlines()[-1])
    assert list(fields) == list(EXTRA_NAMES)
    assert fields["api_contract"]["schema"]["enum"] == ["service-api", "workflow-runs"]
    assert fields["connect_timeout"]["schema"]["type"] == ["integer", "null"]
    assert fields["proxy"]["schema"]["format"] == "password"
    assert {name: field["schema"]["title"] for name, field in fields.items()} == {
        extra.name: extra.label for extra in EXTRA_FIELDS
    }


def test_both_forms_behave_alike() -> None:
    behaviour = CONNECTION["ui-field-behaviour"]
    classic = DifyHook.get_ui_field_behaviour()
    assert classic["hidden_fields"] == ["schema", "login", "port"]
    renamed = {name.replace("-", "_"): value for name, value in behaviour.items()}
    assert renamed | {"hidden_fields": classic["hidden_fields"]} == classic
    assert set(behaviour["hidden-fields"]) < STANDARD_FIELDS
    assert set(behaviour["relabeling"]) == {"host", "password"}
    assert set(behaviour["placeholders"]) <= STANDARD_FIELDS | set(EXTRA_NAMES)


LISTED = {
    "hooks": "airflow_provider_dify.hooks.dify.DifyHook",
    "links": "airflow_provider_dify.links.dify.DifyRunLink",
    "widgets": "extra__dify__console_url",
    "behaviours": "dify",
}


@pytest.mark.processes
@pytest.mark.parametrize("kind", LISTED)
def test_the_command_line_lists_it_without_a_warning(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "providers", kind, "--output", "plain"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Where the form is not discovered, the list of forms is one of other providers, or empty.
    assert (LISTED[kind] in done.stdout) == (FORM_IS_DISCOVERED or kind not in ("widgets", "behaviours"))
    lines = [line for line in [*done.stdout.splitlines(), *done.stderr.splitlines()] if "dify" in line.lower()]
    loud = [line for line in lines if any(word in line.lower() for word in ("warn", "error", "exception"))]
    # Airflow 2.11 warns of itself, with a path that may well contain the name of the project's folder.
    assert [line for line in loud if "site-packages/airflow/" not in line] == []
