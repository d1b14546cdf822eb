# The second door: io.podman, off until it is enabled.

P=/run/podman/io.podman

check_the_door_of_podman_opens_while_the_service_is_awake_and_closes_again() {
    trap 'systemctl disable --now dormouse-podman.socket dormouse-podman.service' EXIT
    equal "the door after installation" "$(systemctl is-enabled dormouse-podman.socket || true)" disabled
    call Manager.Version
    systemctl enable --now dormouse-podman.socket
    equal "the mode of the socket" "$(stat -c %a $P)" 600
    equal "its alias" "$(systemctl is-active io.podman.socket)" active
    asks() { varlinkctl --json=short call $P "io.podman.$1" "${2:-{\}}"; }
    asks GetVersion | jq -e '.version == "1.9.3"'
    equal "who has answered" "$(systemctl is-active dormouse-podman.service)" active
    # The same containers by both doors.
    call Container.Create '{"spec": {"image": "busybox", "name": "both", "networkNamespace": {"kind": "private"}, "command": ["sleep", "1000"]}}'
    asks StartContainer '{"name": "both"}'
    equal state "$(get both state)" running
    equal "the cgroup" "$(get both cgroup)" /dormouse.slice/dormouse-both.scope/payload
    asks RemoveContainer '{"name": "both", "force": true, "removeVolumes": false}'
    asks GetInfo | jq -e .info.host
    systemctl disable --now dormouse-podman.socket
    test ! -e $P
}
