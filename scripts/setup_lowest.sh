#!/usr/bin/env bash
# Sets up an Airflow beside exactly the oldest releases that pyproject.toml allows this package:
# setup_lowest.sh VERSION FOLDER. Needs uv and python in PATH.
#
# It fails where this Airflow allows none of them: the bound is then to be raised. Everything else is what constraints/
# says, but for Airflow's other providers, which ask for newer releases, and for what comes with aiohttp and requests.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1 folder=$2

constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT

bounds=$(sed -n '/^dependencies = \[/,/^\]/s/^ *"\([^"]*>=[^"]*\)".*/\1/p' pyproject.toml | grep -v '^apache-airflow>=')
own=$(sed 's/>=.*//' <<< "$bounds" | paste -sd '|')
free="apache-airflow-providers-.*|$own|aiohappyeyeballs|aiosignal|charset-normalizer|frozenlist|idna|multidict|propcache|yarl"
{
    grep -vE "^($free)==" "constraints/airflow-$version.txt"
    sed 's/>=/==/' <<< "$bounds"
} > "$constraints"

uv venv --quiet --clear --python "$(command -v python)" "$folder"
uv pip install --quiet --python "$folder/bin/python" --constraint "$constraints" \
    "apache-airflow==$version" --editable ".[testing]" hypothesis pytest-asyncio pytest-mock pytest-timeout pytest-xdist
uv pip freeze --quiet --python "$folder/bin/python" | grep -E "^(apache-airflow|$own)==" | paste -sd ' '
