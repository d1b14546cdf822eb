# Pods under systemd: what keeps one, and each of its containers, in scopes of their own.

check_a_pod_and_its_containers_are_in_scopes_that_outlive_the_service_and_go_with_the_pod() {
    trap 'dormouse pod rm --force shop >/dev/null 2>&1 || true' EXIT
    dormouse pod create --name shop --share net,ipc,uts,pid --publish 8070:80
    dormouse run --detach --pod shop --name front busybox \
        sh -c "trap 'exit 0' TERM; nc -ll -p 80 -e echo i am front & while :; do sleep 0.2; done"
    dormouse run --detach --pod shop --name behind --memory 64m busybox sh -c "trap 'exit 0' TERM; while :; do sleep 0.2; done"
    local scopes='dormouse-behind.scope dormouse-front.scope dormouse-pod-shop.scope ' pids
    # of_pod: its scopes, and the processes that live on in them.
    of_pod() { systemctl list-units --no-legend --plain 'dormouse-*.scope' | cut -d' ' -f1 | sort | tr '\n' ' '; }
    pids_of_pod() { get front pid; get behind pid; cat /sys/fs/cgroup/dormouse.slice/dormouse-pod-shop.scope/cgroup.procs; }
    equal scopes "$(of_pod)" "$scopes"
    equal "the description" "$(systemctl show --value --property Description dormouse-pod-shop.scope)" "Pod shop"
    systemd-cgls --no-pager --unit dormouse.slice >/tmp/tree
    local name
    for name in $scopes; do grep -q "$name" /tmp/tree || fail "systemd-cgls does not show $name"; done
    equal memory.max "$(cat "$(cgroup_of behind)/memory.max")" $((64 << 20))
    pids=$(pids_of_pod)
    systemctl restart dormouse.service
    equal "processes" "$(pids_of_pod)" "$pids"
    equal scopes "$(of_pod)" "$scopes"
    within 20 eval '[ "$(timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/8070 && cat <&3")" = "i am front" ]'
    equal "what one hears of another" "$(dormouse exec behind sh -c 'nc -w 3 127.0.0.1 80 </dev/null')" "i am front"
    dormouse pod rm --force shop
    within 20 eval '[ -z "$(of_pod)" ]'
    local pid
    for pid in $pids; do
        within 20 test ! -e "/proc/$pid"
    done
    equal "namespaces" "$(ls /run/dormouse/netns)" ""
    ! grep dormouse /proc/self/mountinfo || fail "mounts are left"
    dormouse network rm dormouse
}
