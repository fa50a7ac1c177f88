#!/bin/bash
# Runs every test of the workspace, each with what it needs or with a line that says what is missing.
# As root it first installs the Debian packages that tests use. Arguments go to the test runner
# (a filter, for example: ./test.sh tidy).
set -euo pipefail
cd "$(dirname "$0")"

# program that tests call, and the package that brings it
packages=(
    qemu-system-x86_64 qemu-system-x86
    chrt util-linux
    cpio cpio
    git git
    ip iproute2
    ldd libc-bin
    setpriv util-linux
    tc iproute2
    timeout coreutils
    xz xz-utils
)

missing_packages() {
    local i
    for ((i = 0; i < ${#packages[@]}; i += 2)); do
        command -v "${packages[i]}" >/dev/null || echo "${packages[i + 1]}"
    done
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "test.sh: installing ${missing[*]}"
        apt-get update -qq || echo "test.sh: apt-get update failed; trying with what it knows"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
            echo "test.sh: the installation failed; tests that need these packages are skipped"
    else
        echo "test.sh: not installed: ${missing[*]} (needs root and apt-get); tests that need them are skipped"
    fi
}

# Whatever this project makes outside its own folder carries its name.
traces() {
    find /sys/fs/cgroup -mindepth 1 -maxdepth 6 -type d -path '*/chronovisor*' -printf 'cgroup %p\n' 2>/dev/null || true
    find /run/netns -maxdepth 1 -name 'chronovisor*' -printf 'namespace %f\n' 2>/dev/null || true
}

# A test that was ended in the middle may have left the host prepared; the record of that is in its folder.
restore_host() {
    local record
    find "$TMPDIR" -name host.json -print | while read -r record; do
        echo "test.sh: a test left the host prepared; restoring it"
        cargo run --quiet -- --run-dir "$(dirname "$record")" host restore || true
    done
}

# Removes what is there now and was not there before; what is in use refuses to be removed.
clean_up() {
    local kind name
    restore_host
    while read -r kind name; do
        echo "test.sh: a test left the $kind $name; removing it"
        case $kind in
        cgroup) rmdir "$name" || true ;;
        namespace) ip netns delete "$name" || true ;;
        esac
    done < <(comm -13 <(sort <<<"$before") <(traces | sort) | sort -r)
    rm -rf "$TMPDIR"
}

# In the dev profile: it checks for overflow, and builds sooner. Measuring is the benchmarks' task.
run_tests() {
    local status=0
    # Documentation first, so that the summary of the others is what one sees at the end.
    [ $# -gt 0 ] || cargo test --workspace --no-fail-fast --quiet --doc || status=$?
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace "$@" || status=$?
    else
        # Integration tests measure time and occupy CPUs: one at a time.
        cargo test --workspace --no-fail-fast --lib --bins -- "$@" || status=$?
        cargo test --workspace --no-fail-fast --test '*' -- --test-threads=1 "$@" || status=$?
    fi
    return $status
}

install_packages
before=$(traces)
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/chronovisor-test-XXXXXX")
export TMPDIR
# Some tests act as an unprivileged user, who needs a place for temporary files too.
chmod 1777 "$TMPDIR"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
skips=${CHRONOVISOR_SKIPS:-$TMPDIR/skips}
export CHRONOVISOR_SKIPS=$skips
: >"$skips"

status=0
run_tests "$@" || status=$?
sort "$skips"
echo "test.sh: $(wc -l <"$skips") skipped, $([ $status = 0 ] && echo 'no failure' || echo 'with FAILURES')"
exit $status
