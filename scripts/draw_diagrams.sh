#!/usr/bin/env bash
# Draws docs/images/NAME.svg of each docs/diagrams/NAME.mmd with Mermaid, in headless Chromium (CHROMIUM=/path).
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/browser.json" <<EOF
{"executablePath": "${CHROMIUM:-$(command -v chromium || command -v google-chrome)}", "args": ["--no-sandbox"]}
EOF
cat > "$work/style.json" <<EOF
{"theme": "neutral", "deterministicIds": true, "fontFamily": "sans-serif", "sequence": {"mirrorActors": false}}
EOF
PUPPETEER_SKIP_DOWNLOAD=1 npm install --silent --no-audit --no-fund --prefix "$work" @mermaid-js/mermaid-cli@11.17.0 > /dev/null
for source in docs/diagrams/*.mmd; do
    picture="docs/images/$(basename "$source" .mmd).svg"
    "$work/node_modules/.bin/mmdc" --quiet -p "$work/browser.json" -c "$work/style.json" -b white -i "$source" -o "$work/picture.svg"
    # Tests hold the picture against its source by this line.
    { cat "$work/picture.svg"; echo; echo "<!-- drawn of $source, sha256 $(sha256sum "$source" | cut -d' ' -f1) -->"; } > "$picture"
    echo "$picture"
done
