#!/bin/bash
# The first process, in the host's root: makes a usual Linux of it, runs the command, and ends the machine with its code.
# From the kernel's command line: MTCP_VM, a directory with `command` and `packages`; MTCP_VM_KERNEL, the unpacked kernel.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb MTCP_VM MTCP_PATIENCE=10
PATH=$PATH:/usr/lib/openvswitch-switch # where Debian's package has ovs-vswitchd, before its installation makes a link
port=$(echo /dev/vport*p1)

end() { # the machine, with this code
    printf "\\$(printf %o "$1")" | dd of=/dev/port bs=1 seek=$((0xf4)) status=none
}

prepare() {
    for directory in /run /tmp /dev/shm; do mkdir -p $directory && mount -t tmpfs -o mode=1777 tmpfs $directory; done
    mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    hostname vm
    ip link set lo up
    modules=/lib/modules/$(uname -r)
    mkdir -p "$modules" && mount --bind "$MTCP_VM_KERNEL$modules" "$modules"
    while read -r package; do dpkg-deb --fsys-tarfile "$package" | tar -x -C / --keep-directory-symlink; done <"$MTCP_VM/packages"
    # Some systems allow only what they know to be harmless: unprivileged users, not us.
    modprobe -a openvswitch sch_netem
}

{ (set -e; prepare; bash "$MTCP_VM/command") </dev/null 2>&1; echo $? >/run/code; } | cat >"$port"
end "$(cat /run/code)"
