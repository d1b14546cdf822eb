# systemd's own varlink client against the socket.

check_varlinkctl_tells_what_the_service_is() {
    varlinkctl info $S | shows dormouse
    equal interfaces "$(varlinkctl list-interfaces $S | grep -c '^io\.dormouse\.')" \
        "$(ls /usr/share/dormouse/interfaces/io.dormouse.* | wc -l)"
    varlinkctl list-methods $S io.dormouse.Container | grep -q 'io.dormouse.Container.Create'
}

check_varlinkctl_finds_every_interface_valid() {
    local interface
    for interface in $(varlinkctl list-interfaces $S); do
        varlinkctl introspect $S "$interface" >/tmp/described
        varlinkctl validate-idl /tmp/described
    done
    for file in /usr/share/dormouse/interfaces/*; do
        varlinkctl validate-idl "$file"
    done
}

check_varlinkctl_calls_and_streams() {
    remove_at_end c1
    call Container.Create '{"spec": {"image": "busybox", "name": "c1", "networkNamespace": {"kind": "private"}, "command": ["sleep", "1000"]}}'
    call Container.Start '{"name": "c1"}'
    equal state "$(call Container.List | jq -r '.containers[] | select(.name == "c1") | .state')" running
    # A stream: the list first, then what changes.
    varlinkctl --json=short --more call $S io.dormouse.Container.List '{}' >/tmp/stream &
    local stream=$!
    within 20 test -s /tmp/stream
    call Container.Stop '{"name": "c1", "timeoutUSec": 0}'
    within 20 grep -q exited /tmp/stream
    kill $stream
    # All replies of a stream that ends, as one.
    varlinkctl --json=short --collect call $S io.dormouse.Container.Logs '{"name": "c1"}' | jq -e 'type == "array"'
    # An error is an error.
    ! varlinkctl call $S io.dormouse.Container.Start '{"name": "nobody"}' 2>/tmp/refused || fail "it was no error"
    grep -q NotFound /tmp/refused
    varlinkctl --json=short --graceful=io.dormouse.Container.NotFound call $S io.dormouse.Container.Start '{"name": "nobody"}'
}
