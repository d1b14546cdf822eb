# The package installs as a package does.

check_prepares_host_is_what_it_should_be() {
    equal "PID 1" "$(cat /proc/1/comm)" systemd
    equal "the file system of cgroups" "$(stat -f -c %T /sys/fs/cgroup)" cgroup2fs
    [ "$(systemctl --version | sed -n 's/^systemd \([0-9]*\).*/\1/p')" -ge 257 ]
    equal "failed units" "$(systemctl --failed --no-legend | wc -l)" 0
}

check_prepares_package_installs_and_the_socket_listens() {
    dpkg --install "$CHECKS/dormouse.deb"
    equal "the socket" "$(systemctl is-active dormouse.socket)" active
    equal "the socket at boot" "$(systemctl is-enabled dormouse.socket)" enabled
    equal "the service" "$(systemctl is-active dormouse.service)" inactive
    equal "the mode of the socket" "$(stat -c %a $S)" 600
    systemd-analyze verify --man=no /usr/lib/systemd/system/dormouse*.{service,socket,slice}
}

check_prepares_image_for_everything_small() {
    dormouse import /usr/local/share/busybox.tar busybox
    dormouse images | grep busybox
}
