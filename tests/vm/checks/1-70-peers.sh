# The same tree booted by systemd-nspawn, by podman and by us: what differs is told in docs/peers.md, and we are at least as
# good in every row.

TREE=/var/lib/machines/trixie
FACTS=/tmp/peers

# facts PEER PID: of what PEER has booted, with this process as its first; a line for each, as ROW|VALUE.
facts() {
    local peer=$1 pid=$2 name number
    mkdir -p $FACTS
    inside() { nsenter --target "$pid" --mount --pid --uts --ipc --cgroup --net "$@"; }
    words() { sort -u | tr '\n' ' ' | sed 's/ $//'; }
    # mounts CONDITION: places of mounts, by an expression of awk over place, kind, and options.
    mounts() {
        awk '{ for (i = 7; $i != "-"; i++); print $5, $(i + 1), "," $6 "," }' "/proc/$pid/mountinfo" |
            awk "{ place = \$1; kind = \$2; options = \$3 } $1 { print place }"
    }
    {
        echo "state of the system|$(inside systemctl is-system-running || true)"
        echo "failed units|$(inside systemctl --failed --no-legend | wc -l)"
        echo "variables of PID 1|$(tr '\0' '\n' <"/proc/$pid/environ" | cut -d= -f1 | words)"
        echo "capabilities|$(
            bits=0x$(sed -n 's/^CapBnd:\s*//p' "/proc/$pid/status")
            systemd-analyze capability --no-pager | while read -r name number; do
                [[ $name == cap_* ]] && ((bits >> number & 1)) && echo "${name#cap_}"
            done | words
        )"
        echo "system calls filtered|$(sed -n 's/^Seccomp:\s*//p' "/proc/$pid/status" | sed 's/2/yes/; s/0/no/')"
        echo "devices|$(inside find /dev -xdev -type c -printf '%P\n' | words)"
        echo "file systems in memory|$(mounts 'kind == "tmpfs" && place ~ "^/(run|run/lock|tmp|var/log/journal|dev/shm)$"' | words)"
        echo "hidden in /proc|$(mounts 'place ~ "^/proc/" && kind != "proc"' | grep -v /boot_id | sed 's,^/proc/,,' | words)"
        echo "read-only in /proc|$(mounts 'place ~ "^/proc/" && kind == "proc" && options ~ ",ro,"' | sed 's,^/proc/,,' | words)"
        echo "seen of /sys|$(inside find /sys -mindepth 2 -maxdepth 2 -printf '%P\n' | cut -d/ -f1 | words)"
        echo "/sys is read-only|$(inside sh -c 'touch /sys/x 2>&1 | grep -q Read-only && echo yes || echo no')"
        echo "boot id of its own|$([ "$(inside cat /proc/sys/kernel/random/boot_id)" != "$(cat /proc/sys/kernel/random/boot_id)" ] && echo yes || echo no)"
        echo "in /run/host|$(inside sh -c 'ls /run/host 2>/dev/null' | words)"
        echo "systemd-detect-virt|$(inside systemd-detect-virt)"
        echo "place in the tree of cgroups|$(sed -n 's,^0::/,,p' "/proc/$pid/cgroup" | sed -E 's,[0-9a-f]{64},ID,; s,/init.scope$,,')"
        echo "root of its cgroups|$(inside sh -c 'mkdir /sys/fs/cgroup/x && rmdir /sys/fs/cgroup/x && stat -c %A /sys/fs/cgroup')"
        echo "limits can be lifted inside|$(inside sh -c 'echo max >/sys/fs/cgroup/memory.max' 2>/dev/null && echo yes || echo no)"
        echo "known to machined|$(machinectl list --no-legend | awk '{ print $1, $2 }' | words)"
    } >"$FACTS/$peer"
}

# fact PEER ROW
fact() {
    sed -n "s,^$2|,,p" "$FACTS/$1"
}

# contains WHAT SET SET: the second one has all of the first one.
contains() {
    local word
    for word in $2; do
        [[ " $3 " == *" $word "* ]] || fail "$1: $word is missing in '$3'"
    done
}

check_peers_boot_the_same_tree_and_are_better_nowhere() {
    trap 'machinectl terminate peer 2>/dev/null || true; podman rm --force --time 0 peer >/dev/null 2>&1 || true; dormouse rm --force peer >/dev/null 2>&1 || true' EXIT
    systemd-run --quiet --unit=peer-nspawn --property=Type=notify --property=TimeoutStartSec=200 \
        systemd-nspawn --quiet --notify-ready=yes --boot --private-network --machine=peer --directory=$TREE
    facts nspawn "$(machinectl show --value --property Leader peer)"
    machinectl poweroff peer
    within 60 eval '! machinectl show peer'

    podman run --detach --name peer --network none --rootfs $TREE /sbin/init
    within 200 podman exec peer systemctl is-system-running
    facts podman "$(podman inspect --format '{{.State.Pid}}' peer)"
    podman stop --time 60 peer
    podman rm peer

    dormouse run --network none --detach --name peer --wait ready --timeout 200 --rootfs $TREE /sbin/init
    facts dormouse "$(get peer pid)"

    {
        echo '| what | systemd-nspawn 257 | podman 5.4 | dormouse |'
        echo '|---|---|---|---|'
        cut -d'|' -f1 $FACTS/dormouse | while read -r row; do
            echo "| $row | $(fact nspawn "$row") | $(fact podman "$row") | $(fact dormouse "$row") |"
        done
    } >$FACTS/table
    cat $FACTS/table

    local row word
    for row in 'state of the system' 'failed units' 'system calls filtered' 'boot id of its own' '/sys is read-only' \
        'root of its cgroups' 'known to machined'; do
        equal "$row" "$(fact dormouse "$row")" "$(fact nspawn "$row")"
    done
    equal "the state of the system" "$(fact dormouse 'state of the system')" running
    equal "limits can be lifted inside" "$(fact dormouse 'limits can be lifted inside')" no
    # Not more rights than a machine of systemd-nspawn has, and all that a container of podman has.
    contains "capabilities of podman's" "$(fact podman capabilities)" "$(fact dormouse capabilities)"
    contains capabilities "$(fact dormouse capabilities)" "$(fact nspawn capabilities)"
    contains devices "$(fact dormouse devices)" "$(fact nspawn devices)"
    contains "file systems in memory" "$(fact podman 'file systems in memory')" "$(fact dormouse 'file systems in memory')"
    contains "what is hidden or read-only in /proc" "$(fact podman 'hidden in /proc') $(fact podman 'read-only in /proc')" \
        "$(fact dormouse 'hidden in /proc') $(fact dormouse 'read-only in /proc')"
    # What systemd-nspawn hides besides tells nothing here either.
    for word in $(fact nspawn 'hidden in /proc'); do
        equal "what is told by $word" "$(dormouse exec peer sh -c "timeout 1 head -n 2 /proc/$word 2>/dev/null | grep -v '^0* [tTaA] '" || true)" ""
    done
    contains "/run/host" "container-manager container-uuid inaccessible incoming notify os-release" "$(fact dormouse 'in /run/host')"
    # USER and LOGNAME are for services, and systemd sets them for each.
    contains variables "$( (fact nspawn 'variables of PID 1'; fact podman 'variables of PID 1') | tr ' ' '\n' | grep -vxE 'USER|LOGNAME')" \
        "$(fact dormouse 'variables of PID 1')"
    dormouse stop peer
    equal "the exit code" "$(get peer exitCode)" 0
    # What the page says is so.
    # The facts of podman itself depend on what has run before it; the rows about us are compared with it above.
    diff <(cut -d'|' -f1-3,5- $FACTS/table) <(grep '^|' "$CHECKS/peers.md" | cut -d'|' -f1-3,5-) || fail "docs/peers.md says otherwise"
}
