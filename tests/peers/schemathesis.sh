#!/usr/bin/env bash
# Schemathesis against the running server: no 5xx, no answer that the document does not know.
# Takes the program, the address of the document and a folder for its reports; the key is in
# PEERS_API_KEY, so that it shows in no list of processes.
set -euo pipefail
program=$1 document=$2 reports=$3
cd "$reports"
cat > schemathesis.toml <<'TOML'
# The header comes from the environment.
headers = { Authorization = "Bearer ${PEERS_API_KEY}" }
TOML
exec "$program" --config-file schemathesis.toml run "$document" \
  --phases examples,coverage,fuzzing,stateful \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
  --max-examples "${PEERS_MAX_EXAMPLES:-15}" --generation-deterministic \
  --continue-on-failure --request-timeout 120 --warnings off --no-color
