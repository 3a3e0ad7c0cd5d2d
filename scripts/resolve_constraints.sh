#!/usr/bin/env bash
# Resolves what each tested Airflow is installed with, for all Pythons at once.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT

for version in 2.11.2 3.0.6 3.1.8 3.2.2 3.3.2 3.4.0b2; do
    echo "apache-airflow==$version" > "$wanted"
    python=3.10
    case $version in
        # With newer ones its execution API rejects request bodies and tokens, and its object stores no path.
        3.0.6) printf '%s\n' "fastapi<0.117" "pyjwt<2.11" "universal-pathlib<0.3" >> "$wanted" ;;
        # With newer ones its execution API cannot be imported, or has no services within dag.test().
        3.2.2) printf '%s\n' "fastapi<0.137" "svcs<26" >> "$wanted" ;;
        # Pre-releases are only installed where they are named, and of nothing else.
        3.4.0b2)
            printf '%s\n' "apache-airflow-core==$version" "apache-airflow-task-sdk==1.4.0b2" >> "$wanted"
            python=3.11
            ;;
    esac
    uv pip compile --quiet --upgrade --universal --python-version "$python" \
        --no-header --no-annotate --no-emit-index-url \
        --extra testing --group dev --group docs --group celery pyproject.toml "$wanted" \
        --output-file "constraints/airflow-$version.txt"
    echo "constraints/airflow-$version.txt"
done
