# It wakes when it is called, and sleeps when nobody needs it.

# idle_after TIME: another time of idleness than 10 s.
idle_after() {
    mkdir -p /run/systemd/system/dormouse.service.d
    printf '[Service]\nExecStart=\nExecStart=/usr/bin/dormouse serve --idle-timeout %s\n' "$1" \
        >/run/systemd/system/dormouse.service.d/idle.conf
    systemctl daemon-reload
    trap 'rm -rf /run/systemd/system/dormouse.service.d; systemctl daemon-reload' EXIT
}

# How often the service has started since the cursor in /tmp/cursor.
activations() {
    journalctl --no-pager --quiet --cursor-file=/tmp/cursor.copy --unit dormouse.service -o cat |
        grep -c 'Started dormouse.service' || true
}

check_first_call_wakes_and_it_sleeps_while_containers_run_on() {
    trap 'dormouse rm --force sleeper || true' EXIT
    systemctl stop dormouse.service
    asleep
    call Container.Run '{"spec": {"image": "busybox", "name": "sleeper", "networkNamespace": {"kind": "private"}, "command": ["sleep", "1000"]}}'
    equal "the service after a call" "$(systemctl is-active dormouse.service)" active
    local pid
    pid=$(get sleeper pid)
    within 40 asleep
    equal "the result of the service" "$(systemctl show --value --property Result dormouse.service)" success
    test -d "/proc/$pid"
    asleep || fail "looking has woken it"
    equal "the container's state" "$(get sleeper state)" running
    equal "the container's pid" "$(get sleeper pid)" "$pid"
}

check_stop_and_restart_of_the_service_leave_containers_untouched() {
    trap 'dormouse rm --force untouched || true' EXIT
    call Container.Run '{"spec": {"image": "busybox", "name": "untouched", "networkNamespace": {"kind": "private"}, "command": ["sleep", "1000"]}}'
    local pid
    pid=$(get untouched pid)
    systemctl stop dormouse.service
    test -d "/proc/$pid"
    call Manager.Version
    systemctl restart dormouse.service
    systemctl kill --kill-whom=main --signal=KILL dormouse.service || true
    test -d "/proc/$pid"
    systemctl reset-failed dormouse.service || true
    equal "the container's pid" "$(get untouched pid)" "$pid"
    # It is still supervised: its end is seen.
    kill -9 "$pid"
    equal "the exit code" "$(call Container.Wait '{"name": "untouched"}' | jq .exitCode)" 137
}

check_upgrade_of_the_package_leaves_containers_untouched() {
    trap 'dormouse rm --force upgraded || true' EXIT
    call Container.Run '{"spec": {"image": "busybox", "name": "upgraded", "networkNamespace": {"kind": "private"}, "command": ["sleep", "1000"]}}'
    local pid
    pid=$(get upgraded pid)
    dpkg --install "$CHECKS/dormouse-newer.deb"
    test -d "/proc/$pid"
    equal "the socket" "$(systemctl is-active dormouse.socket)" active
    equal "the container's pid" "$(get upgraded pid)" "$pid"
    call Container.Stop '{"name": "upgraded", "timeoutUSec": 0}'
}

# 500 where that takes a minute. Without KVM each costs a second, and the limits that could be tripped (5 starts in 10 s,
# 200 triggers in 2 s) are those of a short time. DORMOUSE_VM_ACTIVATIONS sets another number.
check_activations_in_a_row_trip_no_limit_and_lose_no_call() {
    systemctl stop dormouse.service
    idle_after 1ms
    local lost=0 calls=0 seen=0 wanted=30
    [ "$(systemd-detect-virt)" = kvm ] && wanted=500
    [ -s "$CHECKS/activations" ] && wanted=$(cat "$CHECKS/activations")
    journalctl --quiet --lines 0 --cursor-file=/tmp/cursor.copy
    while [ $seen -lt $wanted ] && [ $calls -lt $((3 * wanted)) ]; do
        for _ in $(seq 20); do
            calls=$((calls + 1))
            varlinkctl call $S io.dormouse.Manager.Version '{}' >/dev/null || lost=$((lost + 1))
        done
        seen=$((seen + $(activations)))
    done
    echo "$calls calls, $seen activations, $lost lost"
    equal "lost calls" $lost 0
    [ $seen -ge $wanted ] || fail "only $seen activations with $calls calls"
    equal "the socket" "$(systemctl is-active dormouse.socket)" active
}

check_calls_during_the_idle_exit_are_all_answered() {
    systemctl stop dormouse.service
    idle_after 1ms
    local client
    for client in 1 2 3; do
        (
            for _ in $(seq 20); do
                varlinkctl call $S io.dormouse.Manager.Version '{}' >/dev/null || echo lost
            done >"/tmp/lost.$client"
        ) &
    done
    wait
    equal "lost calls" "$(cat /tmp/lost.?)" ""
    equal "the socket" "$(systemctl is-active dormouse.socket)" active
}
