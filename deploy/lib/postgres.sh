# Finds or installs what building and running walferry takes: a linker and PostgreSQL server binaries.
# Sourced by the scripts of deploy/ and tests/run; the caller has `set -euo pipefail`. Prints what it does on stderr.
# shellcheck shell=bash

# The oldest major that walferry works with.
oldest_major=14

say() { printf '==> %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" -eq 0 ]; }

# Runs a command as root, by sudo where needed.
as_root() {
    if is_root; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "\"$*\" needs root, and there is no sudo: run it as root, then start this script again"
    fi
}

# apt, dnf or brew: the first that is there.
package_manager() {
    if have apt-get; then
        echo apt
    elif have dnf; then
        echo dnf
    elif have brew; then
        echo brew
    else
        echo none
    fi
}

# install_packages WHAT APT DNF BREW: each of the last three is a list of package names, split at spaces.
install_packages() {
    local manager
    manager=$(package_manager)
    say "installing $1 with $manager"
    # The lists are split on purpose.
    # shellcheck disable=SC2086
    case $manager in
    apt)
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $2 >&2
        ;;
    dnf) as_root dnf install -y -q $3 >&2 ;;
    brew) brew install --quiet $4 >&2 ;;
    *) die "$1 is missing, and none of apt, dnf and brew is here to install it: install it by hand" ;;
    esac
}

# Rust needs a linker, and one of the libraries a C compiler.
ensure_compiler() {
    have cargo || die "cargo is not on the PATH: install Rust first (the README says which version)"
    have cc || install_packages "a C compiler" "gcc libc6-dev" gcc gcc
}

# The directory that holds the newest installed server's binaries, or nothing.
server_bin() {
    local directory
    for directory in $(server_directories | sort -t- -k1,1nr | cut -d- -f2-); do
        echo "$directory"
        return
    done
}

# server_bin_of MAJOR: the directory that holds that major's server binaries, or nothing.
server_bin_of() {
    server_directories | sed -n "s/^$1-//p" | head -n 1
}

# Every directory with a server's binaries of a major that is not too old, as MAJOR-DIRECTORY.
server_directories() {
    local directory major candidates=(/usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/bin)
    have brew && candidates+=("$(brew --prefix)"/opt/postgresql@*/bin)
    have postgres && candidates+=("$(dirname "$(readlink -f "$(command -v postgres)")")")
    for directory in "${candidates[@]}"; do
        if [ -x "$directory/postgres" ] && [ -x "$directory/initdb" ]; then
            major=$("$directory/postgres" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
            [ "${major:-0}" -lt "$oldest_major" ] || echo "$major-$directory"
        fi
    done
}

# Installs the distribution's server unless one is there.
ensure_server() {
    local found
    found=$(server_bin)
    if [ -z "$found" ]; then
        if [ "$(package_manager)" = dnf ]; then
            newer_module
        fi
        without_default_cluster install_packages "a PostgreSQL server" postgresql \
            "postgresql-server postgresql-contrib" postgresql@17
        found=$(server_bin)
    fi
    [ -n "$found" ] || die "no PostgreSQL server of version $oldest_major or newer was found (postgres, initdb), nor did the" \
        "distribution's package bring one: install one from https://www.postgresql.org/download/"
    say "PostgreSQL server binaries: $found"
}

# Enterprise Linux installs an old server unless a module stream is chosen. A server that is there is left alone: another
# stream would upgrade it under its data.
newer_module() {
    local stream
    if rpm -q postgresql-server >/dev/null 2>&1; then
        die "the installed postgresql-server is older than $oldest_major: install a newer one beside it" \
            "(https://www.postgresql.org/download/; /usr/pgsql-*/bin is looked into)"
    fi
    dnf -q module list postgresql >/dev/null 2>&1 || return 0
    for stream in 16 15; do
        if as_root dnf -q -y module enable "postgresql:$stream" >&2; then
            return
        fi
    done
}

# Debian's package makes a cluster and starts it at once. Only the binaries are wanted here.
without_default_cluster() {
    local settings=/etc/postgresql-common/createcluster.d/walferry.conf status=0
    if [ "$(package_manager)" != apt ]; then
        "$@"
        return
    fi
    as_root mkdir -p "$(dirname "$settings")"
    echo 'create_main_cluster = false' | as_root tee "$settings" >/dev/null
    "$@" || status=$?
    as_root rm -f "$settings"
    return "$status"
}
