# podman, with this runtime in place of its own: systemd makes the cgroups, and there is cgroup v2 alone.

RUNTIME=/usr/bin/dormouse-runtime

prepare() {
    podman image exists box || podman import --quiet /usr/local/share/busybox.tar box
}

# theirs COMMAND...: podman's words.
theirs() {
    podman --log-level error --cgroup-manager systemd --runtime $RUNTIME "$@"
}

check_podman_has_its_day_with_our_runtime() {
    prepare
    trap 'theirs rm --all --force --time 0 >/dev/null 2>&1 || true' EXIT
    equal "output" "$(theirs run --rm --network none box echo hello)" hello
    local code=0 pid cgroup unit
    theirs run --rm --network none box sh -c 'exit 7' || code=$?
    equal "exit code" $code 7
    theirs run --detach --name day --network none --memory 64m --pids-limit 50 --cpus 0.5 box \
        sh -c 'trap "exit 3" TERM; while :; do sleep 0.2; done'
    equal "the runtime" "$(theirs inspect --format '{{.OCIRuntime}}' day)" $RUNTIME
    pid=$(theirs inspect --format '{{.State.Pid}}' day)
    cgroup=/sys/fs/cgroup$(cut -d: -f3 "/proc/$pid/cgroup")
    unit=$(basename "$(dirname "$cgroup")")
    equal "the scope" "$(systemctl show --value --property Delegate "$unit")" yes
    equal memory.max "$(cat "$cgroup/memory.max")" $((64 << 20))
    equal pids.max "$(cat "$cgroup/pids.max")" 50
    equal cpu.max "$(cat "$cgroup/cpu.max")" "50000 100000"
    equal "a command in it" "$(theirs exec day cat /proc/self/cgroup)" 0::/
    theirs stats --no-stream --format '{{.MemUsage}}' day | tee /dev/stderr | grep -q 67.11MB
    theirs update --memory 96m day
    equal memory.max "$(cat "$cgroup/memory.max")" $((96 << 20))
    theirs pause day
    grep -q 'frozen 1' "$cgroup/cgroup.events"
    theirs unpause day
    theirs stop day
    equal "its end" "$(theirs inspect --format '{{.State.ExitCode}}' day)" 3
    within 20 test ! -e "$cgroup"
    equal "the scope" "$(systemctl is-active "$unit")" inactive
}

check_podman_boots_a_systemd_with_our_runtime() {
    prepare
    trap 'theirs rm --force --time 0 machine >/dev/null 2>&1 || true' EXIT
    theirs run --detach --name machine --network none --systemd always --rootfs /var/lib/machines/trixie:O /sbin/init
    within 100 eval '[ "$(theirs exec machine systemctl is-system-running)" = running ]'
    equal "a unit inside" "$(theirs exec machine systemctl is-active nginx.service)" active
    # What it has is its own part of the hierarchy.
    theirs exec machine sh -c '! { echo 7 > /proc/sys/kernel/panic; } 2>/dev/null'
    theirs stop --time 60 machine
    equal "its end" "$(theirs inspect --format '{{.State.ExitCode}}' machine)" 0
}

check_podman_of_an_ordinary_user_works_with_our_runtime() {
    prepare
    loginctl enable-linger alice
    within 60 systemctl is-active user@1000.service
    hers() {
        cd /
        runuser --user alice -- env HOME=/home/alice XDG_RUNTIME_DIR=/run/user/1000 \
            DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus \
            podman --log-level error --cgroup-manager systemd --runtime $RUNTIME "$@"
    }
    trap 'hers rm --all --force --time 0 >/dev/null 2>&1 || true; hers image rm --force box >/dev/null 2>&1 || true' EXIT
    hers import --quiet /usr/local/share/busybox.tar box
    equal "output" "$(hers run --rm --network none --user 33 box id -u)" 33
    hers run --detach --name mine --network none --memory 64m --pids-limit 50 box \
        sh -c 'trap "exit 3" TERM; while :; do sleep 0.2; done'
    local pid cgroup
    pid=$(hers inspect --format '{{.State.Pid}}' mine)
    cgroup=/sys/fs/cgroup$(cut -d: -f3 "/proc/$pid/cgroup")
    equal "whose process it is" "$(stat -c %U "/proc/$pid")" alice
    [[ $cgroup == /sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/* ]]
    equal memory.max "$(cat "$cgroup/memory.max")" $((64 << 20))
    equal pids.max "$(cat "$cgroup/pids.max")" 50
    equal "a command in it" "$(hers exec mine id -u)" 0
    hers pause mine
    hers unpause mine
    hers stop mine
    equal "its end" "$(hers inspect --format '{{.State.ExitCode}}' mine)" 3
    within 20 test ! -e "$cgroup"
}
