# What the other scripts need on the machine. Sourced by them, from the repository's root:
#
#   . scripts/setup.sh
#   setup_build      # to build and run ledgermq
#   setup_tests      # for everything that scripts/test.sh runs, in addition
#
# On Debian (and Ubuntu) what is missing is installed by apt. Elsewhere a list of what is missing is printed, and the
# script stops. Nothing is installed that is already there, and nothing outside apt's packages and $LEDGERMQ_TOOLS.
# shellcheck shell=bash

# One target folder for all clones: RocksDB takes ten minutes to compile on two cores, once.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/ledgermq/target}"
# Cargo's own helpers (nextest, deny) are put here, not into ~/.cargo.
LEDGERMQ_TOOLS="${LEDGERMQ_TOOLS:-$HOME/.cache/ledgermq/tools}"
export PATH="$LEDGERMQ_TOOLS/bin:$PATH"

RUST_VERSION_MIN=1.95

# usage FILE: the comment at the head of a script.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"; }

say() { printf '%s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# missing: lines of "what it is|Debian package".
missing=()
need_command() { command -v "$1" >/dev/null 2>&1 || missing+=("the command $1|$2"); }
need_file() {
    local pattern
    for pattern in "${@:2}"; do
        compgen -G "$pattern" >/dev/null && return
    done
    missing+=("$1")
}

install_missing() {
    [ "${#missing[@]}" -eq 0 ] && return
    local line packages=()
    if ! command -v apt-get >/dev/null 2>&1; then
        say "missing on this machine (in brackets the name of Debian's package):" >&2
        for line in "${missing[@]}"; do say "  - ${line%|*} [${line#*|}]" >&2; done
        fail "install these, then run this script again"
    fi
    for line in "${missing[@]}"; do packages+=("${line#*|}"); done
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 || fail "run as root, or install by hand: apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    say "installing Debian packages: ${packages[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" \
        >/dev/null || fail "apt could not install: ${packages[*]}"
    missing=()
}

setup_rust() {
    command -v cargo >/dev/null 2>&1 || fail "Rust is missing: install Rust $RUST_VERSION_MIN or later (rustup), then run this script again"
    local have
    have=$(rustc --version | awk '{print $2}')
    [ "$(printf '%s\n%s\n' "$RUST_VERSION_MIN" "$have" | sort -V | head -n 1)" = "$RUST_VERSION_MIN" ] ||
        fail "Rust $have is too old: $RUST_VERSION_MIN or later is needed (rustup update)"
}

setup_build() {
    setup_rust
    # RocksDB is compiled from source, and its bindings are made with libclang.
    need_command c++ g++
    need_command make make
    # Not by libclang*: libclang-cpp, which comes with other packages, is another library.
    local at libraries=()
    for at in "${LIBCLANG_PATH:-/nonexistent}" "/usr/lib/llvm-*/lib" /usr/lib /usr/lib64 "/usr/lib/*" /usr/local/lib; do
        libraries+=("$at/libclang.so*" "$at/libclang-[0-9]*.so*")
    done
    need_file "libclang|libclang-dev" "${libraries[@]}" "/opt/homebrew/opt/llvm/lib/libclang*.dylib"
    install_missing
}

setup_tests() {
    setup_build
    local component
    for component in fmt clippy; do
        if ! cargo "$component" --version >/dev/null 2>&1; then
            command -v rustup >/dev/null 2>&1 || fail "cargo $component is missing: install it beside Rust"
            rustup component add "${component/fmt/rustfmt}" || fail "rustup could not add $component"
        fi
    done
    # Real peers: the official Java and Go clients; fault injection: strace, loop-mounted file systems that lose power.
    need_command javac default-jdk-headless
    need_command mvn maven
    need_command go golang-go
    need_command strace strace
    need_command python3 python3
    need_command mkfs.ext4 e2fsprogs
    need_command mkfs.xfs xfsprogs
    need_command ip iproute2
    need_command iptables iptables
    need_file "libfaketime|faketime" "/usr/lib/*/faketime/libfaketimeMT.so.1" "/usr/lib/faketime/libfaketimeMT.so.1"
    need_command mount mount
    # Brings nextest and deny as wheels.
    python3 -m pip --version >/dev/null 2>&1 || missing+=("Python's pip|python3-pip")
    install_missing
    setup_cargo_tool nextest 0.9.148 76d7faec7ba7e1f15f888268761bb1449309b1eb801ec5cbe9c04a5685f42968
    setup_cargo_tool deny 0.20.2 ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
}

# setup_cargo_tool NAME VERSION SHA256
# The wheel carries the executable built from the tool's own tag, and is taken only with this checksum: one second
# instead of five to eight minutes of compiling. On another kind of machine, or when there is no such wheel, cargo
# compiles the tool.
setup_cargo_tool() {
    local name=$1 version=$2 sha256=$3
    local program="$LEDGERMQ_TOOLS/bin/cargo-$name"
    if [ -x "$program" ] && "$program" --version 2>/dev/null | head -n 1 | grep -qF " $version"; then
        return
    fi
    mkdir -p "$LEDGERMQ_TOOLS/bin"
    local work
    work=$(mktemp -d)
    printf 'astral-dev-toolchain-cargo-%s==%s --hash=sha256:%s\n' "$name" "$version" "$sha256" >"$work/requirements.txt"
    if [ "$(uname -sm)" = "Linux x86_64" ] &&
        python3 -m pip download -q --no-deps --require-hashes --only-binary :all: -d "$work" -r "$work/requirements.txt" \
            >"$work/pip.log" 2>&1 &&
        python3 -m zipfile -e "$work"/*.whl "$work" &&
        install -m 755 "$work/astral_dev_toolchain_cargo_$name-$version.data/scripts/cargo-$name" "$program"; then
        say "installed cargo-$name $version (prebuilt)"
    else
        say "compiling cargo-$name $version"
        # Unoptimised: it runs for seconds and would compile for minutes more.
        cargo install -q --locked --debug --root "$LEDGERMQ_TOOLS" --target-dir "$work/target" "cargo-$name@$version" || {
            rm -rf "$work"
            fail "cargo-$name could not be installed"
        }
    fi
    rm -rf "$work"
}
