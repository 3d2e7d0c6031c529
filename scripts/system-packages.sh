#!/bin/sh
# Installs what is missing, of programs given as PROGRAM=PACKAGE (Debian's), where that is allowed; a library
# is one too, by the name of its file (libx.so.1). Where it is not allowed, or fails, it says what is missing and
# goes on: the tests skip what needs it, and fail where CI is set.
set -u

is_there() { # PROGRAM
    case $1 in
        *.so.*) for file in /usr/lib*/"$1" /usr/lib/*/"$1"; do [ ! -e "$file" ] || return 0; done && return 1 ;;
        *) command -v "$1" >/dev/null ;;
    esac
}
missing() { # of "$@", those whose program is not there
    for pair; do is_there "${pair%=*}" || echo "$pair"; done
}
apt() {
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -o DPkg::Lock::Timeout=300 \
        -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@" </dev/null 2>&1
}

wanted=$(missing "$@")
[ -n "$wanted" ] || exit 0
programs=$(echo "$wanted" | sed 's,=.*,,; s,.*/,,' | xargs)
if [ "$(id -u)" != 0 ]; then
    why="only root may install them"
elif ! command -v apt-get >/dev/null; then
    why="there is no apt-get to install them with"
else
    echo "Installing what is missing: $programs ..."
    install() { apt install -y --no-install-recommends "$@"; }
    # shellcheck disable=SC2046 # one word for each package
    said=$(apt update || :; install $(echo "$wanted" | sed 's,.*=,,')) ||
        # The others, if one of them is not to be had.
        said=$(for pair in $wanted; do install "${pair#*=}"; done)
    wanted=$(missing "$@")
    [ -n "$wanted" ] || exit 0
    programs=$(echo "$wanted" | sed 's,=.*,,; s,.*/,,' | xargs)
    why="apt-get could not install them: $(echo "$said" | grep '^E:' | head -n 1)"
fi
echo "WARNING: missing: $programs ($why). What needs them is SKIPPED, and fails where CI is set." >&2
