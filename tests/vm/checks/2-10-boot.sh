# After a reboot: what should be there again is, and nothing else.

check_containers_of_the_last_boot_are_back_as_their_policies_say() {
    within 60 test "$(systemctl is-active dormouse-containers.service)" = active
    equal "always" "$(get boot-always state)" running
    equal "unlessStopped" "$(get boot-unless state)" running
    equal "unlessStopped, and stopped" "$(get boot-stopped state)" created
    equal "no policy" "$(get boot-no state)" created
    ! call Container.Inspect '{"name": "boot-rm"}' 2>/dev/null || fail "a container to be removed at its end is still there"
    equal "failed units" "$(systemctl --failed --no-legend | grep -c dormouse)" 0
}

check_containers_were_stopped_cleanly_at_shutdown() {
    # It writes this when SIGTERM comes; SIGKILL would have left nothing.
    grep -q 'got SIGTERM' /var/lib/vm-checks/last-words
}

check_package_is_removed_cleanly() {
    dpkg --purge dormouse
    equal "what is left in /var/lib and /run" "$(ls -d /var/lib/dormouse /run/dormouse 2>/dev/null)" ""
    ! systemctl list-unit-files 'dormouse*' --no-legend | grep . || fail "units are left"
    ! systemctl list-units --all 'dormouse*' --no-legend | grep . || fail "units are loaded still"
    ! grep -q dormouse /proc/self/mountinfo || fail "mounts are left"
    ! find /sys/fs/cgroup -name '*dormouse*' | grep . || fail "cgroups are left"
    ! pgrep --list-full dormouse || fail "processes are left"
}
