# An ordinary user's own service, under the user's own systemd. All checks share the user, two images and what is running.

A=/run/user/1000/dormouse/io.dormouse
SLICE=/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/dormouse.slice

# as_alice COMMAND...: as that user would at a shell.
as_alice() {
    cd /
    runuser --user alice -- env HOME=/home/alice XDG_RUNTIME_DIR=/run/user/1000 "$@"
}

# hers METHOD [PARAMETERS]: of the user's service.
hers() {
    as_alice varlinkctl --json=short call "$A" "io.dormouse.$1" "${2:-{\}}"
}

# her CONTAINER FILTER: as `get`.
her() {
    hers Container.Inspect "{\"name\": \"$1\"}" | jq -r ".container | .summary + . | .$2"
}

hers_sleeps() {
    [ "$(as_alice systemctl --user is-active dormouse.service)" = inactive ]
}

# of_alice: the processes of the user that are not of the user's systemd itself.
of_alice() {
    ps -o pid=,args= -u alice | grep -vE 'systemd|sd-pam|dbus-daemon' || true
}

# The user with lingering and an image, unless an earlier check has seen to it.
settle() {
    [ ! -e /run/settled-alice ] || return 0
    # Without a default route there is nothing that pasta could take over.
    if [ ! -e /sys/class/net/up0 ]; then
        ip link add up0 type dummy
        ip addr add 10.77.0.2/24 dev up0
        ip link set up0 up
        ip route add default via 10.77.0.1
    fi
    loginctl enable-linger alice
    within 60 systemctl is-active user@1000.service
    # The package has enabled it for every user; to start it again is no harm.
    within 30 as_alice systemctl --user start dormouse.socket
    equal "the mode of the socket" "$(stat -c %a:%U $A)" 600:alice
    as_alice dormouse import --quiet /usr/local/share/busybox.tar busybox
    touch /run/settled-alice
}

check_a_users_service_wakes_at_the_first_call_and_sleeps_while_a_container_runs_in_its_scope() {
    settle
    as_alice systemctl --user stop dormouse.service
    hers_sleeps
    equal "whose service it is" "$(hers Manager.Info | jq .uid)" 1000
    equal "the service after a call" "$(as_alice systemctl --user is-active dormouse.service)" active
    as_alice dormouse run --detach --name mine --publish 8090:80 --memory 64m --pids-limit 50 --cpus 0.5 busybox \
        sh -c 'echo spoken inside; trap "exit 3" TERM; nc -ll -p 80 -e echo i am mine & while :; do sleep 0.2; done'
    local unit=dormouse-mine.scope cgroup=$SLICE/dormouse-mine.scope pid
    property() { as_alice systemctl --user show --value --property "$1" $unit; }
    equal "the cgroup" "/sys/fs/cgroup$(her mine cgroup)" "$cgroup/payload"
    equal warnings "$(her mine 'warnings | length')" 0
    equal MemoryMax "$(property MemoryMax)" $((64 << 20))
    equal TasksMax "$(property TasksMax)" 50
    equal CPUQuotaPerSecUSec "$(property CPUQuotaPerSecUSec)" 500ms
    for cgroup in "$cgroup" "$cgroup/payload"; do
        equal memory.max "$(cat "$cgroup/memory.max")" $((64 << 20))
        equal pids.max "$(cat "$cgroup/pids.max")" 50
        equal cpu.max "$(cat "$cgroup/cpu.max")" "50000 100000"
    done
    pid=$(her mine pid)
    equal "whose process it is" "$(stat -c %U "/proc/$pid")" alice
    equal "the unit of pasta" "$(ps -o uunit= -p "$(pgrep --uid alice pasta)")" $unit
    said_at() { timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/8090 && cat <&3"; }
    within 20 eval '[ "$(said_at)" = "i am mine" ]'
    equal "its log" "$(as_alice dormouse logs mine)" "spoken inside"
    equal "a command in it" "$(as_alice dormouse exec mine id -u)" 0
    as_alice dormouse update --memory 96m mine
    equal memory.max "$(cat "$cgroup/memory.max")" $((96 << 20))
    equal MemoryMax "$(property MemoryMax)" $((96 << 20))
    as_alice dormouse pause mine
    grep -q 'frozen 1' "$cgroup/cgroup.events"
    as_alice dormouse resume mine
    # It goes to sleep while the container runs on, and what wakes next has power over it.
    within 40 hers_sleeps
    equal "the result of the service" "$(as_alice systemctl --user show --value --property Result dormouse.service)" success
    test -d "/proc/$pid"
    equal "the port of a service that sleeps" "$(said_at)" "i am mine"
    as_alice dormouse stop mine
    equal "the exit code" "$(her mine exitCode)" 3
    as_alice dormouse rm mine
    within 20 test ! -e "$SLICE/$unit"
    within 20 eval '! pgrep --uid alice pasta'
}

check_a_users_systemd_boots_ready_without_failed_units() {
    settle
    tar -C /var/lib/machines/trixie -c . | as_alice dormouse import --quiet - trixie
    as_alice dormouse run --detach --name machine --publish 8091:80 --memory 512m --wait ready --timeout 200 trixie /sbin/init
    equal ready "$(her machine ready)" true
    equal "failed units" "$(hers Unit.List '{"name": "machine", "activeStates": ["failed"]}' | jq '.units | length')" 0
    equal "the state of the system" "$(hers Unit.Status '{"name": "machine"}' | jq -r .systemState)" running
    equal memory.max "$(cat "$SLICE/dormouse-machine.scope/payload/memory.max")" $((512 << 20))
    curl --silent --fail --max-time 20 http://localhost:8091/ | grep -q nginx
    as_alice dormouse units restart machine cron.service
    as_alice dormouse stop machine
    equal "the exit code" "$(her machine exitCode)" 0
    as_alice dormouse rm machine
}

check_a_users_file_is_a_service_of_the_users_systemd() {
    settle
    local files=/home/alice/.config/dormouse/systemd
    as_alice mkdir -p $files
    printf '%s\n' '[Container]' 'Image=busybox' 'Network=none' 'StopTimeout=1' 'PodmanArgs=--memory 64m' \
        'Exec=sh -c "echo good morning; exec sleep 1000"' '[Service]' 'SuccessExitStatus=137' >$files/hers.container
    as_alice systemctl --user daemon-reload
    as_alice systemctl --user start hers.service
    local cgroup=/user.slice/user-1000.slice/user@1000.service/app.slice/hers.service/payload
    equal "the cgroup" "$(her systemd-hers cgroup)" $cgroup
    equal memory.max "$(cat /sys/fs/cgroup$cgroup/memory.max)" $((64 << 20))
    within 20 eval 'journalctl --no-pager -o cat _SYSTEMD_USER_UNIT=hers.service | grep -qx "good morning"'
    as_alice systemctl --user stop hers.service
    equal "the result" "$(as_alice systemctl --user show --value --property Result hers.service)" success
    equal containers "$(as_alice dormouse ps --all --format json)" "[]"
    test ! -e "/sys/fs/cgroup$(dirname $cgroup)"
    rm $files/hers.container
    as_alice systemctl --user daemon-reload
}

# At the end of the user's session, and of the machine, each by its own stop signal; and back as the policy says.
check_a_users_containers_stop_cleanly_with_the_users_systemd_and_come_back() {
    settle
    as_alice mkdir -p /home/alice/words
    as_alice dormouse run --detach --name back --network none --restart always -v /home/alice/words:/words busybox \
        sh -c 'trap "echo got SIGTERM >/words/last; exit 0" TERM; while :; do sleep 0.2; done'
    as_alice dormouse run --detach --name gone --network none --rm busybox sh -c 'trap "exit 0" TERM; while :; do sleep 0.2; done'
    loginctl disable-linger alice
    within 60 test ! -e /sys/fs/cgroup/user.slice/user-1000.slice
    equal "its last words" "$(cat /home/alice/words/last)" "got SIGTERM"
    equal "processes" "$(pgrep --list-full --uid alice)" ""
    loginctl enable-linger alice
    within 60 eval '[ "$(her back state)" = running ]'
    equal "what is there" "$(as_alice dormouse ps --all --format json | jq -r '.[].name')" back
    as_alice dormouse rm --force back
}

check_fuse_overlayfs_puts_layers_together_where_the_kernel_does_not() {
    settle
    # A kernel without overlayfs.
    mkdir -p /run/modprobe.d
    echo 'install overlay /bin/false' >/run/modprobe.d/no-overlay.conf
    trap 'rm /run/modprobe.d/no-overlay.conf; umount -q /usr/bin/fuse-overlayfs || true; as_alice dormouse rm --force fused >/dev/null 2>&1 || true' EXIT
    as_alice systemctl --user stop dormouse.service
    (within 20 eval '! grep -q ^overlay /proc/modules || rmmod overlay') ||
        skip "overlayfs can't be taken away: $(grep -c ' overlay ' /proc/mounts) mounts of it are in use"
    # The program is not there either, for processes that begin now.
    mount --bind /dev/null /usr/bin/fuse-overlayfs
    ! as_alice dormouse run --rm --network none busybox true 2>/tmp/refused || fail "there is nothing to put layers together"
    shows 'install the package fuse-overlayfs' </tmp/refused
    umount /usr/bin/fuse-overlayfs
    as_alice systemctl --user stop dormouse.service
    as_alice dormouse run --detach --name fused --network none --memory 64m busybox \
        sh -c 'rm -r /etc; mkdir /etc; echo new >/etc/new; trap "exit 0" TERM; while :; do sleep 0.2; done'
    within 20 as_alice dormouse exec fused cat /etc/new
    as_alice dormouse exec fused cat /proc/self/mountinfo | shows ' / / .* fuse.fuse-overlayfs '
    equal "its unit" "$(ps -o uunit= -p "$(pgrep --uid alice fuse-overlayfs)")" dormouse-fused.scope
    as_alice dormouse diff fused | shows '/etc/new'
    as_alice dormouse stop fused
    as_alice dormouse commit fused fused-image
    equal "what is in its image" "$(as_alice dormouse run --rm --network none fused-image sh -c 'cat /etc/new; ls /etc/passwd 2>&1 || true' | tr '\n' ' ')" \
        "new ls: /etc/passwd: No such file or directory "
    as_alice dormouse rm fused
    as_alice dormouse rmi fused-image
    within 20 eval '! pgrep --uid alice fuse-overlayfs'
    equal "the scope" "$(as_alice systemctl --user is-active dormouse-fused.scope || true)" inactive
    as_alice systemctl --user stop dormouse.service
}

check_what_takes_root_of_the_host_is_refused_by_name() {
    settle
    # refused WORDS ARGUMENTS...: of dormouse.
    refused() {
        local words=$1
        shift
        ! as_alice dormouse "$@" 2>/tmp/refused || fail "it was not refused"
        shows "$words" </tmp/refused
    }
    refused 'port 80' run --rm --publish 80:80 busybox true
    refused 'user namespace' run --rm --userns auto busybox true
    refused bridge network create net
    refused cpuset run --rm --network none --cpuset-cpus 0 busybox true
    equal "what is left of it" "$(as_alice dormouse ps --all --format json)" "[]"
}

check_nothing_is_left_of_a_users_containers() {
    settle
    equal containers "$(as_alice dormouse ps --all --format json)" "[]"
    local image
    for image in $(hers Image.List | jq -r '.images[].id'); do as_alice dormouse rmi "$image"; done
    as_alice systemctl --user stop dormouse.socket dormouse.service
    within 20 eval '[ -z "$(of_alice)" ]'
    equal "scopes" "$(ls -d "$SLICE"/*.scope 2>/dev/null)" ""
    local dir
    for dir in containers netns mounts; do
        equal "$dir in the run directory" "$(ls /run/user/1000/dormouse/$dir)" ""
    done
    equal "layers" "$(find /home/alice/.local/state/dormouse -path '*layers/*' -o -path '*containers/*' | wc -l)" 0
    equal "failed units" "$(as_alice systemctl --user --failed --no-legend | wc -l)" 0
    loginctl disable-linger alice
    within 40 test ! -e /sys/fs/cgroup/user.slice/user-1000.slice
    ip link del up0
}
