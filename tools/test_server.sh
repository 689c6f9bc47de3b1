#!/bin/sh
# Run the tests of the server atlas against a real Qdrant: one that QDRANT_URL names, else one that
# docker compose starts for them, with a random key and data that go when they are done.
set -u
python=${PYTHON:-python3}

run() {
    "$python" -m pytest -m "wire or server" -ra tests/atlas tests/wire "$@"
}

if [ -n "${QDRANT_URL:-}" ]; then
    run "$@"
    exit
fi
if ! docker compose version >/dev/null 2>&1; then
    echo "no Docker here: name a running server with QDRANT_URL (and its key with QDRANT_API_KEY)" >&2
    exit 2
fi
project=bleepdb-test-$$
port=${QDRANT_TEST_PORT:-16333}
QDRANT_API_KEY=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
export QDRANT_API_KEY QDRANT_PORT="$port" QDRANT_GRPC_PORT="$((port + 1))"
QDRANT_URL=http://127.0.0.1:$port
export QDRANT_URL
trap 'docker compose -p "$project" down --volumes --timeout 5 >/dev/null 2>&1' EXIT
trap 'exit 130' INT TERM
docker compose -p "$project" up -d --quiet-pull qdrant || {
    echo "docker compose could not start Qdrant" >&2
    exit 2
}
tries=0
until "$python" -c "import sys, urllib.request as u; u.urlopen(sys.argv[1] + '/readyz', timeout=2)" \
    "$QDRANT_URL" 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 60 ]; then
        echo "Qdrant did not become ready at $QDRANT_URL in a minute" >&2
        docker compose -p "$project" logs --tail 20 qdrant >&2
        exit 2
    fi
    sleep 1
done
run "$@"
