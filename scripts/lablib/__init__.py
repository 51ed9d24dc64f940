"""The lab: a real Xen with a Linux PV dom0 under QEMU's TCG, from Debian packages that are never installed.

    errors      what ends a command, with its exit code
    progress    what the user sees while waiting (standard error only)
    places      where the cache and the running labs live
    packages    which Debian packages and which of their files a lab needs: data
    sources     the machine's own apt sources, read and rewritten for another suite
    apt         apt with a private tree
    cache       downloaded and unpacked suites
    initramfs   dom0's user space
    machine     QEMU: command line, start, identity of the process, end
    qmp         QEMU's control socket
    labs        the running labs: their facts on disk
    boot        waiting for dom0
    dump        machine memory to an ELF core
    livedump    the same from a machine that keeps running
    verbs, cli  what the user types
"""
