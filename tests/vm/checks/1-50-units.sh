# `dormouse run` in unit files: the container is the unit.

# unit NAME LINES...: writes NAME with these lines.
unit() {
    local name=$1
    shift
    printf '%s\n' "$@" >"/run/systemd/system/$name"
    systemctl daemon-reload
}

# forget NAMES...: at the end of the check.
forget() {
    # shellcheck disable=SC2064
    trap "systemctl stop $* 2>/dev/null; cd /run/systemd/system && rm -f $*; systemctl daemon-reload; systemctl reset-failed" EXIT
}

nothing_left_of() {
    equal "the cgroup of $1" "$(ls -d "/sys/fs/cgroup/system.slice/$1" 2>/dev/null)" ""
    equal "containers" "$(dormouse ps --all --format json | jq "[.[] | select(.name == \"$2\")] | length")" 0
    ! pgrep --list-full --full "dormouse.*$2" || fail "processes are left"
    # A killed main process leaves them to the next wake.
    within 30 eval '! ls /run/dormouse | grep ^unit-'
}

check_a_systemd_container_is_a_unit_with_its_readiness_stop_and_socket() {
    forget unit-machine.socket unit-machine.service
    local inside=/var/lib/machines/trixie/etc/systemd/system
    printf '[Socket]\nListenStream=7777\nAccept=yes\n[Install]\nWantedBy=sockets.target\n' >$inside/hello.socket
    printf '[Service]\nExecStart=/bin/echo hello from inside\nStandardOutput=socket\n' >$inside/hello@.service
    mkdir -p $inside/sockets.target.wants
    ln -sf ../hello.socket $inside/sockets.target.wants/hello.socket
    unit unit-machine.socket '[Socket]' ListenStream=7777
    unit unit-machine.service '[Service]' Type=notify Delegate=yes KillMode=mixed TimeoutStartSec=200 \
        'ExecStart=/usr/bin/dormouse run --rm --replace --network none --name unit-machine --rootfs /var/lib/machines/trixie /sbin/init'
    systemctl start unit-machine.socket
    # The first connection starts the container, waits in the socket's queue, and is answered by the service inside.
    timeout 200 bash -c 'exec 5<>/dev/tcp/127.0.0.1/7777; cat <&5' | shows 'hello from inside'
    within 100 systemctl is-active unit-machine.service
    equal "ready inside" "$(get unit-machine ready)" true
    equal "the state of the system" "$(call Unit.Status '{"name": "unit-machine"}' | jq -r .systemState)" running
    equal "the cgroup" "$(get unit-machine cgroup)" /system.slice/unit-machine.service/payload
    equal "the most cgroups" "$(cat /sys/fs/cgroup/system.slice/unit-machine.service/cgroup.max.descendants)" 8192
    equal "the unit of the container's process" \
        "$(ps -o unit= -p "$(get unit-machine pid)")" unit-machine.service
    systemctl status --no-pager unit-machine.service | shows nginx
    timeout 20 bash -c 'exec 5<>/dev/tcp/127.0.0.1/7777; cat <&5' | grep -x 'hello from inside'
    systemctl stop unit-machine.socket unit-machine.service
    equal "the result" "$(systemctl show --value --property Result unit-machine.service)" success
    equal "the exit code" "$(systemctl show --value --property ExecMainStatus unit-machine.service)" 0
    journalctl --unit unit-machine.service --no-pager | grep -q 'Killing process' && fail "something had to be killed"
    nothing_left_of unit-machine.service unit-machine
    rm $inside/hello* $inside/sockets.target.wants/hello.socket
}

check_the_exit_code_and_the_output_are_the_units() {
    forget unit-small.service
    unit unit-small.service '[Service]' Type=notify Delegate=yes KillMode=mixed \
        'ExecStart=/usr/bin/dormouse run --rm --network none --name unit-small busybox sh -c "echo spoken inside; sleep 2; exit 7"'
    systemctl start unit-small.service
    within 30 systemctl is-failed unit-small.service
    equal "the exit code" "$(systemctl show --value --property ExecMainStatus unit-small.service)" 7
    journalctl --unit unit-small.service --no-pager -o cat | shows 'spoken inside'
    nothing_left_of unit-small.service unit-small
}

check_the_payload_itself_says_when_the_unit_is_ready() {
    forget unit-notify.service
    unit unit-notify.service '[Service]' Type=notify Delegate=yes KillMode=mixed TimeoutStopSec=20 \
        'ExecStart=/usr/bin/dormouse run --rm --network none --sdnotify payload --name unit-notify --rootfs /var/lib/machines/trixie sh -c "sleep 3; touch /tmp/before-ready; systemd-notify --ready; exec sleep 1000"'
    rm -f /var/lib/machines/trixie/tmp/before-ready
    systemctl start unit-notify.service
    test -e /var/lib/machines/trixie/tmp/before-ready
    equal "the unit" "$(systemctl is-active unit-notify.service)" active
    # A killed main process leaves nothing either, and the next start goes on.
    systemctl kill --kill-whom=main --signal=KILL unit-notify.service
    within 20 systemctl is-failed unit-notify.service
    within 20 test ! -e /sys/fs/cgroup/system.slice/unit-notify.service
    rm -f /var/lib/machines/trixie/tmp/before-ready
}

check_without_delegation_the_container_is_in_its_scope_and_stops_with_the_unit() {
    forget unit-plain.service
    unit unit-plain.service '[Service]' Type=notify \
        'ExecStart=/usr/bin/dormouse run --rm --network none --name unit-plain busybox sh -c "trap \"exit 0\" TERM; while :; do sleep 1; done"'
    systemctl start unit-plain.service
    equal "the cgroup" "$(get unit-plain cgroup)" /dormouse.slice/dormouse-unit-plain.scope/payload
    systemctl stop unit-plain.service
    equal "the result" "$(systemctl show --value --property Result unit-plain.service)" success
    within 20 test ! -e /sys/fs/cgroup/dormouse.slice/dormouse-unit-plain.scope
    nothing_left_of unit-plain.service unit-plain
}
