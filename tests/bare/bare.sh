#!/usr/bin/env bash
# `make bare`: the two commands where there is nothing else.
#
# Below build/, makes a minimal Debian, clones the commit that is checked out into it, and runs `make run`
# (as round_trip.py does it) and `make test` there: first as a user who may not install anything, then as
# root. Packages come from where this machine gets them: see "What this machine knows of mirrors".
#
# It mounts, and starts, only in namespaces of its own, which end with this script, whatever ends it.
set -euo pipefail

readonly PACKAGES=python3,python3-venv,make,git,ca-certificates
readonly SOMEBODY=1000 # the user who may not install anything

fail() { echo "make bare: $*" >&2; exit 1; }
say() { printf '\n=== %s\n' "$*"; }
usage() {
    echo 'make bare BARE="[--user root|nobody] [--command run|test] [--keep]" [TESTS=...]'
    echo 'Both users and both commands unless one is chosen; --keep leaves the folder to look at.'
}

users='nobody root' commands='run test' keep=''
arguments=("$@")
while [ $# -gt 0 ]; do
    case "$1 ${2:-}" in
        '--user root' | '--user nobody') users=$2 && shift 2 ;;
        '--command run' | '--command test') commands=$2 && shift 2 ;;
        '--keep '*) keep=1 && shift ;;
        '--help '*) usage && exit ;;
        *) usage >&2 && exit 2 ;;
    esac
done
[ "$(id -u)" = 0 ] || fail "only root can do this, as it mounts file systems and makes a tree of root's"
for program in mmdebstrap git unshare pivot_root; do
    command -v $program >/dev/null ||
        fail "$program is missing; on Debian: apt-get install mmdebstrap git util-linux"
done
cd "$(dirname "$0")/../.."

# --- Outside: the folder, and this script once more in namespaces of its own ---------------------------

if [ -z "${BARE_FOLDER:-}" ]; then
    mkdir -p build
    BARE_FOLDER=$(mktemp -d "$PWD/build/bare.XXXXXX") || fail "there is no room for a folder in build/"
    export BARE_FOLDER
    inside=
    if [ -n "$keep" ]; then
        echo "The folder: $BARE_FOLDER"
    else
        trap 'rm -rf --one-file-system "$BARE_FOLDER"' EXIT
    fi
    trap '{ kill -KILL $inside; wait $inside; } 2>/dev/null; exit 130' INT TERM HUP
    set -m # a process group of its own: a Ctrl-C is for this shell, which then ends all of them
    # Whoever started this may have had signals ignored, and tests send some.
    env --default-signal=INT,QUIT,TERM unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
        "$0" "${arguments[@]}" </dev/null &
    inside=$!
    set +m
    wait $inside
    exit
fi

# --- What this machine knows of mirrors: files, in the places where the tree has them ------------------

readonly TREE=$BARE_FOLDER/tree CONFIG=$BARE_FOLDER/config
mkdir -p "$CONFIG/etc/apt/apt.conf.d" "$CONFIG/etc/ssl"
shopt -s nullglob
sources=(/etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources})
for source in "${!sources[@]}"; do [ -s "${sources[source]}" ] || unset "sources[source]"; done
[ ${#sources[@]} -gt 0 ] || fail "/etc/apt names no sources of packages"
take() { # PATH...: copy them to where they are here, with the folders above
    for path; do
        [ -e "$path" ] || continue
        mkdir -p "$CONFIG${path%/*}"
        cp --archive --dereference --no-target-directory "$path" "$CONFIG$path"
    done
}
apt-config dump | grep '^Acquire::' >"$CONFIG/etc/apt/apt.conf.d/00of-the-host" || true
take /etc/apt/trusted.gpg /etc/apt/trusted.gpg.d /etc/apt/keyrings /etc/apt/auth.conf /etc/apt/auth.conf.d \
    /etc/ssl/certs /usr/local/share/ca-certificates /etc/pip.conf /etc/xdg/pip/pip.conf \
    /etc/resolv.conf /etc/hosts
of_user=()
for path in .pip/pip.conf .config/pip/pip.conf; do [ ! -e ~/$path ] || of_user+=("$path"); done
environment=()
while IFS= read -r -d '' variable; do
    case "${variable%%=*}" in
        PIP_* | SSL_CERT_* | *_CA_BUNDLE | *_proxy | *_PROXY) environment+=("$variable") ;;
    esac
done < <(env -0)

# Whatever these name by its path comes along: files as copies, folders to be read where they are.
folders=()
while read -r path; do
    if [ -f "$path" ]; then
        take "$path"
    elif [ -d "$path" ] && [ ! -e "$CONFIG$path" ]; then
        # The pages of a package index lead to files beside it.
        case $path in */simple) path=${path%/simple} ;; esac
        folders+=("$path")
    fi
done < <({
    cat "${sources[@]}" "$CONFIG"/etc/apt/apt.conf.d/* "$CONFIG"/etc/{,xdg/pip/}pip.conf
    for path in "${of_user[@]}"; do cat ~/"$path"; done
    printf '%s\n' "${environment[@]}"
} 2>/dev/null | sed 's/#.*//' | tr -s ' \t=,;"[]'"'" '\n' | sed -n 's,^\(file:\|copy:\)\{0\,1\}//*,/,p' |
    grep -vx / | sort -u)

# --- The tree ------------------------------------------------------------------------------------------

say "A minimal Debian: $PACKAGES"
mmdebstrap --mode=root --variant=minbase --include=$PACKAGES --quiet \
    --setup-hook="cp --archive '$CONFIG/.' \"\$1\"" \
    --customize-hook="cp --archive '$CONFIG/.' \"\$1\"" \
    "" "$TREE" "${sources[@]}" >"$BARE_FOLDER/mmdebstrap.log" 2>&1 ||
    fail "mmdebstrap failed: $(grep -v '^I:' "$BARE_FOLDER/mmdebstrap.log" | tail -n 1)"
chroot "$TREE" useradd --create-home --uid $SOMEBODY somebody
declare -A homes=([root]=/root [nobody]=/home/somebody)
for user in $users; do
    home=$TREE${homes[$user]}
    for path in "${of_user[@]}"; do install -D --mode=644 ~/"$path" "$home/$path"; done
    git clone --quiet --no-local "$PWD" "$home/cache-actors"
    [ "$user" = root ] || chown -R $SOMEBODY:$SOMEBODY "$home"
done
[ -z "$(git status --porcelain)" ] || echo "Not committed, and so not in it: $(git status --porcelain | wc -l) files"

mount --bind "$TREE" "$TREE"
mount -t proc proc "$TREE/proc"
mount -t sysfs -o ro sysfs "$TREE/sys"
mount -t tmpfs -o mode=755 tmpfs "$TREE/dev"
mkdir "$TREE/dev/shm" "$TREE/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$TREE/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$TREE/dev/pts"
for device in null zero full random urandom tty; do
    : >"$TREE/dev/$device"
    mount --bind /dev/$device "$TREE/dev/$device"
done
ln -s pts/ptmx "$TREE/dev/ptmx"
ln -s /proc/self/fd "$TREE/dev/fd"
ln -s fd/0 "$TREE/dev/stdin"
ln -s fd/1 "$TREE/dev/stdout"
ln -s fd/2 "$TREE/dev/stderr"
mount -t tmpfs -o mode=1777 tmpfs "$TREE/tmp"
for path in "${folders[@]}"; do
    mkdir -p "$TREE$path"
    mount --bind -o ro "$path" "$TREE$path"
done
mkdir "$TREE/outside"
cd "$TREE"
pivot_root . outside
cd /
umount --lazy /outside
rmdir /outside

# --- The two commands ----------------------------------------------------------------------------------

as() { # USER COMMAND...: in the user's clone, with an environment that has nothing but mirrors in it
    local user=$1 switch=() path=/usr/local/bin:/usr/bin:/bin
    shift
    # Root can install everything, so that nothing may be skipped; for somebody, much is.
    if [ "$user" = root ]; then
        set -- CI=true "$@"
        path=/usr/local/sbin:/usr/sbin:/sbin:$path
    else
        switch=(setpriv --reuid="$SOMEBODY" --regid="$SOMEBODY" --clear-groups)
    fi
    (
        cd "${homes[$user]}/cache-actors"
        # In a session of its own: there, the kernel ends stopped processes whose parent is gone, which it
        # does not while whoever adopts them, the first process of the namespace, is in the same one.
        exec setsid --wait "${switch[@]}" env -i "${environment[@]}" HOME="${homes[$user]}" PATH="$path" \
            ${HYPOTHESIS_PROFILE:+"HYPOTHESIS_PROFILE=$HYPOTHESIS_PROFILE"} "$@"
    )
}

failed=()
for user in $users; do
    for command in $commands; do
        say "make $command, as $user"
        case $command in
            run) as "$user" python3 tests/bare/round_trip.py ;;
            test) as "$user" make test TESTS="${TESTS:-tests}" ;;
        esac || failed+=("make $command, as $user")
    done
done
say "${failed[*]:+FAILED: }$(IFS=';' && echo "${failed[*]:-All is well.}")"
[ ${#failed[@]} = 0 ]
