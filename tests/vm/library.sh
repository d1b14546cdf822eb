# What the checks share. Called with a file and the name of a check in it.
set -eEuo pipefail
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR

S=/run/dormouse/io.dormouse

# skip WHY...: this can't be checked here.
skip() {
    echo "$*"
    exit 77
}

fail() {
    echo "$*" >&2
    exit 1
}

# equal WHAT IS SHOULD
equal() {
    [ "$2" = "$3" ] || fail "$1 is '$2' and should be '$3'"
}

# within SECONDS COMMAND...: waits until the command succeeds.
within() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || fail "in vain: $*"
        sleep 0.2
    done
}

# shows PATTERN: whether it is in what is read, which is told too. It is read to its end: who writes to a `grep -q` that has
# gone fails.
shows() {
    local text
    text=$(cat)
    printf '%s\n' "$text" >&2
    grep -q -- "$1" <<<"$text"
}

# call METHOD [PARAMETERS]: by systemd's own client.
call() {
    varlinkctl --json=short call "$S" "io.dormouse.$1" "${2:-{\}}"
}

# get CONTAINER FILTER: of what Inspect tells.
get() {
    call Container.Inspect "{\"name\": \"$1\"}" | jq -r ".container | .summary + . | .$2"
}

asleep() {
    [ "$(systemctl is-active dormouse.service)" = inactive ]
}

# cgroup_of CONTAINER: its directory.
cgroup_of() {
    echo "/sys/fs/cgroup$(get "$1" cgroup)"
}

# Removes these containers at the end of the check.
remove_at_end() {
    # shellcheck disable=SC2064
    trap "dormouse rm --force $* >/dev/null 2>&1 || true" EXIT
}

file=$1 name=$2
# shellcheck disable=SC1090
source "$file"
set -x
"$name"
