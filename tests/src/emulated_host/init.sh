#!/bin/busybox sh
# Process 1 of the emulated host: sets the machine up, runs the cases in /cases one after the other,
# writes what became of each to the second serial port, and switches the machine off.
# The first serial port is the console; nothing but results goes to the second:
#   ready | begin <index> | end <index> exit|timeout <status> <bytes>, then so many bytes | done
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/usr/local/bin:/usr/bin:/usr/sbin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo "+cpuset +cpu" >/sys/fs/cgroup/cgroup.subtree_control
ip link set lo up
for module in /modules/*.ko; do
    insmod "$module"
done
stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1

keep=131072 # bytes kept from each end of a long output

cut_output() { # file
    bytes=$(wc -c <"$1")
    if [ "$bytes" -le $((2 * keep)) ]; then
        cat "$1"
    else
        head -c $keep "$1"
        printf '\n[... %d bytes left out ...]\n' $((bytes - 2 * keep))
        tail -c $keep "$1"
    fi
}

run_case() { # index
    echo "case: $(cat /cases/"$1".name)"
    echo "begin $1" >&3
    rm -f /run/.timeout
    # A session of its own makes the case a process group that can be ended as a whole.
    setsid sh /cases/"$1".sh >/run/.output 2>&1 </dev/null &
    case=$!
    setsid sh -c "sleep $(cat /cases/"$1".limit); : >/run/.timeout; kill -KILL -$case" &
    watch=$!
    wait $case
    status=$?
    # By its own number too: it may not have come as far as leading a group.
    kill -KILL $watch
    kill -KILL -$watch 2>/dev/null
    wait $watch
    kill -KILL -$case 2>/dev/null
    how=exit
    [ ! -e /run/.timeout ] || how=timeout
    cut_output /run/.output >/run/.report
    echo "end $1 $how $status $(wc -c </run/.report)" >&3
    cat /run/.report >&3
}

echo ready >&3
index=0
while [ -e /cases/$index.sh ]; do
    run_case $index
    index=$((index + 1))
done
echo "done" >&3
exec 3>&-
poweroff -f
