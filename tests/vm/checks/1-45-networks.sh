# Networks by the netavark of Debian 13, which writes its rules with nftables: real traffic, and no trace of it afterwards.

# What is of containers in the host's network: interfaces, rules, namespaces.
network_traces() {
    ip -o link | grep -E 'podman|dormouse|veth' | cut -d: -f2 || true
    nft list ruleset | grep -E 'netavark.*(dnat|DNAT|10\.|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)' || true
    ls /run/dormouse/netns
}

# served NAME NETWORK [OPTION...]: answers each connection to its port 80 with its name.
served() {
    local name=$1 network=$2
    shift 2
    dormouse run --detach --name "$name" --network "$network" "$@" busybox \
        sh -c "trap 'exit 0' TERM; nc -ll -p 80 -e echo i am $name & wait; sleep 1000"
}

# hears CONTAINER ADDRESS: what a container hears from a server.
hears() {
    dormouse exec "$1" sh -c "nc -w 3 $2 80 </dev/null"
}

said() {
    [ "$("${@:2}")" = "$1" ]
}

check_containers_reach_each_other_and_are_reached_by_published_ports() {
    remove_at_end web beside far lonely
    dormouse network create --ipv6 one
    dormouse network create two
    served web one --publish 8080:80 --network-alias www
    dormouse run --detach --name beside --network one busybox sleep 1000
    dormouse run --detach --name far --network two busybox sleep 1000
    dormouse run --detach --name lonely --network none busybox sleep 1000
    local four six
    four=$(get web 'addresses[]' | grep -F .)
    six=$(get web 'addresses[]' | grep -F :)
    # From the host: by the published port and by both addresses.
    within 20 said 'i am web' nc_host 127.0.0.1 8080
    within 20 said 'i am web' nc_host "$four" 80
    within 20 said 'i am web' nc_host "$six" 80
    equal "the port" "$(dormouse port web)" "80/tcp -> 0.0.0.0:8080"
    # From beside: by name, by alias and by address, of both kinds.
    local name
    for name in web www "$four" "$six"; do
        within 20 said 'i am web' hears beside "$name"
    done
    # Not from another network, nor from none.
    for name in web "$four" "$six"; do
        ! hears far "$name" || fail "web is heard on another network by $name"
    done
    ! hears lonely "$four" || fail "web is heard without a network"
    equal "the routes of none" "$(dormouse exec lonely ip route)" ""
    dormouse rm --force web beside far lonely
    dormouse network rm one two
    equal "what is left" "$(network_traces)" ""
}

# nc_host ADDRESS PORT: what the host hears from a server.
nc_host() {
    timeout 5 bash -c "exec 3<>/dev/tcp/$1/$2 && cat <&3"
}

check_datagrams_come_through_a_published_port() {
    remove_at_end echoes
    dormouse run --detach --name echoes --publish 5353:53/udp busybox sleep 1000
    # busybox has no server of datagrams: one of the host's, in the container's network.
    nsenter --target "$(get echoes pid)" --net timeout 60 perl -MSocket -e '
        socket(my $s, PF_INET, SOCK_DGRAM, 0); bind($s, sockaddr_in(53, INADDR_ANY)) or die;
        while (my $from = recv($s, my $text, 1500, 0)) { send($s, $text, 0, $from) }' &
    udp() { timeout 5 bash -c 'exec 3<>/dev/udp/127.0.0.1/5353 && echo ping >&3 && head -n 1 <&3'; }
    within 20 said ping udp
    kill %1
    dormouse rm --force echoes
    dormouse network rm dormouse
    equal "what is left" "$(network_traces)" ""
}

check_a_taken_port_is_told_before_the_container_starts() {
    remove_at_end first second
    served first dormouse --publish 8081:80
    ! dormouse run --detach --name second --publish 8081:80 busybox sleep 1000 2>/tmp/refused ||
        fail "one port leads to two containers"
    grep -q 8081 /tmp/refused && grep -q first /tmp/refused
    dormouse rm --force first
    dormouse network rm dormouse
}

check_many_containers_at_once_leave_no_trace() {
    remove_at_end $(seq -f 'many-%g' 20)
    local number
    for number in $(seq 20); do
        dormouse run --rm --name "many-$number" busybox ip route >/tmp/many-$number &
    done
    wait
    for number in $(seq 20); do
        grep -q '^default via' /tmp/many-$number
    done
    dormouse network rm dormouse
    equal "what is left" "$(network_traces)" ""
}

check_a_killed_container_gives_its_port_and_address_back() {
    remove_at_end killed next
    served killed dormouse --publish 8082:80
    local address
    address=$(get killed 'addresses[0]')
    systemctl kill --signal=KILL dormouse-killed.scope
    systemctl stop dormouse.service
    within 20 eval '[ "$(get killed pid)" = null ]'
    dormouse rm --force killed
    served next dormouse --publish 8082:80
    within 20 said 'i am next' nc_host 127.0.0.1 8082
    dormouse rm --force next
    dormouse network rm dormouse
    equal "what is left" "$(network_traces)" ""
}

check_a_machine_that_is_ready_answers_at_its_published_port_at_the_first_try() {
    remove_at_end site
    dormouse run --detach --name site --publish 8083:80 --wait ready --timeout 200 \
        --rootfs /var/lib/machines/trixie /sbin/init
    curl --silent --fail --max-time 20 http://localhost:8083/ | grep -q nginx
    dormouse stop site
    equal "the exit code" "$(get site exitCode)" 0
}
