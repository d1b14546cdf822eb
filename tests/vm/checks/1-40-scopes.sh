# Every container in a scope of its own, which systemd knows by the container's name.

check_every_container_has_a_scope_with_its_limits() {
    remove_at_end scoped
    dormouse run --network none --detach --name scoped --memory 64m --pids-limit 50 --cpus 0.5 --cpuset-cpus 0 busybox sleep 1000
    local unit=dormouse-scoped.scope
    property() { systemctl show --value --property "$1" $unit; }
    equal "the cgroup" "$(get scoped cgroup)" "/dormouse.slice/$unit/payload"
    equal ControlGroup "$(property ControlGroup)" "/dormouse.slice/$unit"
    equal Delegate "$(property Delegate)" yes
    equal Description "$(property Description)" "Container scoped (busybox)"
    equal MemoryMax "$(property MemoryMax)" $((64 << 20))
    equal TasksMax "$(property TasksMax)" 50
    equal CPUQuotaPerSecUSec "$(property CPUQuotaPerSecUSec)" 500ms
    equal AllowedCPUs "$(property AllowedCPUs)" 0
    # The same in the cgroup that systemd made, and in the container's own.
    local cgroup
    for cgroup in "$(cgroup_of scoped)" "$(dirname "$(cgroup_of scoped)")"; do
        equal memory.max "$(cat "$cgroup/memory.max")" $((64 << 20))
        equal pids.max "$(cat "$cgroup/pids.max")" 50
        equal cpu.max "$(cat "$cgroup/cpu.max")" "50000 100000"
        equal cpuset.cpus "$(cat "$cgroup/cpuset.cpus")" 0
    done
    # Other limits arrive in all of them, and none takes them away.
    dormouse update --memory 96m --cpus 1 scoped
    equal MemoryMax "$(property MemoryMax)" $((96 << 20))
    equal CPUQuotaPerSecUSec "$(property CPUQuotaPerSecUSec)" 1s
    for cgroup in "$(cgroup_of scoped)" "$(dirname "$(cgroup_of scoped)")"; do
        equal memory.max "$(cat "$cgroup/memory.max")" $((96 << 20))
        equal cpu.max "$(cat "$cgroup/cpu.max")" "100000 100000"
    done
    dormouse update --memory -1 scoped
    equal MemoryMax "$(property MemoryMax)" infinity
    # By name, with what runs in it.
    systemctl status --no-pager $unit | shows 'sleep 1000'
    systemd-cgls --no-pager --unit dormouse.slice | shows $unit
    systemd-cgtop --batch --iterations=2 --delay=500ms --depth=4 | shows $unit
    # The service itself has nothing of it.
    equal "processes of the service" "$(cat /sys/fs/cgroup/system.slice/dormouse.service/cgroup.procs)" \
        "$(systemctl show --value --property MainPID dormouse.service)"
    dormouse stop --time 0 scoped
    within 20 test ! -e "/sys/fs/cgroup/dormouse.slice/$unit"
    equal "the scope" "$(systemctl is-active $unit)" inactive
}

check_root_in_a_container_makes_only_so_many_cgroups() {
    remove_at_end crowded
    dormouse run --network none --detach --name crowded --wait ready --timeout 200 --rootfs /var/lib/machines/trixie /sbin/init
    local scope
    scope=$(dirname "$(cgroup_of crowded)")
    equal "the most" "$(cat "$scope/cgroup.max.descendants")" 8192
    # Fewer, as that many would take the time and the memory of this host.
    echo 200 >"$scope/cgroup.max.descendants"
    dormouse exec crowded sh -c 'echo max >/sys/fs/cgroup/cgroup.max.descendants
        mkdir $(seq -f /sys/fs/cgroup/more-%g 300) 2>/tmp/refused || true; tail -n 1 /tmp/refused' |
        shows 'Resource temporarily unavailable'
    # The systemd inside may have done without one of its own since.
    local there
    there=$(sed -n 's/^nr_descendants //p' "$scope/cgroup.stat")
    [ "$there" -le 200 ] && [ "$there" -gt 190 ] || fail "$there cgroups in the scope"
    [ -e "$scope/payload/more-1" ] && [ ! -e "$scope/payload/more-300" ]
    dormouse rm --force crowded
    within 60 test ! -e "$scope"
}

check_a_scope_outlives_restarts_the_service_and_the_monitor() {
    remove_at_end lasting
    dormouse run --network none --detach --name lasting --restart always busybox sleep 1000
    local pid monitor scope=/sys/fs/cgroup/dormouse.slice/dormouse-lasting.scope
    local inode
    inode=$(stat -c %i $scope)
    pid=$(get lasting pid)
    kill -9 "$pid"
    within 20 eval '[ "$(get lasting restarts)" = 1 ] && [ "$(get lasting state)" = running ]'
    equal "the scope" "$(stat -c %i $scope)" "$inode"
    pid=$(get lasting pid)
    grep -qx "$pid" $scope/payload/cgroup.procs
    # Another monitor joins the same scope.
    monitor=$(cat $scope/monitor/cgroup.procs)
    kill -9 "$monitor"
    systemctl stop dormouse.service
    call Manager.Version
    within 20 eval 'grep -q . $scope/monitor/cgroup.procs'
    [ "$(cat $scope/monitor/cgroup.procs)" != "$monitor" ]
    equal "the container's pid" "$(get lasting pid)" "$pid"
    systemctl daemon-reexec
    equal "the scope" "$(systemctl is-active dormouse-lasting.scope)" active
}

check_a_name_that_is_taken_by_a_renamed_container_is_no_obstacle() {
    remove_at_end first-named second-named
    dormouse run --network none --detach --name second-named busybox sleep 1000
    dormouse rename second-named first-named
    dormouse run --network none --detach --name second-named busybox sleep 1000
    equal "scopes" "$(systemctl list-units --no-legend 'dormouse-second-named*.scope' | wc -l)" 2
    equal state "$(get second-named state)" running
    # In both, commands are run where the container is.
    dormouse exec first-named true
    dormouse exec second-named true
}

check_machined_knows_a_systemd_container() {
    remove_at_end known_machine
    dormouse run --network none --detach --name known_machine --wait ready --timeout 200 \
        --rootfs /var/lib/machines/trixie /sbin/init
    local m=known-machine
    within 20 machinectl show $m
    machinectl list --no-legend --no-pager | shows "^$m *container *dormouse"
    equal "the unit" "$(machinectl show --value --property Unit $m)" dormouse-known_machine.scope
    equal "the leader" "$(machinectl show --value --property Leader $m)" "$(get known_machine pid)"
    machinectl status --no-pager $m | shows 'nginx'
    equal "the system inside" "$(systemctl -M $m is-system-running)" running
    equal "a unit inside" "$(systemctl -M $m is-active nginx.service)" active
    journalctl -M $m --no-pager --quiet --unit nginx.service | shows nginx
    timeout 60 script --quiet --return --command \
        "machinectl --quiet shell root@$m /bin/sh -c 'cat /etc/hostname; touch /run/was-here'" /tmp/shell </dev/null
    dormouse exec known_machine test -e /run/was-here
    machinectl poweroff $m
    equal "the exit code" "$(call Container.Wait '{"name": "known_machine"}' | jq .exitCode)" 0
    within 20 eval '! machinectl show known-machine'
}
