#!/bin/busybox sh
# The first process, in the initrd: the host's root, read-only, with a layer of memory over it, becomes our root.
set -e
PATH=/bin
/bin/busybox --install /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module"; done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=262144 host /host
mount -t tmpfs -o size=75% memory /upper
mkdir /upper/new /upper/work
mount -t overlay -o lowerdir=/host,upperdir=/upper/new,workdir=/upper/work root /root
for directory in proc sys dev; do mount --move "/$directory" "/root/$directory"; done
exec switch_root /root "$MTCP_VM_GUEST"
