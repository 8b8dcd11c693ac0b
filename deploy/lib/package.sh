# What a package of walferry holds, and the making of what the repository does not have: man pages, completions.
# Sourced after postgres.sh by deploy/install, deploy/debian/build and tests/run, at the top of the repository.
# shellcheck shell=bash

# generate BINARY DIRECTORY: has the binary write what it knows of itself, and packs it as packages have it.
generate() {
    local binary=$1 directory=$2 shell
    rm -rf "$directory"
    mkdir -p "$directory/completions"
    "$binary" man "$directory/man"
    gzip -9n "$directory"/man/*
    gzip -9nc CHANGELOG.md >"$directory/changelog.gz"
    for shell in bash zsh fish; do
        "$binary" completions "$shell" >"$directory/completions/walferry.$shell"
    done
}

# The files of a package, a line each: SOURCE DESTINATION MODE. The list is the one that cargo-deb reads in Cargo.toml:
# SOURCE may have a *, target/release/ is the build's directory, and a DESTINATION that ends with / keeps the name.
files() {
    sed -n '/^assets = \[$/,/^\]$/s/^    \["\([^" ]*\)", "\([^" ]*\)", "\([0-7]*\)"\],$/\1 \2 \3/p' Cargo.toml
}

# Where cargo builds to.
target_directory() {
    cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

# What packing for Debian takes: cargo-deb, and what tells which libraries of the system a binary needs.
ensure_cargo_deb() {
    have dpkg-shlibdeps || install_packages "dpkg-dev" dpkg-dev dpkg-dev dpkg
    if ! have cargo-deb; then
        say "cargo install --locked cargo-deb@3.8.0"
        cargo install --locked cargo-deb@3.8.0
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
}
