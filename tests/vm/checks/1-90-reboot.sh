# What the checks after the reboot look for. The last file of the first boot.

check_prepares_containers_for_the_reboot() {
    rm -f /var/lib/vm-checks/last-words
    run() { dormouse run --network none --detach --name "$1" --restart "$2" busybox sleep 100000; }
    run boot-always always
    run boot-unless unless-stopped
    run boot-stopped unless-stopped
    run boot-no no
    dormouse run --network none --detach --rm --name boot-rm busybox sleep 100000
    dormouse run --network none --detach --name boot-words -v /var/lib/vm-checks:/words busybox \
        sh -c 'trap "echo got SIGTERM >/words/last-words; exit 0" TERM; while :; do sleep 1; done'
    dormouse stop --time 0 boot-stopped
    equal "left running" "$(dormouse ps --format json | jq '[.[] | select(.name | startswith("boot-"))] | length')" 5
}
