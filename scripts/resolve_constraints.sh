#!/usr/bin/env bash
# Resolves what each tested Airflow is installed with, for all Pythons at once.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT

for version in 2.11.2 3.0.6 3.1.8 3.2.2 3.3.2; do
    echo "apache-airflow==$version" > "$wanted"
    if [ "$version" = 3.0.6 ]; then
        # With newer ones its execution API rejects request bodies and tokens.
        printf '%s\n' "fastapi<0.117" "pyjwt<2.11" >> "$wanted"
    fi
    uv pip compile --quiet --upgrade --universal --python-version 3.10 \
        --no-header --no-annotate --no-emit-index-url \
        --extra testing --group dev --group docs pyproject.toml "$wanted" \
        --output-file "constraints/airflow-$version.txt"
    echo "constraints/airflow-$version.txt"
done
