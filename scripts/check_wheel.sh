#!/usr/bin/env bash
# Builds the wheel, installs it beside Airflow in an empty environment, and shows that Airflow discovers it.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv build --quiet --wheel --out-dir "$work/dist"
uv venv --quiet --python "$(command -v python)" "$work/venv"
uv pip install --quiet --python "$work/venv/bin/python" --constraint "constraints/airflow-$version.txt" \
    "apache-airflow==$version" "$work"/dist/*.whl

export AIRFLOW_HOME="$work/home" AIRFLOW__CORE__LOAD_EXAMPLES=False
cd "$work"
airflow() { "$work/venv/bin/airflow" "$@" 2>"$work/stderr" | tee "$work/stdout" > /dev/null; }
expect() {
    if ! grep -q "$1" "$work/stdout"; then
        echo "airflow providers $2 does not show $1:" >&2
        cat "$work/stdout" "$work/stderr" >&2
        exit 1
    fi
    if grep -i "warning" "$work/stdout" "$work/stderr" | grep -qi "dify"; then
        echo "airflow providers $2 warns:" >&2
        grep -i "warning" "$work/stdout" "$work/stderr" >&2
        exit 1
    fi
}

airflow providers list -o plain
expect "airflow-provider-dify" list
airflow providers hooks -o plain
expect "airflow_provider_dify.hooks.dify.DifyHook" hooks
airflow providers links -o plain
expect "airflow_provider_dify.links.dify.DifyRunLink" links
"$work/venv/bin/python" -c "import importlib.resources as r; assert (r.files('airflow_provider_dify') / 'py.typed').is_file()"
echo "The wheel shows up in airflow providers list, hooks and links of Airflow $version."
