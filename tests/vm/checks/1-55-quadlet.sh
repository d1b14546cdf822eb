# Units made of Quadlet files, and of containers that are there.

FILES=/etc/dormouse/systemd

# give NAME LINES...: writes the file NAME with these lines.
give() {
    local name=$1
    shift
    mkdir -p "$FILES" && printf '%s\n' "$@" >"$FILES/$name"
}

# take_back UNITS...: at the end of the check, with all files.
take_back() {
    # shellcheck disable=SC2064
    trap "systemctl stop $* 2>/dev/null || true; rm -rf $FILES /etc/containers/systemd; systemctl daemon-reload; systemctl reset-failed" EXIT
}

active() {
    [ "$(systemctl is-active "$1")" = active ]
}

check_a_container_file_is_a_service_that_is_restarted_and_gone_after_removal() {
    take_back quad-a.service quad-net-network.service
    give quad-net.network '[Network]' 'Subnet=10.99.7.0/24' 'NetworkDeleteOnStop=yes'
    give quad-a.container '[Unit]' 'Description=A container of a file' '[Container]' 'Image=busybox' \
        'Network=quad-net.network' 'Environment="GREETING=good morning"' \
        'Exec=sh -c "echo $$GREETING %N; exec sleep 1000"' 'StopTimeout=2' \
        '[Service]' 'Restart=on-failure' 'RestartSec=100ms' '[Install]' 'WantedBy=multi-user.target'
    mkdir -p $FILES/quad-a.container.d
    printf '[Container]\nLabel=from=drop-in\n' >$FILES/quad-a.container.d/10-label.conf
    systemctl daemon-reload
    equal "where it is made" "$(systemctl show --value --property FragmentPath quad-a.service)" \
        /run/systemd/generator/quad-a.service
    systemctl list-dependencies --plain multi-user.target | grep -q quad-a.service
    systemctl start quad-a.service
    active quad-a.service && active quad-net-network.service
    equal "the cgroup" "$(get systemd-quad-a cgroup)" /system.slice/quad-a.service/payload
    equal "the label" "$(get systemd-quad-a spec.labels.from)" drop-in
    dormouse network ls --format json | jq -e '.[] | select(.name == "systemd-quad-net")'
    within 20 eval 'journalctl --unit quad-a.service --no-pager -o cat | grep -qx "good morning quad-a"'

    local pid
    pid=$(get systemd-quad-a pid)
    kill -KILL "$pid"
    within 60 eval '[ "$(systemctl show --value --property NRestarts quad-a.service)" = 1 ] && active quad-a.service'
    [ "$(get systemd-quad-a pid)" != "$pid" ]

    rm -r $FILES/quad-a.container $FILES/quad-a.container.d
    systemctl stop quad-a.service
    systemctl daemon-reload
    equal "the unit" "$(systemctl show --value --property LoadState quad-a.service)" not-found
    equal "containers" "$(dormouse ps --all --format json | jq '[.[] | select(.name == "systemd-quad-a")] | length')" 0
    systemctl stop quad-net-network.service
    equal "networks" "$(dormouse network ls --format json | jq '[.[] | select(.name == "systemd-quad-net")] | length')" 0
}

check_a_systemd_of_a_file_is_ready_when_it_is() {
    take_back quad-machine.service
    give quad-machine.container '[Container]' 'ContainerName=quad-machine' 'Rootfs=/var/lib/machines/trixie' \
        'Network=none' 'Exec=/sbin/init' '[Service]' 'TimeoutStartSec=200'
    systemctl daemon-reload
    systemctl start quad-machine.service
    equal "ready inside" "$(get quad-machine ready)" true
    equal "the state of the system" "$(call Unit.Status '{"name": "quad-machine"}' | jq -r .systemState)" running
    systemctl stop quad-machine.service
    equal "the result" "$(systemctl show --value --property Result quad-machine.service)" success
}

check_faults_of_files_are_in_the_journal_by_file_and_line() {
    take_back quad-bad.service
    give quad-bad.container '[Container]' 'Image=busybox' 'Imaginary=yes'
    local before
    before=$(date '+%Y-%m-%d %H:%M:%S')
    systemctl daemon-reload
    equal "the unit" "$(systemctl show --value --property LoadState quad-bad.service)" not-found
    within 20 eval "journalctl --no-pager --since '$before' | grep -q 'quad-bad.container:3: Imaginary= is no key of'"
}

check_files_shared_with_podman_are_read_by_one_of_both() {
    take_back quad-shared.service
    [ -e /usr/lib/systemd/system-generators/podman-system-generator ] || skip "podman has no generator here"
    mkdir -p /etc/containers/systemd /etc/systemd/system-generators
    printf '[Container]\nImage=busybox\nExec=sleep 1000\n' >/etc/containers/systemd/quad-shared.container
    systemctl daemon-reload
    systemctl cat quad-shared.service | grep '^ExecStart=.*podman'
    ln -s /dev/null /etc/systemd/system-generators/podman-system-generator
    systemctl daemon-reload
    rm /etc/systemd/system-generators/podman-system-generator
    systemctl cat quad-shared.service | grep '^ExecStart=/usr/bin/dormouse run'
}

check_generated_units_of_a_container_make_it_anew_or_start_it() {
    take_back container-gen.service old-gen.service
    # shellcheck disable=SC2064
    trap "systemctl stop container-gen.service old-gen.service || true; rm -f /etc/systemd/system/*-gen.service; systemctl daemon-reload; dormouse rm --force --ignore gen" EXIT
    dormouse create --name gen --network none --env 'COST=5$ or 50%' --label 'a=b c' busybox \
        sh -c 'echo "it is $COST"; trap "exit 0" TERM; while :; do sleep 0.2; done'
    cd /etc/systemd/system
    dormouse generate systemd --container-prefix old gen >/etc/systemd/system/old-gen.service
    systemctl daemon-reload
    systemctl start old-gen.service
    equal "the cgroup of the old one" "$(get gen cgroup)" /system.slice/old-gen.service/payload
    systemctl stop old-gen.service
    equal "the result of the old one" "$(systemctl show --value --property Result old-gen.service)" success
    equal "the old one afterwards" "$(get gen state)" exited

    dormouse generate systemd --new --files --restart-policy always gen
    systemd-analyze verify --man=no container-gen.service
    systemctl daemon-reload
    systemctl start container-gen.service
    within 20 eval 'journalctl --unit container-gen.service --no-pager -o cat | grep -qxF "it is 5\$ or 50%"'
    equal "the label" "$(get gen spec.labels.a)" 'b c'
    systemctl stop container-gen.service
    equal "the result" "$(systemctl show --value --property Result container-gen.service)" success
    equal "containers" "$(dormouse ps --all --format json | jq '[.[] | select(.name == "gen")] | length')" 0
}

# One file of each kind, each needed by the last one.
check_files_of_all_kinds_are_started_with_the_pod_that_needs_them() {
    take_back quad-shop-pod.service quad-web.service quad-made-build.service quad-base-image.service \
        quad-data-volume.service quad-back-network.service
    printf 'FROM busybox\nRUN echo built >/made\n' >/tmp/Containerfile.quad
    give quad-base.image '[Image]' 'Image=localhost/busybox' 'Policy=missing'
    give quad-made.build '[Unit]' 'Requires=quad-base-image.service' 'After=quad-base-image.service' \
        '[Build]' 'ImageTag=quad-made' 'File=/tmp/Containerfile.quad' 'Network=none'
    give quad-data.volume '[Volume]' 'VolumeName=quad-data'
    give quad-back.network '[Network]' 'NetworkDeleteOnStop=yes'
    give quad-shop.pod '[Pod]' 'PodName=quad-shop' 'PublishPort=8071:80' 'Network=quad-back.network'
    give quad-web.container '[Container]' 'ContainerName=quad-web' 'Image=quad-made.build' 'Pod=quad-shop.pod' \
        'Volume=quad-data.volume:/data' 'StopTimeout=1' \
        'Exec=sh -c "cp /made /data; nc -ll -p 80 -e cat /data/made"' '[Service]' 'SuccessExitStatus=137'
    systemctl daemon-reload
    systemctl start quad-shop-pod.service
    within 60 active quad-web.service
    local unit
    for unit in quad-base-image quad-data-volume quad-back-network quad-shop-pod; do
        active $unit.service || fail "$unit is $(systemctl is-active $unit.service)"
    done
    equal "the result of the build" "$(systemctl show --value --property Result quad-made-build.service)" success
    within 20 eval '[ "$(timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/8071 && cat <&3")" = built ]'
    equal "the pod" "$(dormouse pod ls --format json | jq -r '.[].name')" quad-shop
    equal "the containers of the pod" "$(dormouse ps --format json | jq -r '.[] | select(.name == "quad-web") | .pod')" quad-shop
    systemctl stop quad-shop-pod.service
    within 30 eval '[ "$(systemctl is-active quad-web.service)" != active ]'
    equal "pods" "$(dormouse pod ls --format json)" "[]"
    equal "containers" "$(dormouse ps --all --format json | jq '[.[] | select(.name == "quad-web")] | length')" 0
    systemctl stop quad-back-network.service
    equal "networks" "$(dormouse network ls --format json | jq '[.[] | select(.name | test("quad"))] | length')" 0
    # What it has written stays.
    grep -qx built "$(dormouse volume inspect quad-data | jq -r '.[0].mountPoint')/made"
    dormouse volume rm quad-data
    dormouse rmi quad-made
}

check_a_kube_file_is_a_service_that_is_ready_with_its_pod_and_ends_with_it() {
    take_back quad-kube.service quad-job.service
    printf '%s\n' 'kind: Pod' 'metadata: {name: quad-kube}' 'spec:' '  terminationGracePeriodSeconds: 1' '  containers:' \
        '  - {name: web, image: busybox, command: [sleep, "1000"]}' >/tmp/quad-kube.yaml
    give quad-kube.kube '[Kube]' 'Yaml=/tmp/quad-kube.yaml' 'Network=none' '[Service]' 'TimeoutStartSec=200'
    sed 's/quad-kube/quad-job/; s/^spec:/spec:\n  restartPolicy: Never/; s/\[sleep, "1000"\]/["false"]/' /tmp/quad-kube.yaml >/tmp/quad-job.yaml
    give quad-job.kube '[Kube]' 'Yaml=/tmp/quad-job.yaml' 'Network=none' 'ExitCodePropagation=any' '[Service]' 'TimeoutStartSec=200'
    systemctl daemon-reload
    systemctl start quad-kube.service
    active quad-kube.service
    equal "the container" "$(get quad-kube-web state)" running
    # Nor does it end with the service.
    systemctl stop dormouse.service
    sleep 2
    active quad-kube.service
    equal "the container" "$(get quad-kube-web state)" running
    systemctl stop quad-kube.service
    equal "the result" "$(systemctl show --value --property Result quad-kube.service)" success
    systemctl start quad-kube.service
    # What the main process could not remove, the unit does.
    systemctl kill --kill-whom=main --signal=KILL quad-kube.service
    within 60 eval '[ "$(systemctl is-active quad-kube.service)" = failed ]'
    equal "pods" "$(dormouse pod ls --format json)" "[]"
    systemctl start quad-job.service || true
    within 60 eval '[ "$(systemctl show --value --property Result quad-job.service)" = exit-code ]'
    equal "pods" "$(dormouse pod ls --format json)" "[]"
}
