#!/usr/bin/env bash
# Resolves what each tested Airflow is installed with, for all Pythons at once.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT

for version in 2.11.2 3.0.6 3.1.8 3.2.2 3.3.2; do
    echo "apache-airflow==$version" > "$wanted"
    case $version in
        # With newer ones its execution API rejects request bodies and tokens, and its object stores no path.
        3.0.6) printf '%s\n' "fastapi<0.117" "pyjwt<2.11" "universal-pathlib<0.3" >> "$wanted" ;;
        # With newer ones its execution API cannot be imported, or has no services within dag.test().
        3.2.2) printf '%s\n' "fastapi<0.137" "svcs<26" >> "$wanted" ;;
    esac
    uv pip compile --quiet --upgrade --universal --python-version 3.10 \
        --no-header --no-annotate --no-emit-index-url \
        --extra testing --group dev --group docs pyproject.toml "$wanted" \
        --output-file "constraints/airflow-$version.txt"
    echo "constraints/airflow-$version.txt"
done
