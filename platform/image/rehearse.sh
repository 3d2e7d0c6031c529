#!/usr/bin/env bash
# Build the image and run it, on a machine that has no Docker and can pull no base.
#
#   platform/image/rehearse.sh [FOLDER]    as root; needs podman, buildah, runc, catatonit (the init),
#                                          debootstrap, curl, and the development environment (.venv)
#
# The base is made with debootstrap; the Dockerfile is the one that is deployed. The container runs as
# config/deploy.yml has it, against the stand-in Tuist server, with nginx in front in another: it has
# to store, to serve, to be healthy, to be replaced without a lost request, to give way to the one before
# it, and to stop in order. Then platform/compose.yml is brought up, by podman-compose. Prints what it measured; exits with 1 at the
# first thing that is not as it should be. FOLDER keeps the base for the next run, which is quicker then.
set -euo pipefail
cd "$(dirname "$0")/../.."

PATH=$PWD/.venv/bin:$PATH
readonly SUITE=trixie TOKEN=rehearsal-token PORT=8080
readonly QUERY='account_handle=acme&project_handle=app'
readonly BYTES='the bytes of an artifact'
readonly BASE=localhost/rehearsal-base IMAGE=localhost/cache-actors NGINX=localhost/rehearsal-nginx
# More than this machine allows cannot be asked for.
readonly LIMITS=(--ulimit nofile=16384:16384 --ulimit nproc=16384:16384)
readonly CONFINED=(--network host "${LIMITS[@]}" --read-only --read-only-tmpfs=false --cap-drop ALL
    --security-opt no-new-privileges)

kept=${1:-}
work=$(mktemp -d /tmp/cache-actors-image.XXXXXX)
mkdir -p "${kept:=$work}"
tuist=

# Everything of podman's lies in the working folder, so that it touches nothing else of the machine's.
cat >"$work/podman" <<SCRIPT
#!/bin/sh
exec $(command -v podman) --root $work/storage --runroot $work/runroot --storage-driver overlay \\
    --cgroup-manager cgroupfs --runtime runc --events-backend file --log-level fatal "\$@"
SCRIPT
chmod +x "$work/podman"
podman() { "$work/podman" "$@"; }

cleanup() {
    podman rm --all --force --time 2 >/dev/null 2>&1 || true
    podman volume rm --all --force >/dev/null 2>&1 || true
    podman rmi --all --force >/dev/null 2>&1 || true
    [ -z "$tuist" ] || kill "$tuist" 2>/dev/null || true
    umount "$work/storage/overlay" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

say() { printf '%-44s %s\n' "$1" "$2"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
expect() { # WHAT EXPECTED ACTUAL
    [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
    say "$1" "$3"
}
await() { # WHAT SECONDS COMMAND...
    local what=$1 end=$((SECONDS + $2)) began
    began=$(date +%s.%N)
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "$what: not in time"
        sleep 0.05
    done
    say "$what after" "$(seconds_since "$began")"
}
seconds_since() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f s", b - a }'; }
megabytes() { awk -v bytes="$1" 'BEGIN { printf "%.1f MB", bytes / 1e6 }'; }
size() { podman image inspect --format '{{.Size}}' "$1"; }
build() { # IMAGE DOCKERFILE CONTEXT
    # The machine's certificates, should its package index need them.
    podman build --format docker --network host "${LIMITS[@]}" \
        --volume /etc/ssl/certs:/etc/ssl/certs:ro --build-arg BASE=$BASE \
        --tag "$1" --file "$2" "$3" >"$work/build.log" 2>&1 ||
        { tail -n 30 "$work/build.log" >&2; fail "building $1"; }
}

# --- The image, on its base ------------------------------------------------------------------------

if [ ! -e "$kept/base.tar" ]; then
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$SUITE" \
        "$work/base" >"$work/debootstrap.log" ||
        { tail "$work/debootstrap.log" >&2; fail "debootstrap"; }
    rm -rf "$work/base/var/cache/apt/archives/"*.deb "$work/base/var/lib/apt/lists/"* \
        "$work/base/usr/share/"{doc,man,locale}/*
    tar --numeric-owner -C "$work/base" -cf "$work/base.tar" .
    rm -rf "$work/base"
    [ "$kept" = "$work" ] || mv "$work/base.tar" "$kept/base.tar"
fi
podman import --quiet "$kept/base.tar" $BASE >/dev/null 2>&1
began=$(date +%s.%N)
build $IMAGE platform/Dockerfile .
say "built in" "$(seconds_since "$began")"
say "the base" "$(megabytes "$(size $BASE)")"
over=$(($(size $IMAGE) - $(size $BASE)))
say "the image over its base" "$(megabytes $over)"
[ $over -lt 150000000 ] || fail "that is not under 150 MB"

inside() { podman run --rm --interactive --no-healthcheck "${CONFINED[@]}" $IMAGE "$@"; }
expect "it runs as" "uid=10001(cache-actors) gid=10001(cache-actors) groups=10001(cache-actors)" \
    "$(inside id)"
expect "it says" "cache-actors, version $(python -c \
    'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')" \
    "$(inside cache-actors --version)"
for tool in pip pip3 cc gcc make uv mypy ruff pytest nginx git; do
    ! inside sh -c "command -v $tool" >/dev/null || fail "$tool is in the image"
done
say "its Python" "$(inside python3 --version)"
inside python3 - >"$work/packages" <<'PYTHON'
from importlib.metadata import distributions

print(*sorted({d.metadata["Name"].lower().replace("_", "-") for d in distributions()}), sep="\n")
PYTHON
sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' requirements-runtime.lock | sort >"$work/locked"
expect "packages that the lock does not name" cache-actors \
    "$(sort "$work/packages" | comm -23 - "$work/locked" | xargs)"
expect "snippets in the package" "grpc.conf http.conf metrics.conf server.conf" "$(inside sh -c \
    'cd /opt/cache-actors/lib/python3*/site-packages/cache_actors/nginx/snippets && find . -type f' |
    sed 's|./||' | sort | xargs)"
say "packages" "$(wc -l <"$work/packages")"

# --- The service, as config/deploy.yml runs it -----------------------------------------------------

python - $TOKEN >"$work/tuist" <<'PYTHON' &
import signal
import sys

from cache_actors.cli.dev.tuist import StandInTuist

with StandInTuist({sys.argv[1]: ["acme/app"]}) as tuist:
    print(tuist.url, flush=True)
    signal.sigwait({signal.SIGTERM})
PYTHON
tuist=$!
await "the stand-in Tuist server" 10 test -s "$work/tuist"

mkdir "$work/cas" "$work/sockets"
chown 10001:10001 "$work/cas" "$work/sockets"
chmod 2750 "$work/cas" "$work/sockets"
serve() { # NAME
    podman run --detach --name "$1" "${CONFINED[@]}" --init --stop-timeout 60 --health-interval disable \
        --volume "$work/cas:/cas" --volume "$work/sockets:/run/cache-actors" \
        --env SERVER_URL="$(cat "$work/tuist")" --env CAS_STORAGE_DIR=/cas \
        --env SOCKET_DIR=/run/cache-actors --env NGINX_LOG=/run/cache-actors/answers.log \
        $IMAGE >/dev/null
}
current() { readlink "$work/sockets/current.sock"; }
ask() { curl --silent --max-time 20 --header "Authorization: Bearer ${token:-$TOKEN}" "$@"; }
ask_service() { ask --unix-socket "$work/sockets/current.sock" "$@"; }
status() { "$@" --output /dev/null --write-out '%{http_code}'; }
path() { echo "http://localhost/api/cache/cas/$1?$QUERY"; }
readonly ID=A591A6D40BF420404A011733CFB7B190D62C65BF0BCDA32B57B277D9AD9F146E

serve first
await "up" 30 ask_service --fail http://localhost/up
# Kamal waits for this; podman without systemd asks only when it is told to.
began=$(date +%s.%N)
podman healthcheck run first || fail "it is not healthy"
expect "its health, after $(seconds_since "$began")" healthy \
    "$(podman inspect --format '{{.State.Health.Status}}' first 2>/dev/null ||
        podman inspect --format '{{.State.Healthcheck.Status}}' first)"
expect "an upload" 204 "$(status ask_service --data-binary "$BYTES" "$(path $ID)")"
expect "its download" "$BYTES" "$(ask_service "$(path $ID)")"
expect "as nobody" 401 "$(token=other status ask_service "$(path $ID)")"
stored=$work/cas/acme/app/cas/91/$ID
expect "the file" "640 10001:10001" "$(stat --format '%a %u:%g' "$stored")"
expect "its folder" "2750 10001:10001" "$(stat --format '%a %u:%g' "$(dirname "$stored")")"
for folder in / /tmp /opt/cache-actors /etc /run; do
    ! podman exec first touch "$folder/x" 2>/dev/null || fail "$folder can be written to"
done
podman exec --interactive first cache-actors check --nginx-config - \
    < <(cat platform/nginx/*.conf) >"$work/check" || { cat "$work/check" >&2; fail "the check"; }
expect "what its check finds to be" "ok warning" "$(awk '{ print $1 }' "$work/check" | sort -u | xargs)"
init=$(podman inspect --format '{{.State.Pid}}' first)
service=$(xargs <"/proc/$init/task/$init/children")
say "memory" "$(megabytes "$(($(awk '/^VmRSS/ { print $2 }' "/proc/$service/status") * 1024))")"

# --- nginx in front, in a container, as platform/compose.yml has it -----------------------------------

mkdir "$work/nginx"
cat >"$work/nginx/Dockerfile" <<'DOCKERFILE'
ARG BASE
FROM ${BASE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends nginx-light
DOCKERFILE
build $NGINX "$work/nginx/Dockerfile" "$work/nginx"
# Debian's nginx is too old for gRPC.
sed '/http2/d; /grpc\.conf/d' platform/compose/nginx.conf >"$work/nginx/nginx.conf"
podman run --detach --name nginx "${CONFINED[@]}" --user 10002:10001 --tmpfs /run/nginx \
    --stop-signal SIGQUIT --volume "$work/cas:/cas" --volume "$work/sockets:/run/cache-actors" \
    --volume "$work/nginx/nginx.conf:/etc/cache-actors/nginx.conf:ro" \
    --volume "$PWD/platform/compose/tls:/etc/cache-actors/tls:ro" \
    --volume "$PWD/platform/nginx:/etc/cache-actors/snippets:ro" \
    --entrypoint '["nginx", "-c", "/etc/cache-actors/nginx.conf"]' $NGINX >/dev/null
await "nginx" 20 curl --silent --fail "http://127.0.0.1:$PORT/up"
url() { echo "http://127.0.0.1:$PORT/api/cache/cas/$1?$QUERY"; }
expect "a download through nginx" "$BYTES" "$(ask "$(url $ID)")"
expect "an upload through nginx" 204 "$(status ask --data-binary more "$(url MORE)")"
expect "a needless upload" 204 "$(status ask --data-binary more "$(url MORE)")"

# --- A rollout, and a stop --------------------------------------------------------------------------

before=$(current)
touch "$work/rolling"
for ((number = 0; ; number++)); do # new artifacts, one after the other, all the time
    [ -e "$work/rolling" ] || break
    status ask --data-binary "$BYTES" "$(url "R$number")" || true
    echo
done >"$work/statuses" &
uploads=$!
serve second
replaced() { [ "$(current)" != "$before" ]; }
await "a second one takes over" 30 replaced
expect "the old one is still there" true "$(podman inspect --format '{{.State.Running}}' first)"
began=$(date +%s.%N)
podman stop first >/dev/null 2>&1
expect "the first one's exit status, in $(seconds_since "$began")" 0 \
    "$(podman inspect --format '{{.State.ExitCode}}' first)"
second=$(current)
serve third
replaced_again() { [ "$(current)" != "$second" ]; }
await "a third one takes over" 30 replaced_again
podman stop third >/dev/null 2>&1
expect "current.sock, when that is stopped, leads to" "$second" "$(current)"
rm "$work/rolling" && wait $uploads
expect "$(wc -l <"$work/statuses") uploads meanwhile" 204 "$(sort -u "$work/statuses" | xargs)"
podman stop second >/dev/null 2>&1
expect "the second one's exit status" 0 "$(podman inspect --format '{{.State.ExitCode}}' second)"
expect "what is left where the sockets were" current.sock "$(ls "$work/sockets")"
expect "a read while there is no service" "$BYTES" "$(ask "$(url $ID)")"
serve fourth
began=$(date +%s.%N)
podman stop fourth >/dev/null 2>&1 # before it has set up anything that would hear it
awk -v a="$began" -v b="$(date +%s.%N)" 'BEGIN { exit b - a > 10 }' || fail "a stop at the start was lost"
say "a stop at the start, in" "$(seconds_since "$began")"
podman stop nginx >/dev/null 2>&1
expect "nginx's exit status" 0 "$(podman inspect --format '{{.State.ExitCode}}' nginx)"

# --- The two of platform/compose.yml ------------------------------------------------------------------

# What differs here: no bridge networks, limits that this machine allows, and podman's folders.
limits='{nofile: {soft: 16384, hard: 16384}, nproc: {soft: 16384, hard: 16384}}'
cat >"$work/here.yml" <<YAML
services:
  service: {network_mode: host, ulimits: $limits}
  nginx: {network_mode: host, ulimits: $limits}
YAML
compose() {
    NGINX_IMAGE=$NGINX SERVER_URL=$(cat "$work/tuist") podman-compose \
        --podman-path "$work/podman" -f platform/compose.yml -f "$work/here.yml" "$@" \
        >"$work/compose.log" 2>&1 || { tail "$work/compose.log" >&2; fail "podman-compose $1"; }
}
compose up --no-build --detach
await "compose: up" 30 curl --silent --fail "http://127.0.0.1:$PORT/up"
expect "compose: an upload" 204 "$(status ask --data-binary "$BYTES" "$(url $ID)")"
expect "compose: its download" "$BYTES" "$(ask "$(url $ID)")"
podman exec cache-actors_nginx_1 nginx -T -c /etc/cache-actors/nginx.conf 2>/dev/null |
    podman exec --interactive cache-actors_service_1 cache-actors check --nginx-config - \
        >"$work/check" || { cat "$work/check" >&2; fail "compose: the check"; }
expect "compose: its check of nginx" ok "$(awk '$2 == "nginx:" { print $1 }' "$work/check")"
podman healthcheck run cache-actors_service_1 || fail "compose: it is not healthy"
compose down --volumes
echo "All is well."
