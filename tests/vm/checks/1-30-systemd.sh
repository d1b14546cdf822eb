# A systemd inside a container, on cgroup v2 alone.

check_systemd_257_boots_ready_without_failed_units_and_stops_cleanly() {
    remove_at_end machine
    dormouse run --network none --detach --name machine --wait ready --timeout 200 \
        --rootfs /var/lib/machines/trixie /sbin/init
    equal ready "$(get machine ready)" true
    equal "failed units" "$(call Unit.List '{"name": "machine", "activeStates": ["failed"]}' | jq '.units | length')" 0
    equal "the state of the system" "$(call Unit.Status '{"name": "machine"}' | jq -r .systemState)" running
    dormouse stop machine
    equal "the exit code" "$(get machine exitCode)" 0
}

check_systemd_257_in_a_user_namespace_is_as_well() {
    remove_at_end shifted
    dormouse run --userns auto --network none --detach --name shifted --wait ready --timeout 200 \
        --rootfs /var/lib/machines/trixie /sbin/init
    local pid
    pid=$(get shifted pid)
    [ "$(stat -c %u "/proc/$pid")" -ge 65536 ] || fail "root of the container is $(stat -c %u "/proc/$pid") on the host"
    equal ready "$(get shifted ready)" true
    equal "failed units" "$(call Unit.List '{"name": "shifted", "activeStates": ["failed"]}' | jq '.units | length')" 0
    equal "the state of the system" "$(call Unit.Status '{"name": "shifted"}' | jq -r .systemState)" running
    equal "the owner inside" "$(dormouse exec shifted stat -c %u:%g /etc/passwd)" 0:0
    # What it writes is root's on the disk too.
    dormouse exec shifted touch /root/written
    equal "the owner on the disk" "$(stat -c %u /var/lib/machines/trixie/root/written)" 0
    rm /var/lib/machines/trixie/root/written
    dormouse stop shifted
    equal "the exit code" "$(get shifted exitCode)" 0
}

check_limits_arrive_in_the_cgroup() {
    remove_at_end limited
    dormouse run --network none --detach --name limited --memory 64m --pids-limit 50 --cpus 0.5 busybox sleep 1000
    local cgroup
    cgroup=$(cgroup_of limited)
    equal memory.max "$(cat "$cgroup/memory.max")" $((64 << 20))
    equal pids.max "$(cat "$cgroup/pids.max")" 50
    equal cpu.max "$(cat "$cgroup/cpu.max")" "50000 100000"
    dormouse pause limited
    grep -q 'frozen 1' "$cgroup/cgroup.events"
    dormouse resume limited
    grep -q 'frozen 0' "$cgroup/cgroup.events"
}

check_memory_limit_kills_and_is_told() {
    remove_at_end greedy
    dormouse run --network none --detach --name greedy --memory 16m busybox sh -c 'tail /dev/zero' || true
    equal "the exit code" "$(call Container.Wait '{"name": "greedy"}' | jq .exitCode)" 137
    equal "told of the kill" "$(get greedy oomKilled)" true
    equal "the payload's own score" "$(dormouse run --network none --rm busybox cat /proc/self/oom_score_adj)" 0
}

check_devices_of_the_host_are_out_of_reach() {
    # The root disk of the host, by a node that the container makes itself.
    local numbers
    numbers=$(lsblk --noheadings --nodeps --output MAJ:MIN /dev/nvme0n1 | tr -d ' ')
    ! dormouse run --network none --rm busybox sh -c "mknod /tmp/disk b ${numbers/:/ } && head -c 512 /tmp/disk" >/dev/null 2>/tmp/refused ||
        fail "the host's disk was read"
    grep -q 'not permitted' /tmp/refused
    dormouse run --network none --rm busybox head -c 1 /dev/zero >/dev/null
}

check_use_is_counted_and_limits_change_on_cgroup_v2() {
    remove_at_end counted
    dormouse run --detach --name counted --memory 64m --cpus 0.2 busybox \
        sh -c 'head -c 20971520 /dev/zero > /dev/shm/held; sleep 1000 & while :; do :; done'
    within 10 sh -c "dormouse stats --no-stream --format json counted | jq -e '.[0].memoryBytes >= 20971520'"
    local one
    one=$(call Container.Stats '{"names": ["counted"]}' | jq -c '.stats[0]')
    equal "what can't be so in $one" "$(jq '[.pids == 2, .memoryMaxBytes == 67108864, .cpuUSec > 0, .cpuPercent < 60,
        .ioReadBytes >= 0, .oomKills == 0] | all' <<<"$one")" true
    equal "the processes" "$(dormouse top counted pid,ppid,comm | tail -n +2 | tr -s ' \n' ' ')" "1 0 sh 3 1 sleep "
    local cgroup
    cgroup=$(cgroup_of counted)
    dormouse update --memory 96m --pids-limit -1 counted
    equal memory.max "$(cat "$cgroup/memory.max")" $((96 << 20))
    equal pids.max "$(cat "$cgroup/pids.max")" max
    equal cpu.max "$(cat "$cgroup/cpu.max")" "20000 100000"
    dormouse update --memory -1 --cpu-quota -1 counted
    equal memory.max "$(cat "$cgroup/memory.max")" max
    equal cpu.max "$(cat "$cgroup/cpu.max")" "max 100000"
}
